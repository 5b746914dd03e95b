"""Notifications in a real Airflow whose triggerer and broker are killed on the way.

Minutes long, so only with `DERMASCAN_KAFKA=1`; `tests/test_notifications.py` has the short one.
"""

import json
import os
import time

import pytest
from broker import TOPIC, broker_in, notification
from stacks import kill, runs_of, second_triggerer, stack_in, wait_until

from dermascan.settings import KAFKA_CONNECTION, KAFKA_TOPIC
from dermascan.stack.embedded import UpRequest
from dermascan.storage import Store

FOLDERS = 12
NEVER = "100000"

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        os.environ.get("DERMASCAN_KAFKA") != "1",
        reason="starts a second Airflow for minutes: run it after a change to the notifications, "
        "or of the versions of Airflow and its Kafka provider",
    ),
]


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    embedded = stack_in(tmp_path_factory.mktemp("stack") / "state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DERMASCAN_INCOMING_POLL_SECONDS", NEVER)
        patch.setenv(KAFKA_TOPIC, TOPIC)
        embedded.up(UpRequest(isic_url="http://127.0.0.1:9"))
        yield embedded
        embedded.down()


@pytest.fixture(scope="module")
def bucket(stack) -> Store:
    return Store(stack.storage_settings())


@pytest.fixture(scope="module")
def broker(stack, tmp_path_factory):
    settings = stack.storage_settings().model_copy(update={"bucket": "broker"})
    Store(settings).ensure_bucket()
    with broker_in(settings, tmp_path_factory.mktemp("broker") / "log", partitions=2) as it:
        connection = {"connection_id": KAFKA_CONNECTION, "conn_type": "kafka"}
        with stack.airflow_api() as api:
            api.create_connection({**connection, "extra": json.dumps(it.extra())})
        yield it


def drop(bucket: Store, batch: str, number: int) -> bytes:
    folder = f"incoming/{batch}-{number}"
    bucket.put(f"{folder}/no-image.jpg", b"no image")
    bucket.put(f"{folder}/_READY", b"")
    return notification(bucket.bucket, f"{folder}/no-image.jpg", f"{folder}/_READY")


def started(stack, batch: str) -> list[str]:
    prefixes = (run["conf"]["prefix"] for run in runs_of(stack, "batch_inference"))
    return sorted(prefix for prefix in prefixes if f"incoming/{batch}-" in prefix)


def require_one_run_each(stack, bucket: Store, batch: str, folders: int) -> None:
    wait_until(lambda: len(started(stack, batch)) >= folders, 600, "a folder has no run")
    wait_until(lambda: not any(bucket.list("incoming-watch/pending/")), 300, "a claim is left")
    time.sleep(20)
    everything = sorted(bucket.address(f"incoming/{batch}-{n}/") for n in range(folders))
    assert started(stack, batch) == everything


def test_each_folder_has_one_run_though_triggerer_and_broker_are_killed(stack, bucket, broker):
    begun = time.monotonic()
    broker.send(b"garbage", drop(bucket, "killed", 0), times=2)
    wait_until(lambda: bool(started(stack, "killed")), 180, "no folder is started")
    print(f"first run after {time.monotonic() - begun:.0f} s")  # noqa: T201
    for number in range(1, FOLDERS):
        broker.send(drop(bucket, "killed", number), times=2)
        if number == FOLDERS // 3:
            kill(stack, "triggerer")
            stack.up(UpRequest())
        if number == 2 * FOLDERS // 3:
            broker.kill()
            time.sleep(5)
            broker.start()

    require_one_run_each(stack, bucket, "killed", FOLDERS)


def test_each_folder_has_one_run_though_two_triggerers_read(stack, bucket, broker):
    with second_triggerer(stack) as (_, log):
        first = stack._records()["triggerer"]
        for number in range(FOLDERS):
            broker.send(drop(bucket, "doubled", number), times=2)
            if number == FOLDERS // 2:
                kill(stack, "triggerer")  # so that the second takes over
        wait_until(lambda: "Trigger fired event" in log.read_text(), 300, "the second is silent")
        stack.up(UpRequest())
        assert stack._records()["triggerer"] != first
        require_one_run_each(stack, bucket, "doubled", FOLDERS)
