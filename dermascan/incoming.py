"""Folders that arrive under `incoming/`: which are complete, and that each is started once.

Three notes in the bucket, each named by the folder's state (its keys, sizes and entity tags), make
it no matter who is killed when, and how many watch at once:

1. A watcher that finds a folder complete creates a claim, and tells only then that there are
   claims. One that is killed in between, or whose word is lost, is made good by the next, which
   tells of every claim that is still there.
2. Who starts runs works off the claims that are there, whatever it was told. A claim always makes
   the same run identifier, and an orchestrator has no two runs of one identifier.
3. It notes the start, and deletes the claim only then. A state with such a note is never claimed
   again.
"""

import json
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from itertools import islice

from dermascan.fingerprint import canonical_json, fingerprint
from dermascan.layout import IncomingKeys
from dermascan.storage import Store, concurrently

logger = logging.getLogger(__name__)

# A folder that was claimed may change later. To look for that costs a listing of the folder, so
# this many are looked at each time, in turn.
REVISITS = 10
REMIND_SECONDS, REMIND_AT_MOST_SECONDS = 120.0, 3600.0
STARTS_AT_ONCE = 50
NAME_IN_RUN_ID = 60


@dataclass(frozen=True)
class FolderState:
    """What a folder holds at one moment.

    Attributes:
        prefix: of the folder, ending in `/`.
        identifier: names the folder with the keys, sizes and entity tags in it.
        objects: how many there are, without the marker.
        size: of them all, in bytes.
        complete: nothing in it is newer than the marker `_READY`.
    """

    prefix: str
    identifier: str
    objects: int
    size: int
    complete: bool


@dataclass(frozen=True)
class Claim:
    """A folder, in a state that is final, for which there is to be one run.

    Attributes:
        address: `s3://` address of the folder, ending in `/`.
        state: its `FolderState.identifier`.
        objects: how many there are.
        size: of them all, in bytes.
    """

    address: str
    state: str
    objects: int
    size: int

    @property
    def run_id(self) -> str:
        """Return the identifier of the run: the folder's name, readable, and its state."""
        name = self.address.rstrip("/").rsplit("/", 1)[-1]
        readable = re.sub(r"[^A-Za-z0-9_-]+", "-", name)[:NAME_IN_RUN_ID]
        return f"incoming__{readable}__{self.state}"

    @property
    def note(self) -> str:
        """Say in a sentence what the run is about."""
        return f"Started for {self.address}: {self.objects} objects, {self.size} bytes."


def look(store: Store, prefix: str) -> FolderState | None:
    """Return the state of a folder, None if there is nothing in it to be scored.

    Args:
        store: the bucket.
        prefix: of the folder, ending in `/`.
    """
    objects, size, content = 0, 0, fingerprint([prefix])
    newest: datetime | None = None
    marked: datetime | None = None
    for found, changed in store.list_dated(prefix):
        content = fingerprint([content, found.key, found.size, found.etag])
        if found.key == IncomingKeys.ready(prefix):
            marked = changed
        elif not found.key.endswith("/"):  # which consoles create to show an empty folder
            objects, size = objects + 1, size + found.size
            newest = max(newest or changed, changed)
    if newest is None:
        return None
    return FolderState(prefix, content, objects, size, marked is not None and marked >= newest)


def claim(store: Store, state: FolderState) -> bool:
    """Ask for a run over a folder; return False if that was done before, by whomever."""
    if is_started(store, state.identifier):
        return False
    asked = Claim(store.address(state.prefix), state.identifier, state.objects, state.size)
    body = canonical_json(asdict(asked))
    return store.put_if_absent(IncomingKeys.claim(asked.state), body, "application/json")


def is_started(store: Store, state: str) -> bool:
    """Tell whether a run was started over a folder in this state."""
    return store.exists(IncomingKeys.start(state))


def claimed_states(store: Store) -> frozenset[str]:
    """Return the states that wait for their run, from one listing of the claims."""
    keys = (found.key for found in store.list(IncomingKeys.pending))
    return frozenset(key.removeprefix(IncomingKeys.pending).removesuffix(".json") for key in keys)


def pending_claims(store: Store, most: int = STARTS_AT_ONCE) -> list[Claim]:
    """Return claims whose run is to be started.

    A claim that a watcher made while the run was being started is deleted.

    Args:
        store: the bucket.
        most: how many are returned; the others are for the next call.
    """
    return list(islice(_unstarted(store), most))


def _unstarted(store: Store) -> Iterator[Claim]:
    for state in sorted(claimed_states(store)):
        key = IncomingKeys.claim(state)
        if is_started(store, state):
            store.delete([key])
        elif body := store.get_if_present(key):
            yield Claim(**json.loads(body))


def acknowledge(store: Store, started: Iterable[Claim]) -> None:
    """Note that runs were started, and delete the claims that asked for them."""

    def note(done: Claim) -> str:
        body = canonical_json({"address": done.address, "run_id": done.run_id})
        store.put_if_absent(IncomingKeys.start(done.state), body, "application/json")
        return IncomingKeys.claim(done.state)

    store.delete(list(concurrently(note, started)))


@dataclass(frozen=True)
class _Seen:
    """A folder's state, since when it is known (seconds of the clock), and if it is claimed."""

    state: str
    since: float
    claimed: bool


class IncomingWatcher:
    """Looks again and again for complete folders, claims them, and says when to tell of claims.

    A folder is complete when `_READY` is the newest object in it, or when this watcher has seen
    it unchanged for a while. All that is lost with a watcher is that while.

    Args:
        quiet_seconds: how long a folder without marker must stay unchanged.
        clock: monotonic seconds; replaced in tests.
    """

    def __init__(self, quiet_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._quiet_seconds, self._clock = quiet_seconds, clock
        self._seen: dict[str, _Seen] = {}
        self._revisited = ""
        self._may_wait = True  # as claims of an earlier watcher may
        self._told: frozenset[str] = frozenset()
        self._remind_at, self._interval = 0.0, REMIND_SECONDS

    def poll(self, store: Store) -> frozenset[str]:
        """Look once: list the folders, then those that are new, changing, or due to be revisited.

        Returns:
            The claimed states to tell of; empty if there are none, or all were told of lately.
        """
        folders = list(store.folders(IncomingKeys.root))
        self._seen = {folder: self._seen[folder] for folder in folders if folder in self._seen}
        for folder in self._due(folders):
            self._visit(store, folder)
        return self._news(store) if self._may_wait else frozenset()

    def _due(self, folders: list[str]) -> list[str]:
        claimed = [name for name in folders if name in self._seen and self._seen[name].claimed]
        later = [name for name in claimed if name > self._revisited]
        revisited = (later + claimed)[: min(REVISITS, len(claimed))]
        self._revisited = revisited[-1] if revisited else ""
        left_out = set(claimed).difference(revisited)
        return [name for name in folders if name not in left_out]

    def _visit(self, store: Store, folder: str) -> None:
        state = look(store, folder)
        if state is None:
            self._seen.pop(folder, None)
            return
        seen = self._seen.get(folder)
        if seen is None or seen.state != state.identifier:
            seen = _Seen(state.identifier, self._clock(), is_started(store, state.identifier))
        quiet = self._clock() - seen.since >= self._quiet_seconds
        if not seen.claimed and (state.complete or quiet):
            self._may_wait = True
            if claim(store, state):
                logger.info("%s is complete: %d objects", store.address(folder), state.objects)
            seen = replace(seen, claimed=True)
        self._seen[folder] = seen

    def _news(self, store: Store) -> frozenset[str]:
        waiting = claimed_states(store)
        changed = waiting != self._told
        if not waiting or (not changed and self._clock() < self._remind_at):
            self._told, self._may_wait = waiting, bool(waiting)
            return frozenset()
        longer = min(self._interval * 2, REMIND_AT_MOST_SECONDS)
        self._interval = REMIND_SECONDS if changed else longer
        self._told, self._remind_at = waiting, self._clock() + self._interval
        return waiting
