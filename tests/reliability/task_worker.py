"""A program that runs the bodies of DAG tasks, each in a child process of its own.

What is heavy is imported once, here; nothing runs before the fork, so that no thread is lost by
it. It reads one order a line from standard input and answers with the child's number, then with
how the child ended.
"""

import importlib
import json
import logging
import os
import pkgutil
import signal
import sys
import traceback
from datetime import UTC, datetime, tzinfo
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

DAGS = Path(__file__).parents[2] / "dags"
PLUGINS = DAGS.with_name("plugins")
HEAVY = (
    "great_expectations",
    "keras",
    "matplotlib.figure",
    "onnxruntime",
    "pyarrow.dataset",
    "tensorflow",
    "tf2onnx.convert",
)
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


class StandingClock(datetime):
    """A clock that stands still, so that what two runs write can be compared."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:
        return NOW.astimezone(tz)


def prepare() -> None:
    import boto3  # noqa: PLC0415  # after the environment is known

    import dermascan  # noqa: PLC0415  # likewise

    for name in HEAVY:
        importlib.import_module(name)
    for module in pkgutil.walk_packages(dermascan.__path__, "dermascan."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    boto3.client("s3", region_name="us-east-1")  # reads the service's description once
    for name, loaded in list(sys.modules.items()):
        if name.startswith("dermascan") and getattr(loaded, "datetime", None) is datetime:
            loaded.datetime = StandingClock  # type: ignore[attr-defined]  # just seen there
    sys.path[:0] = [str(DAGS), str(PLUGINS)]
    for dag in dag_ids():
        dag_of(dag)


def dag_ids() -> list[str]:
    return sorted(path.stem for path in DAGS.glob("*.py") if "\n@dag(" in path.read_text())


def dag_of(dag_id: str) -> Any:
    return getattr(importlib.import_module(dag_id), dag_id)()


def body_of(operator: Any) -> Any:
    """Return a task's Python function, None if it has none."""
    partial = getattr(operator, "partial_kwargs", {})
    return partial.get("python_callable") or getattr(operator, "python_callable", None)


def describe() -> dict[str, bool]:
    """Say of each task of each DAG whether it has a body, or only waits for a person."""
    return {
        f"{dag_id}.{task.task_id}": body_of(task) is not None
        for dag_id in dag_ids()
        for task in dag_of(dag_id).tasks
    }


def digest(folder: Path) -> dict[str, Any]:
    """Say what a SavedModel is, in whatever order its files hold it.

    Returns:
        The SHA-256 of each variable by name, and of what it says of four images.
    """
    import numpy as np  # noqa: PLC0415  # after prepare()
    import tensorflow as tf  # noqa: PLC0415  # likewise

    loaded = tf.saved_model.load(str(folder))
    score = loaded.signatures["serve_uint8"]
    _, height, width, _ = score.structured_input_signature[1]["images"].shape
    shape = (4, height or 32, width or 48, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    said = score(images=tf.constant(images))
    arrays = {v.name: v.numpy() for v in loaded.variables} | {n: t.numpy() for n, t in said.items()}
    return {name: sha256(array.tobytes()).hexdigest() for name, array in arrays.items()}


def die_in_epoch(fatal: int) -> None:
    """Make this process kill itself after the first batch of an epoch."""
    from dermascan.learning.learner import Learner  # noqa: PLC0415  # after prepare()

    train_epoch = Learner.train_epoch

    def train(learner: Any, epoch: int, told: Any) -> Any:
        def die(_: int) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        return train_epoch(learner, epoch, die if epoch == fatal else told)

    Learner.train_epoch = train  # type: ignore[method-assign]  # in this child alone


def run_task(order: dict[str, Any]) -> Any:
    from airflow.sdk.execution_time.callback_runner import (  # noqa: PLC0415  # after prepare()
        create_executable_runner,
    )
    from airflow.sdk.execution_time.context import (  # noqa: PLC0415  # likewise
        OutletEventAccessors,
        set_current_context,
    )

    if order.get("broken"):
        importlib.import_module("reliability.broken").apply(order["broken"])
    if order.get("dies_in_epoch"):
        die_in_epoch(order["dies_in_epoch"])
    dag = dag_of(order["dag"])
    importlib.import_module(order["dag"]).INCLUDE = Path(order["include"])
    events = OutletEventAccessors()
    context = {
        "params": {**dag.params.dump(), **order["params"]},
        "dag_run": SimpleNamespace(dag_id=order["dag"], run_id="sweep"),
        "outlet_events": events,
        "triggering_asset_events": {},
        "ti": SimpleNamespace(
            get_task_states=lambda *_, **__: {"sweep": {"start_0": "success"}},
            xcom_push=lambda *_: None,
            xcom_pull=lambda **_: None,
        ),
    }
    body = body_of(dag.get_task(order["task"]))
    runner = create_executable_runner(body, events, logger=logging.getLogger("sweep"))
    with set_current_context(context):
        return runner.run(*order["arguments"])


def put_file(order: dict[str, Any]) -> None:
    """Write a file as one object, as every task does."""
    from common import open_store  # noqa: PLC0415  # beside the DAGs

    open_store().put_file(order["key"], Path(order["path"]))


ORDERS = {
    "put_file": put_file,
    "run": run_task,
    "describe": lambda _: describe(),
    "digest": lambda order: digest(Path(order["folder"])),
}


def child(order: dict[str, Any], answer: int, log: int) -> None:
    code = 1
    try:
        os.dup2(log, 1)
        os.dup2(log, 2)
        result = ORDERS[order["kind"]](order)
        with os.fdopen(answer, "w") as pipe:
            json.dump(result, pipe)
        code = 0
    except BaseException:  # noqa: BLE001  # a child must never go on as its parent
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def main(log_path: Path) -> None:
    log = os.open(log_path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    answers = os.dup(1)
    os.dup2(log, 1)
    prepare()
    with os.fdopen(answers, "w", buffering=1) as out:
        out.write("ready\n")
        for line in sys.stdin:
            reading, writing = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.close(reading)
                child(json.loads(line), writing, log)
            os.close(writing)
            out.write(f"{pid}\n")
            with os.fdopen(reading) as pipe:
                result = pipe.read()
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            out.write(json.dumps({"exit": status, "result": result}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
