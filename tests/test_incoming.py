"""Folders that arrive: when they are complete, and that each has exactly one run.

`DERMASCAN_RACES` sets how many interleavings are tried.
"""

import os
import random
import re
import time
from collections import Counter
from functools import partial

import pytest
from stepping import Operation

from dermascan import incoming
from dermascan.incoming import (
    REMIND_SECONDS,
    REVISITS,
    Claim,
    IncomingWatcher,
    acknowledge,
    claim,
    claimed_states,
    look,
    pending_claims,
)
from dermascan.inference.batch import resolve
from dermascan.layout import IncomingKeys
from dermascan.registry import Decision, ModelReference, promote
from dermascan.storage import Store
from dermascan.versions import publish_version

INTERLEAVINGS = int(os.environ.get("DERMASCAN_RACES", "5"))
QUIET = 60.0
AIRFLOW_ALLOWS = re.compile(r"[A-Za-z0-9_.~:+-]{1,250}")


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watcher(clock) -> IncomingWatcher:
    return IncomingWatcher(QUIET, clock)


def drop(store: Store, folder: str, *names: str, body: bytes = b"image") -> None:
    for name in names:
        store.put(f"incoming/{folder}/{name}", body)


def waiting(store: Store) -> list[str]:
    return sorted(each.address.removeprefix(f"s3://{store.bucket}/") for each in claims(store))


def claims(store: Store) -> list[Claim]:
    return pending_claims(store, 1000)


def settle(store: Store) -> None:
    acknowledge(store, claims(store))


# When a folder is complete


def test_folder_with_marker_is_claimed_at_the_first_look(store, watcher):
    drop(store, "a", "1.jpg", "2.jpg", "_READY")
    drop(store, "b", "1.jpg")

    told = watcher.poll(store)

    assert waiting(store) == ["incoming/a/"]
    assert told == claimed_states(store)
    assert claims(store)[0].objects == 2


def test_folder_without_marker_is_claimed_when_it_was_unchanged_for_a_while(store, watcher, clock):
    drop(store, "a", "1.jpg")
    assert not watcher.poll(store)
    clock.seconds += QUIET - 1
    drop(store, "a", "2.jpg")
    assert not watcher.poll(store)
    clock.seconds += QUIET - 1
    assert not watcher.poll(store)
    clock.seconds += 1

    assert len(watcher.poll(store)) == 1
    assert waiting(store) == ["incoming/a/"]


def test_marker_that_is_older_than_an_image_does_not_count(store, watcher):
    drop(store, "a", "_READY", "1.jpg")
    time.sleep(1.1)  # what a server says of an object's age has a resolution of a second
    drop(store, "a", "2.jpg")

    assert not watcher.poll(store)


def test_marker_in_a_folder_of_the_folder_does_not_count(store, watcher):
    drop(store, "a", "1.jpg", "b/2.jpg", "b/_READY")

    assert not watcher.poll(store)


@pytest.mark.parametrize("names", [["_READY"], ["", "_READY"], [""]])
def test_folder_without_anything_to_score_is_left_alone(store, watcher, clock, names):
    drop(store, "a", *names, body=b"")
    watcher.poll(store)
    clock.seconds += QUIET

    assert not watcher.poll(store)


def test_object_beside_the_folders_is_left_alone(store, watcher, clock):
    store.put("incoming/1.jpg", b"image")
    store.put("incoming/_READY", b"")
    watcher.poll(store)
    clock.seconds += QUIET

    assert not watcher.poll(store)


def test_folder_whatever_it_is_called_has_a_run_identifier_that_airflow_takes(store, watcher):
    names = ["{{ 7 * 7 }}", "ward 3/é", "<b>", "x" * 250, "a..b", "a:b", "%2F", "'\"; --"]
    for name in names:
        drop(store, name, "1.jpg", "_READY")
        drop(store, name.split("/", maxsplit=1)[0], "_READY")

    watcher.poll(store)

    found = claims(store)
    assert len({each.run_id for each in found}) == len(names)
    assert all(AIRFLOW_ALLOWS.fullmatch(each.run_id) for each in found)
    assert not any(".." in each.run_id for each in found)


def test_marker_is_no_image_to_be_scored_or_rejected(store, tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"graph")
    publish_version(store, "skin", 1, tmp_path)
    promote(store, "skin", 1, Decision("ann", "because"))
    drop(store, "a", "1.jpg")
    before = resolve(store, "incoming/a/", ModelReference("skin", "champion"))
    drop(store, "a", "_READY")

    after = resolve(store, "incoming/a/", ModelReference("skin", "champion"))

    assert (after.objects, after.run) == (1, before.run)


# What comes later


def test_folder_that_was_started_and_does_not_change_is_never_claimed_again(store, clock):
    drop(store, "a", "1.jpg", "_READY")
    for _ in range(3):
        watcher = IncomingWatcher(QUIET, clock)  # as after a restart
        watcher.poll(store)
        settle(store)
        clock.seconds += 2 * QUIET
        assert not watcher.poll(store)
    drop(store, "a", "1.jpg", "_READY")  # the same bytes once more
    assert not watcher.poll(store)


def test_folder_that_was_started_and_gets_more_is_claimed_again_once_it_is_quiet(
    store, watcher, clock
):
    drop(store, "a", "1.jpg", "_READY")
    watcher.poll(store)
    settle(store)
    time.sleep(1.1)
    drop(store, "a", "2.jpg")
    assert not watcher.poll(store)
    clock.seconds += QUIET
    assert watcher.poll(store)

    assert [each.objects for each in claims(store)] == [2]


def test_folder_that_was_started_and_is_marked_anew_is_claimed_again_at_once(store, watcher):
    drop(store, "a", "1.jpg", "_READY")
    watcher.poll(store)
    settle(store)
    drop(store, "a", "2.jpg")
    drop(store, "a", "_READY", body=b"second part")

    assert watcher.poll(store)


def test_folder_that_is_deleted_is_forgotten(store, watcher, clock):
    drop(store, "a", "1.jpg")
    watcher.poll(store)
    store.delete(["incoming/a/1.jpg"])
    watcher.poll(store)
    clock.seconds += QUIET
    drop(store, "a", "1.jpg")

    assert not watcher.poll(store), "its while has begun anew"


# Telling


def test_claim_that_nobody_takes_up_is_told_of_again_less_and_less_often(store, watcher, clock):
    drop(store, "a", "1.jpg", "_READY")
    told = []
    for second in range(0, 10 * int(REMIND_SECONDS), 60):
        clock.seconds = 1000.0 + second
        if watcher.poll(store):
            told.append(second)

    assert told == [0, 120, 360, 840]


def test_claim_of_a_watcher_that_is_gone_is_told_of_by_the_next_at_once(store, watcher):
    drop(store, "a", "1.jpg", "_READY")
    state = look(store, "incoming/a/")
    assert state
    assert claim(store, state)

    assert watcher.poll(store) == {state.identifier}


def test_claim_made_before_a_poll_failed_is_told_of_by_the_next(store, watcher, monkeypatch):
    drop(store, "a", "1.jpg", "_READY")
    monkeypatch.setattr(incoming, "claimed_states", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        watcher.poll(store)
    monkeypatch.undo()

    assert len(watcher.poll(store)) == 1


def test_claims_beyond_what_is_started_at_once_are_told_of_again(store, watcher):
    for number in range(5):
        drop(store, f"f{number}", "1.jpg", "_READY")
    assert len(watcher.poll(store)) == 5

    acknowledge(store, pending_claims(store, 3))

    assert len(watcher.poll(store)) == 2


# What it costs


class CountingStore(Store):
    """A store that counts requests by what they do."""

    done: Counter[str]

    def _call(self, operation, key, verb):
        self.done[verb] += 1
        return super()._call(operation, key, verb)


def test_poll_when_nothing_changes_costs_one_listing_and_a_few_revisits(store, clock):
    for number in range(30):
        drop(store, f"f{number:02}", "1.jpg", "2.jpg", "_READY")
    counting = CountingStore(store.settings, store.bucket)
    counting.done = Counter()
    watcher = IncomingWatcher(QUIET, clock)
    watcher.poll(counting)
    settle(store)
    watcher.poll(counting)
    counting.done.clear()

    watcher.poll(counting)

    assert dict(counting.done) == {"list": 1 + REVISITS}


def test_every_folder_is_revisited_in_turn(store, watcher):
    for number in range(2 * REVISITS + 3):
        drop(store, f"f{number:02}", "1.jpg", "_READY")
    watcher.poll(store)
    settle(store)
    for number in range(2 * REVISITS + 3):
        drop(store, f"f{number:02}", "2.jpg")
        drop(store, f"f{number:02}", "_READY", body=b"more")
    for _ in range(3):
        watcher.poll(store)

    assert len(claims(store)) == 2 * REVISITS + 3


# Exactly once


class Orchestrator:
    """Starts runs as the DAG does: one run of an identifier, one starter at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.runs: list[str] = []

    def start(self, store: Store) -> None:
        found = pending_claims(store)
        for each in found:
            assert not self._store.exists(IncomingKeys.start(each.state)), "started once more"
            if each.run_id not in self.runs:
                self.runs.append(each.run_id)
        acknowledge(store, found)


@pytest.fixture
def one_request_at_a_time(monkeypatch):
    monkeypatch.setattr(incoming, "concurrently", map)


def new_watcher(chance: random.Random, store: Store) -> Operation:
    clock = Clock()
    watcher = IncomingWatcher(QUIET, clock)

    def watch(stepped: Store) -> None:
        for _ in range(4):
            watcher.poll(stepped)
            clock.seconds += chance.choice([1, QUIET])

    return Operation(store, watch)


def interleave(store: Store, seed: int, prefix: str) -> tuple[Orchestrator, set[str]]:
    """Let two watchers and a starter be killed and replaced while folders arrive."""
    chance = random.Random(seed)
    orchestrator = Orchestrator(store)
    jobs = [partial(new_watcher, chance, store)] * 2
    jobs.append(lambda: Operation(store, orchestrator.start))
    running = [job() for job in jobs]
    arriving = [f"{prefix}{number}" for number in range(3)]
    for _ in range(120):
        if arriving and chance.random() < 0.1:
            drop(store, arriving.pop(), "1.jpg", "2.jpg", "_READY")
        place = chance.randrange(len(jobs))
        if running[place].ended:
            running[place] = jobs[place]()
        elif chance.random() < 0.03:
            running[place].die(after=chance.random() < 0.5)
        else:
            running[place].step()
    for operation in running:
        while not operation.ended:
            operation.step()
        if isinstance(operation.error, AssertionError):
            raise operation.error
    for name in arriving:
        drop(store, name, "1.jpg", "2.jpg", "_READY")
    assert IncomingWatcher(QUIET).poll(store) or not claimed_states(store)
    orchestrator.start(store)
    states = (look(store, f"incoming/{prefix}{number}/") for number in range(3))
    return orchestrator, {state.identifier for state in states if state}


def require_one_run_a_folder_in(store: Store, seeds: int) -> None:
    for seed in range(seeds):
        orchestrator, states = interleave(store, seed, f"r{seed}-")
        assert sorted(run.rsplit("__")[-1] for run in orchestrator.runs) == sorted(states)
        assert len(states) == 3
        assert claims(store) == []
        store.delete([found.key for found in store.list("")])


@pytest.mark.timeout(60 + 10 * INTERLEAVINGS)
def test_runs_under_any_interleaving_of_watchers_starters_and_kills_are_one_a_folder(
    store, one_request_at_a_time
):
    require_one_run_a_folder_in(store, seeds=INTERLEAVINGS)


def noted_before_it_is_started(store: Store, state: incoming.FolderState) -> bool:
    """Move the watermark when the folder is seen, as a watcher without claims does."""
    return store.put_if_absent(IncomingKeys.start(state.identifier), b"{}")


@pytest.mark.parametrize(
    ("name", "broken"),
    [("claim", noted_before_it_is_started), ("is_started", lambda *_: False)],
)
def test_the_test_above_finds_what_it_is_there_to_find(
    store, one_request_at_a_time, monkeypatch, name, broken
):
    monkeypatch.setattr(incoming, name, broken)
    with pytest.raises(AssertionError):
        require_one_run_a_folder_in(store, seeds=30)
