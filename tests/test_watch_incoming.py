"""A hundred folders in a real Airflow whose triggerer is killed, and doubled, on the way.

Minutes long, so only with `DERMASCAN_WATCH=1`; `tests/test_airflow.py` has the short one.
"""

import os
import signal
import threading
import time

import psutil
import pytest
from stacks import kill, runs_of, second_triggerer, stack_in, wait_until

from dermascan.stack import processes
from dermascan.stack.embedded import UpRequest
from dermascan.storage import Store

FOLDERS = 100
MINUTES = 60

pytestmark = [
    pytest.mark.timeout(4 * MINUTES * 60),
    pytest.mark.skipif(
        os.environ.get("DERMASCAN_WATCH") != "1",
        reason="takes a quarter of an hour, and says of hundreds of folders what test_airflow.py "
        "says of three: run it after a change to the watcher, or of Airflow's version",
    ),
]


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    embedded = stack_in(tmp_path_factory.mktemp("stack") / "state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DERMASCAN_INCOMING_POLL_SECONDS", "1")
        patch.setenv("DERMASCAN_INCOMING_QUIET_SECONDS", "5")
        embedded.up(UpRequest(isic_url="http://127.0.0.1:9"))
        yield embedded
        embedded.down()


@pytest.fixture(scope="module")
def bucket(stack) -> Store:
    return Store(stack.storage_settings())


def folder(batch: str, number: int) -> str:
    return f"incoming/{batch}-{number:03}/"


def drop(bucket: Store, batch: str, seconds: float) -> threading.Thread:
    """Let folders arrive one after the other in so many seconds, every other one marked."""

    def arrive() -> None:
        for number in range(FOLDERS):
            names = ["no-image.jpg"] + ["_READY"] * (number % 2)
            for name in names:
                bucket.put(folder(batch, number) + name, b"no image")
            time.sleep(seconds / FOLDERS)

    thread = threading.Thread(target=arrive)
    thread.start()
    return thread


def started(stack, batch: str) -> list[str]:
    prefixes = (run["conf"]["prefix"] for run in runs_of(stack, "batch_inference"))
    return sorted(prefix for prefix in prefixes if f"incoming/{batch}-" in prefix)


def seen(bucket: Store) -> int:
    return sum(1 for _ in bucket.list("incoming-watch/"))


def require_exactly_one_run_each(stack, bucket: Store, batch: str) -> None:
    """Wait for all runs, for the end of the claims, and in vain for anything more."""
    everything = [bucket.address(folder(batch, number)) for number in range(FOLDERS)]
    wait_until(lambda: len(started(stack, batch)) >= FOLDERS, MINUTES * 60, "a folder has no run")
    wait_until(lambda: not any(bucket.list("incoming-watch/pending/")), 900, "a claim is left")
    kill(stack, "triggerer")
    stack.up(UpRequest())
    time.sleep(60)
    assert started(stack, batch) == everything
    watched = runs_of(stack, "watch_incoming")
    print(f"{batch}: {len(everything)} runs; {len(watched)} of watch_incoming so far")  # noqa: T201


def test_hundred_folders_have_a_hundred_runs_though_the_triggerer_is_killed_twice(stack, bucket):
    arriving = drop(bucket, "killed", seconds=60)
    for many in (20, 60):
        wait_until(lambda many=many: seen(bucket) >= many, 900, f"fewer than {many} are claimed")
        kill(stack, "triggerer")
        time.sleep(5)
        stack.up(UpRequest())
    arriving.join()

    require_exactly_one_run_each(stack, bucket, "killed")


def test_hundred_folders_have_a_hundred_runs_though_two_triggerers_watch(stack, bucket):
    """The first is stopped for so long that the second takes over, and then goes on beside it."""
    first = processes.members(stack._records()["triggerer"], stack.paths.state)
    before = seen(bucket)
    with second_triggerer(stack) as (_, log):
        for process in first:
            process.send_signal(signal.SIGSTOP)
        arriving = drop(bucket, "doubled", seconds=60)
        wait_until(lambda: seen(bucket) >= before + 10, 900, "the second does not take over")
        for process in first:
            process.send_signal(signal.SIGCONT)
        arriving.join()
        wait_until(lambda: seen(bucket) >= before + FOLDERS, 900, "a folder is not claimed")
        assert all(process.status() != psutil.STATUS_STOPPED for process in first)
        require_exactly_one_run_each(stack, bucket, "doubled")
        assert "Trigger fired event" in log.read_text(), "the second told of nothing"
