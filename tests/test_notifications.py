"""Messages of Kafka: which folders they announce, and that each is claimed once, come what may."""

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from broker import TOPIC, broker_in, message, notification, record
from hypothesis import given
from hypothesis import strategies as st
from notification_reader import TOLD
from stacks import connection_to, wait_until

from dermascan.errors import TransientError
from dermascan.incoming import IncomingWatcher, acknowledge, pending_claims
from dermascan.notifications import announced_folders, claim_announced
from dermascan.settings import StorageSettings
from dermascan.storage import Store

READER = Path(__file__).with_name("notification_reader.py")


def drop(store: Store, *folders: str) -> bytes:
    """Let complete folders arrive; return the notification of their markers."""
    keys = [f"incoming/{folder}/_READY" for folder in folders]
    for folder, key in zip(folders, keys, strict=True):
        store.put(f"incoming/{folder}/1.jpg", b"image")
        store.put(key, b"")
    return notification(store.bucket, *keys)


def claimed(store: Store) -> list[str]:
    return sorted(c.address.split("/incoming/")[1] for c in pending_claims(store, 1000))


# What a message announces


@pytest.mark.parametrize("name", ["clinic-a", "été 2024+x", "{{ 7 * 7 }}", "100%", "a&b=c"])
def test_folder_is_announced_by_its_marker_whatever_its_name(name):
    body = notification("mine", f"incoming/{name}/1.jpg", f"incoming/{name}/_READY")

    assert announced_folders(body) == [("mine", f"incoming/{name}/")]


def test_message_with_several_records_announces_each_folder_once():
    body = notification("mine", "incoming/a/_READY", "incoming/b/_READY", "incoming/a/_READY")

    assert announced_folders(body) == [("mine", "incoming/a/"), ("mine", "incoming/b/")]


@pytest.mark.parametrize("event", ["ObjectCreated:Put", "s3:ObjectCreated:CompleteMultipartUpload"])
def test_marker_counts_however_it_was_created_and_whoever_tells(event):
    body = notification("mine", "incoming/a/_READY", event=event)

    assert announced_folders(body) == [("mine", "incoming/a/")]


@pytest.mark.parametrize(
    "key",
    [
        "incoming/a/1.jpg",
        "incoming/_READY",
        "incoming//_READY",
        "incoming/a/b/_READY",
        "incoming/a/_READY/",
        "elsewhere/incoming/a/_READY",
        "incoming/a\x00b/_READY",
        f"incoming/{'é' * 600}/_READY",
    ],
)
def test_key_that_is_no_marker_of_a_folder_announces_nothing(key):
    assert announced_folders(notification("mine", key)) == []


def test_marker_that_was_removed_announces_nothing():
    body = notification("mine", "incoming/a/_READY", event="s3:ObjectRemoved:Delete")

    assert announced_folders(body) == []


def test_test_event_announces_nothing_and_is_no_matter_for_the_log(caplog):
    body = json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "mine"})

    assert announced_folders(body.encode()) == []
    assert announced_folders(None) == []
    assert not caplog.records


@pytest.mark.parametrize(
    "body",
    [
        b"no JSON",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"Records": "x"}',
        b"[" * 100_000,
        b'{"Records": [{"eventName": "ObjectCreated:Put", "s3": {"bucket": {}}}]}',
        b'{"Records": [{"eventName": "ObjectCreated:Put", "s3": {"object": {"key": "\\ud800"}}}]}',
    ],
)
def test_garbage_announces_nothing_and_is_logged_in_one_short_line(body, caplog):
    assert announced_folders(body) == []
    (logged,) = caplog.records
    assert logged.levelno == logging.WARNING
    assert len(logged.getMessage()) < 1000


def test_good_record_beside_a_bad_one_counts():
    body = message([17, {"eventName": []}, record("mine", "incoming/a/_READY")])

    assert announced_folders(body) == [("mine", "incoming/a/")]


@given(
    st.binary()
    | st.recursive(st.none() | st.text(), st.lists, max_leaves=3).map(lambda v: message([v]))
)
def test_no_message_breaks_the_reader(body):
    announced_folders(body)


# What is claimed


def announce(store: Store, body: bytes) -> list[str]:
    return claim_announced(store, announced_folders(body))


def test_complete_folder_is_claimed_once_however_often_it_is_announced(store):
    body = drop(store, "a", "b")

    told = [announce(store, body) for _ in range(3)]

    assert claimed(store) == ["a/", "b/"]
    assert told[0] == told[1] == told[2] == [c.state for c in claims_by_name(store)]


def claims_by_name(store: Store):
    return sorted(pending_claims(store), key=lambda claim: claim.address)


def test_folder_whose_run_was_started_is_neither_claimed_nor_told_again(store):
    body = drop(store, "a")
    announce(store, body)
    acknowledge(store, pending_claims(store))

    assert announce(store, body) == []
    assert claimed(store) == []


def test_folder_of_another_bucket_is_left_alone(store):
    drop(store, "a")

    assert announce(store, notification("another-bucket", "incoming/a/_READY")) == []
    assert claimed(store) == []


def test_folder_that_is_announced_and_is_not_there_is_left_alone(store):
    assert announce(store, notification(store.bucket, "incoming/a/_READY")) == []


def test_folder_that_goes_on_after_its_marker_waits_for_the_watcher_that_looks(store):
    body = drop(store, "a")
    time.sleep(1.1)  # a store tells times in seconds
    store.put("incoming/a/2.jpg", b"image")

    assert announce(store, body) == []
    assert claimed(store) == []


def test_both_ways_of_noticing_a_folder_claim_it_once(store):
    body = drop(store, "a")
    watcher = IncomingWatcher(60)

    announce(store, body)
    told = watcher.poll(store)
    announce(store, body)

    assert claimed(store) == ["a/"]
    assert told == {c.state for c in pending_claims(store)}


def test_store_that_does_not_answer_lets_the_message_come_again(store):
    silent = store.settings.model_copy(update={"endpoint_url": "http://127.0.0.1:9"}).impatient()

    with pytest.raises(TransientError):
        claim_announced(Store(silent, store.bucket), [(store.bucket, "incoming/a/")])


# Airflow's trigger at a real broker


class Reader:
    """The DAG's trigger in a process of its own."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self._out = folder / "log"
        with self._out.open("wb") as out:
            command = [sys.executable, str(READER)]
            self._process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)

    def told(self) -> set[str]:
        lines = self._out.read_text().splitlines()
        told = (line.removeprefix(TOLD) for line in lines if line.startswith(TOLD))
        return {state for line in told for state in json.loads(line)}

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def settings(store) -> StorageSettings:
    return store.settings.model_copy(update={"bucket": store.bucket})


@pytest.fixture
def broker(settings, tmp_path):
    with broker_in(settings, tmp_path / "broker.log") as it:
        yield it


@pytest.fixture
def reader(settings, broker, tmp_path):
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW_CONN_DERMASCAN_S3": connection_to(settings),
        "AIRFLOW_CONN_DERMASCAN_KAFKA": broker.connection(),
        "DERMASCAN_KAFKA_TOPIC": TOPIC,
    }

    @contextmanager
    def started(name: str) -> Iterator[Reader]:
        (tmp_path / name).mkdir()
        it = Reader(environment, tmp_path / name)
        try:
            yield it
        finally:
            it.kill()

    return started


def test_folders_are_claimed_once_though_reader_and_broker_are_killed_and_messages_come_twice(
    store, broker, reader
):
    broker.send(b"garbage", drop(store, "a"), times=2)
    with reader("first") as first:
        wait_until(lambda: claimed(store) == ["a/"], 60, "a is not claimed")
        wait_until(lambda: bool(first.told()), 20, "nobody is told")
    broker.send(drop(store, "b"))
    broker.kill()
    broker.start()
    acknowledge(store, [c for c in pending_claims(store) if c.address.endswith("/a/")])
    with reader("second") as second:
        wait_until(lambda: claimed(store) == ["b/"], 60, "b is not claimed")
        wait_until(lambda: bool(second.told()), 20, "nobody is told")
        broker.kill()
        broker.start()
        broker.send(drop(store, "c"), times=2)
        wait_until(lambda: claimed(store) == ["b/", "c/"], 60, "c is not claimed")
        wait_until(lambda: len(second.told()) == 2, 20, "nobody is told of c")
