"""The pipeline on Celery's workers, as docker-compose.yml starts them, while workers are killed.

`DERMASCAN_COMPOSE=all` runs the whole pipeline; without it there is an ingest.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from compose.conftest import IMAGES
from compose.processes import Host, Instance
from reliability import objects

from dermascan.dataset import read_pointer
from dermascan.registry import champion
from dermascan.stack.airflow_api import AirflowApi, Run
from dermascan.stack.runs import ENDED, RunOutcome, trigger, wait_for_dag, watch

ALL = os.environ.get("DERMASCAN_COMPOSE") == "all"
RUN_SECONDS = 600
BY_TIME = ("predictions/_finished/", "predictions/_latest/")  # named by when a run ended
INGEST = {"dataset": "drawn", "start_training": False}
SMALL = {"architecture": "small_cnn", "networks": 1, "epochs": 1, "image_size": "48x64"}

pytestmark = pytest.mark.timeout(1800)


class Silent:
    def started(self, run, url):
        pass

    def progressed(self, tasks, changed):
        pass


def begin(api: AirflowApi, dag_id: str, **conf) -> Run:
    return trigger(api, wait_for_dag(api, dag_id), conf)


def end_of(api: AirflowApi, run: Run) -> RunOutcome:
    outcome = watch(api, run, Silent(), timeout=RUN_SECONDS)
    assert outcome.succeeded, outcome.failed
    return outcome


def worker_of(host: Host, api: AirflowApi, run: Run, task_id: str) -> Instance:
    """Wait until a task runs, and return the worker on which it does."""
    deadline = time.monotonic() + RUN_SECONDS
    while time.monotonic() < deadline:
        entries = api._pages(
            f"/dags/{run.dag_id}/dagRuns/{run.dag_run_id}/taskInstances", "task_instances"
        )
        for entry in entries:
            if entry["task_id"] == task_id and entry["state"] == "running" and entry["pid"]:
                session = os.getsid(entry["pid"])
                return next(w for w in host.instances if w.records and w.records[-1].pid == session)
        assert api.run(run.dag_id, run.dag_run_id).state not in ENDED, f"{task_id} did not run"
        time.sleep(0.2)
    raise AssertionError(f"{task_id} does not run")


def tries_of(outcome: RunOutcome, task_id: str) -> int:
    """Return the tries of the shard that needed most."""
    return max(task.try_number for task in outcome.tasks if task.task_id == task_id)


def log_of(api: AirflowApi, outcome: RunOutcome, label: str) -> str:
    (task,) = [task for task in outcome.tasks if task.label == label]
    return "\n".join(api.log_lines(outcome.dag_id, outcome.run_id, task))


@pytest.fixture(scope="module")
def ingested(api, bucket) -> RunOutcome:
    return end_of(api, begin(api, "ingest_isic", **INGEST))


def test_log_of_a_task_that_ended_is_read_from_object_storage(host, api, bucket, ingested):
    assert f"{IMAGES} images" in log_of(api, ingested, "plan")
    kept = [found.key for found in bucket.in_bucket("airflow-logs").list("tasks/")]
    assert any("task_id=plan" in key for key in kept)
    assert not [path for w in host.of("worker") for path in w.folder.rglob("task_id=plan/*.log")]


def test_ingest_when_a_worker_is_killed_ends_with_the_objects_of_an_undisturbed_one(
    host, api, bucket, turnstile, ingested
):
    expected = objects.take(bucket)
    bucket.delete([found.key for found in bucket.list("")])
    turnstile.shut()
    run = begin(api, "ingest_isic", **INGEST)
    turnstile.wait_for_somebody(RUN_SECONDS)
    worker = worker_of(host, api, run, "shard.download_from_isic")
    worker.kill()
    turnstile.open()
    disturbed = end_of(api, run)
    host.launch(worker)

    assert tries_of(disturbed, "shard.download_from_isic") > 1
    assert objects.differences(bucket, expected) == []
    assert read_pointer(bucket, "drawn").images == IMAGES


def test_airflow_finds_what_it_needs_after_the_setup(api, variables):
    archive = api.connection("isic_archive")

    assert archive
    assert archive.host == variables["DERMASCAN_ISIC_URL"]
    assert api.connection("dermascan_s3")
    assert api._call("GET", "/pools/training")["slots"] == 1


def test_object_storage_refuses_who_shows_no_key(host, bucket):
    address = f"{host.url('seaweedfs', 9000)}/{bucket.bucket}/?list-type=2"

    assert httpx.get(address, trust_env=False).status_code == httpx.codes.FORBIDDEN


def tracked_page(api: AirflowApi, outcome: RunOutcome) -> str:
    place = f"/dags/{outcome.dag_id}/dagRuns/{outcome.run_id}/taskInstances/train/links"
    return str(api._call("GET", place)["extra_links"]["MLflow run"])


@contextmanager
def standing_still(instance: Instance) -> Iterator[None]:
    """Let a service answer nobody for a while."""
    members = instance.members()
    for process in members:
        process.suspend()
    try:
        yield
    finally:
        for process in members:
            process.resume()


@pytest.mark.skipif(not ALL, reason="trains a model: minutes, by DERMASCAN_COMPOSE=all")
def test_pipeline_when_workers_are_killed_trains_and_predicts_as_an_undisturbed_one(
    host, api, bucket, ingested
):
    training = begin(api, "train_model", dataset="drawn", **SMALL)
    trainer = worker_of(host, api, training, "train")
    trainer.kill()
    host.launch(trainer)
    trained = end_of(api, training)
    assert trainer.service.name == "worker-train"
    assert tries_of(trained, "train") > 1
    assert champion(bucket, "dermascan")
    assert tracked_page(api, trained).startswith(host.url("mlflow", 5000))

    before = objects.take(bucket)
    prefix = "raw/drawn/images/"
    end_of(api, begin(api, "batch_inference", prefix=prefix))
    expected = objects.take(bucket)
    objects.go_back(bucket, before)
    run = begin(api, "batch_inference", prefix=prefix)
    worker_of(host, api, run, "predict")
    (store,) = host.of("seaweedfs")
    with standing_still(store):  # so that it cannot have ended
        worker = worker_of(host, api, run, "predict")
        worker.kill()
    disturbed = end_of(api, run)
    host.launch(worker)

    assert tries_of(disturbed, "predict") > 1
    found = objects.differences(bucket, expected)
    assert [line for line in found if not line.startswith(BY_TIME)] == []
    assert len(list(bucket.list("predictions/_latest/"))) == 1
    host.wait_until_healthy()
