"""Every task of every DAG, killed at its calls to object storage and run again.

`DERMASCAN_CRASH_SWEEP=all` sweeps every point; without it a few of each task are swept, chosen
evenly among those that leave the bucket in another state.
"""

import os
import shutil
import uuid
from itertools import product

import pytest
from archives import isic_id, row, serving, write_folder
from reliability.dag_tasks import TASKS, Chain
from reliability.killing_proxy import Kill, killing_proxy
from reliability.objects import differences, go_back
from reliability.sweep import all_points, sampled_points, sweep
from reliability.task_runner import PROJECT, task_runner

from dermascan.storage import PART_BYTES, Store

IMAGES = 32
ALL = os.environ.get("DERMASCAN_CRASH_SWEEP") == "all"
SLOW = {"train": 1, "evaluate": 1, "gate": 1, "predict": 1, "promote": 2, "validate": 1}
MOST = 3
WAIT_FOR_A_PERSON = {"train_model.approval", "rollback_model.choose"}
STARTS_A_RUN = {"watch_incoming.start"}  # by an operator of Airflow's, which calls no storage
GATE = """
rules:
  - name: enough images
    metric: images
    comparison: at_least
    threshold: 1
    why: the sweep wants any model to pass
"""

pytestmark = pytest.mark.timeout(36_000 if ALL else 900)


@pytest.fixture(scope="module")
def chain(storage_settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("crash")
    settings = storage_settings.model_copy(update={"bucket": f"crash-{uuid.uuid4().hex[:12]}"})
    store = Store(settings)
    store.ensure_bucket()
    refused = {f"{isic_id(IMAGES)}.jpg": b"\xff\xd8\xff\xe0 cut short"}
    write_folder(folder / "archive", [row(number) for number in range(IMAGES + 1)], refused)
    shutil.copytree(PROJECT / "include", folder / "include")
    (folder / "include" / "gate.yaml").write_text(GATE)
    with (
        serving(folder / "archive") as url,
        killing_proxy(settings.endpoint_url) as proxy,
        task_runner(proxy, settings, url, folder / "include", folder) as runner,
    ):
        yield Chain(store, runner, TASKS)


def test_every_task_of_every_dag_is_swept(chain):
    tasks = chain.runner.tasks()

    assert {name for name, has_body in tasks.items() if has_body} == {
        f"{task.dag}.{task.task}" for task in TASKS
    }
    assert {name for name, has_body in tasks.items() if not has_body} == (
        WAIT_FOR_A_PERSON | STARTS_A_RUN
    )


@pytest.mark.parametrize("name", [task.name for task in TASKS])
def test_task_when_killed_and_run_again_leaves_what_an_undisturbed_run_leaves(chain, name):
    stage = chain.stage(name)
    most = SLOW.get(stage.order.task, MOST)
    points = all_points(stage) if ALL else sampled_points(stage, most)

    found = list(sweep(chain, stage, points))

    calls = len(stage.undisturbed.calls)
    print(f"{name}: {calls} calls, {len(points)} kill points, {len(found)} findings")  # noqa: T201  # shown by -s
    assert [str(finding) for finding in found] == []


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("ingest_isic.publish_manifest", "dataset pointer before manifest"),
        ("train_model.promote", "manifest before files"),
        ("train_model.promote", "champion before upload"),
        ("batch_inference.summarise", "success before results"),
    ],
)
def test_sweep_when_something_is_published_too_early_finds_it(chain, name, broken):
    stage = chain.stage(name)
    points = sampled_points(stage, len(stage.undisturbed.calls))

    found = sweep(chain, stage, points, broken=broken)

    assert next(found, None) is not None


def test_train_when_killed_in_the_middle_of_an_epoch_repeats_that_epoch_alone(chain):
    stage = chain.stage("train_model.train")
    go_back(chain.store, stage.before)
    assert chain.runner.run(stage.order, dies_in_epoch=2).killed

    again = chain.runner.run(stage.order)

    epochs = [call.key.rsplit("/", 1)[-1] for call in again.calls if call.method == "PUT"]
    assert [name for name in epochs if name.startswith("epoch-")] == ["epoch-0002.npz"]
    assert differences(chain.store, stage.after) == []


def test_put_file_in_parts_when_killed_at_any_call_leaves_the_old_object_or_the_new_one(
    chain, tmp_path
):
    old, new = b"old" * 10, bytes(PART_BYTES) + b"new"
    (tmp_path / "file").write_bytes(new)
    calls = len(chain.runner.put_file("large/undisturbed", tmp_path / "file").calls)
    seen = []

    for call, moment in product(range(1, calls + 1), ("before", "after")):
        chain.store.put("large/file", old)
        assert chain.runner.put_file("large/file", tmp_path / "file", Kill(call, moment)).killed
        seen.append(chain.store.get("large/file"))

    assert calls >= 4, "a file of two parts is begun, sent and completed"
    assert seen == [old] * (2 * calls - 1) + [new]
