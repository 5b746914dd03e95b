"""Runs DAG tasks in child processes whose calls to object storage are counted."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from reliability.killing_proxy import Call, Kill, KillingProxy
from stacks import connection_to

from dermascan.settings import StorageSettings

PROJECT = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("task_worker.py")
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "CUDA_VISIBLE_DEVICES": "",
}


class TaskFailedError(Exception):
    """A task ended with an error; the message is the end of its log."""


@dataclass(frozen=True)
class Order:
    """One try of one task.

    Attributes:
        dag, task: which.
        params: of the run, besides the DAG's defaults.
        arguments: what the tasks before it returned.
    """

    dag: str
    task: str
    params: Mapping[str, Any] = field(default_factory=dict)
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Ended:
    """How a try ended: what it returned, None if it was killed, and what it called."""

    killed: bool
    result: Any
    calls: tuple[Call, ...]


class TaskRunner:
    """Starts a child for each try and, if asked to, kills it at one of its calls."""

    def __init__(
        self, worker: "subprocess.Popen[str]", proxy: KillingProxy, include: Path, log: Path
    ) -> None:
        self._worker, self._proxy, self._include, self._log = worker, proxy, include, log
        assert self._line() == "ready"

    def run(
        self,
        order: Order,
        kill: Kill | None = None,
        *,
        broken: str | None = None,
        dies_in_epoch: int | None = None,
    ) -> Ended:
        """Run a task once.

        Args:
            order: which task, with what.
            kill: at which call to kill it, None to let it end.
            broken: name of a deliberate fault in `reliability.broken`.
            dies_in_epoch: number of an epoch in which the process kills itself.

        Raises:
            TaskFailedError: it ended with an error of its own.
        """
        return self._ended(
            kill,
            "run",
            **{**asdict(order), "include": str(self._include)},
            broken=broken,
            dies_in_epoch=dies_in_epoch,
        )

    def put_file(self, key: str, path: Path, kill: Kill | None = None) -> Ended:
        """Write a file as one object, and end at a call if asked to."""
        return self._ended(kill, "put_file", key=key, path=str(path))

    def _ended(self, kill: Kill | None, kind: str, **order: Any) -> Ended:
        self._proxy.arm(kill)
        status, result = self._child(kind, **order)
        calls = tuple(self._proxy.calls)
        if status == -signal.SIGKILL and (self._proxy.killed or order.get("dies_in_epoch")):
            return Ended(True, None, calls)
        if status:
            raise TaskFailedError(f"{order.get('task', kind)} ended with {status}:\n{self._tail()}")
        return Ended(False, json.loads(result), calls)

    def tasks(self) -> dict[str, bool]:
        """Say of each task, named `dag.task`, whether it has a body, see `task_worker`."""
        return self._answer("describe")

    def digest(self, folder: Path) -> dict[str, str]:
        """Say what a SavedModel is, see `task_worker.digest`."""
        return self._answer("digest", folder=str(folder))

    def _answer(self, kind: str, **order: Any) -> dict[str, Any]:
        status, result = self._child(kind, **order)
        if status:
            raise TaskFailedError(f"{kind} ended with {status}:\n{self._tail()}")
        return json.loads(result)

    def _child(self, kind: str, **order: Any) -> tuple[int, str]:
        assert self._worker.stdin
        self._worker.stdin.write(json.dumps({"kind": kind, **order}) + "\n")
        self._worker.stdin.flush()
        self._proxy.aim(int(self._line()))
        ended = json.loads(self._line())
        return ended["exit"], ended["result"]

    def _line(self) -> str:
        assert self._worker.stdout
        line = self._worker.stdout.readline()
        if not line:
            raise TaskFailedError(f"the worker died:\n{self._tail()}")
        return line.strip()

    def _tail(self) -> str:
        return self._log.read_text(errors="replace")[-6000:]


@contextmanager
def task_runner(
    proxy: KillingProxy, settings: StorageSettings, archive: str, include: Path, folder: Path
) -> Iterator[TaskRunner]:
    """Start the worker.

    Args:
        proxy: in front of the S3 server.
        settings: of the bucket.
        archive: address of the archive that `ingest_isic` reads.
        include: folder of suites and gate rules, as `include/`.
        folder: for Airflow's own files and the log.
    """
    log = folder / "tasks.log"
    log.touch()
    command = [sys.executable, str(WORKER), str(log)]
    with (
        log.open("ab") as errors,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=_environment(proxy.url, settings, archive, folder),
            start_new_session=True,
        ) as worker,
    ):
        try:
            yield TaskRunner(worker, proxy, include, log)
        finally:
            os.killpg(worker.pid, signal.SIGKILL)  # a task that hangs too


def _environment(
    endpoint: str, settings: StorageSettings, archive: str, folder: Path
) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if "MLFLOW" not in name}
    return {
        **inherited,
        **ONE_THREAD,
        "PYTHONPATH": os.pathsep.join([str(PROJECT), str(PROJECT / "tests")]),
        "AIRFLOW_HOME": str(folder / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW_CONN_DERMASCAN_S3": connection_to(settings, endpoint),
        "AIRFLOW_CONN_ISIC_ARCHIVE": json.dumps({"conn_type": "http", "host": archive}),
    }
