"""What is in the bucket and nothing can reach any more.

Kept is whatever a champion pointer, the history of a model, a dataset's pointer or a published
version leads to, and all that was changed lately, since a job may be at work on it. Never touched
are `raw/`, `quarantine/`, `reports/`, `predictions/` and published versions.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from dermascan.errors import InputError
from dermascan.layout import DatasetKeys, ModelKeys, TrainingKeys
from dermascan.registry import history
from dermascan.storage import ObjectInfo, Store, UnfinishedUpload
from dermascan.versions import CLAIM, MANIFEST

logger = logging.getLogger(__name__)

DEFAULT_AGE = timedelta(days=7)
LEAST_AGE = timedelta(days=1)
_NEVER = datetime.min.replace(tzinfo=UTC)
_ENDINGS = ("DONE.json", "latest.json")  # what says that the rest can be relied on


@dataclass(frozen=True)
class Garbage:
    """Objects that belong together and may all go.

    Attributes:
        prefix: of all of them.
        why: nothing reaches them.
        keys: all objects under the prefix, in the order in which they may go.
        size: of all of them, in bytes.
        changed: when the last of them was (UTC).
        upload: set instead of `keys` for the parts of an unfinished upload.
    """

    prefix: str
    why: str
    keys: tuple[str, ...]
    size: int
    changed: datetime
    upload: UnfinishedUpload | None = None


@dataclass
class _Group:
    """The objects under one prefix."""

    prefix: str
    found: list[ObjectInfo] = field(default_factory=list)
    changed: datetime = _NEVER

    def add(self, found: ObjectInfo, changed: datetime) -> None:
        self.found.append(found)
        self.changed = max(self.changed, changed)

    def has(self, name: str) -> bool:
        return any(found.key == self.prefix + name for found in self.found)

    def garbage(self, why: str) -> Garbage:
        keys = sorted((found.key for found in self.found), key=_order)
        return Garbage(self.prefix, why, tuple(keys), sum(f.size for f in self.found), self.changed)


def _order(key: str) -> tuple[bool, bool, str]:
    """Let markers go first, so that what is half deleted is never taken for whole."""
    return not key.endswith(_ENDINGS), not key.endswith(".json"), key


def find_garbage(
    store: Store, age: timedelta = DEFAULT_AGE, now: datetime | None = None
) -> list[Garbage]:
    """List what may go, without touching it.

    Args:
        store: the bucket.
        age: what was changed more recently is kept; at least `LEAST_AGE`.
        now: the present, UTC; replaced in tests.

    Raises:
        InputError: the age is too short to tell what jobs are at work on.
        IntegrityError: a pointer or history cannot be read, so that nothing is certain.
    """
    if age < LEAST_AGE:
        raise InputError(f"what was changed in the last {LEAST_AGE} may be in use: choose more")
    return list(_Search(store, (now or datetime.now(UTC)) - age).all())


def delete(store: Store, garbage: Garbage) -> bool:
    """Delete what was found, unless it has changed since; return whether it was deleted."""
    if garbage.upload:
        store.give_up(garbage.upload)
        return True
    for found, changed in store.list_dated(garbage.prefix):
        if found.key not in garbage.keys or changed > garbage.changed:
            logger.warning("%s has changed since it was listed: left alone", garbage.prefix)
            return False
    for key in garbage.keys[:2]:
        store.delete([key])  # one at a time, so that markers are gone before the rest
    store.delete(garbage.keys[2:])
    return True


def _grouped(store: Store, prefix: str, depth: int) -> dict[str, _Group]:
    """Return the objects under a prefix by the first `depth` parts of their keys."""
    groups: dict[str, _Group] = {}
    for found, changed in store.list_dated(prefix):
        parts = found.key.split("/")
        if len(parts) > depth:
            name = "/".join(parts[:depth]) + "/"
            groups.setdefault(name, _Group(name)).add(found, changed)
    return groups


class _Search:
    """One look at the bucket; what was changed after `limit` is kept."""

    def __init__(self, store: Store, limit: datetime) -> None:
        self._store, self._limit = store, limit
        self._versions = {
            prefix: group
            for prefix, group in _grouped(store, "models/", 3).items()
            if prefix.split("/")[2].isdecimal()
        }
        self._trainings = _grouped(store, "training/", 2)
        self._named_by_history = self._read_histories()
        published = self._owners_of_published()
        self._kept_trainings = {
            prefix
            for prefix, group in self._trainings.items()
            if self._is_young(group) or prefix.split("/")[1] in published
        }

    def all(self) -> Iterator[Garbage]:
        yield from self._claims()
        yield from self._orphaned_trainings()
        yield from self._superseded_examples()
        yield from self._superseded_dealings()
        yield from self._abandoned_staging()
        yield from self._unfinished_uploads()

    def _is_young(self, group: _Group) -> bool:
        return group.changed > self._limit

    # What leads somewhere

    def _read_histories(self) -> set[str]:
        """Return what the moves of all champions name: prefixes of versions, and requests."""
        parts = [found.key.split("/") for found in self._store.list("models/")]
        models = [part[1] for part in parts if part[2:] == ["champion.json"]]
        moves = [move for model in models for move in history(self._store, model)]
        versions = {ModelKeys(move.model).version(move.version) for move in moves}
        return versions | {move.request for move in moves if move.request}

    def _owners_of_published(self) -> set[str]:
        """Return the trainings that a published version or a champion came from."""
        requests = (name.split("/") for name in self._named_by_history)
        owners = {parts[1] for parts in requests if parts[0] == "training"}
        for prefix, group in self._versions.items():
            if group.has(MANIFEST):
                for file, name in ((CLAIM, "training"), ("metadata.json", "training_fingerprint")):
                    if group.has(file):
                        owners.add(str(self._store.get_json(prefix + file).get(name)))
        return owners

    def _examples_of(self, training: str) -> str | None:
        body = self._store.get_if_present(TrainingKeys(training).examples)
        if body is None:
            return None
        reference = json.loads(body)
        return DatasetKeys(reference["dataset"]).processed(reference["name"])

    # What does not

    def _claims(self) -> Iterator[Garbage]:
        claimed_by_kept = {
            f"models/{parts[3]}/{self._store.get_json(found.key)['version']}/"
            for prefix in self._kept_trainings
            for found in self._trainings[prefix].found
            if (parts := found.key.split("/"))[-1] == "version.json" and len(parts) == 5
        }
        for prefix, group in self._versions.items():
            reached = group.has(MANIFEST) or prefix in self._named_by_history | claimed_by_kept
            if not reached and not self._is_young(group):
                yield group.garbage("a version that was claimed and never published")

    def _orphaned_trainings(self) -> Iterator[Garbage]:
        for prefix, group in self._trainings.items():
            if prefix not in self._kept_trainings:
                state = "finished" if group.has("DONE.json") else "unfinished"
                yield group.garbage(f"a training, {state}, that no version came from")

    def _superseded_examples(self) -> Iterator[Garbage]:
        reached = {self._examples_of(prefix.split("/")[1]) for prefix in self._kept_trainings}
        if None in reached:
            logger.info("a training that may be under way does not say its examples: all are kept")
            return
        for prefix, group in _grouped(self._store, "processed/", 3).items():
            is_dealings = prefix.endswith("/splits/")
            if is_dealings or prefix in reached or self._is_young(group):
                continue
            if not self._is_of_current_manifest(prefix, group):
                yield group.garbage("examples of an earlier manifest that no kept training used")

    def _is_of_current_manifest(self, prefix: str, group: _Group) -> bool:
        current, _ = self._store.read_pointer(DatasetKeys(prefix.split("/")[1]).pointer)
        if current is None or not group.has("examples.json"):
            return False
        examples = self._store.get_json(f"{prefix}examples.json")
        return examples["manifest_fingerprint"] == current["fingerprint"]

    def _superseded_dealings(self) -> Iterator[Garbage]:
        for found, changed in self._store.list_dated("processed/"):
            parts = found.key.split("/")
            if parts[2:-1] == ["splits"] and changed <= self._limit:
                pointer, _ = self._store.read_pointer(DatasetKeys(parts[1]).split_ledger)
                if pointer and pointer["key"] != found.key:
                    group = _Group(found.key)
                    group.add(found, changed)
                    yield group.garbage("a dealing of images to splits that was superseded")

    def _abandoned_staging(self) -> Iterator[Garbage]:
        for prefix, group in _grouped(self._store, "staging/", 3).items():
            if not prefix.endswith("/published/") and not self._is_young(group):
                yield group.garbage("what a run left on its way and nobody took up")

    def _unfinished_uploads(self) -> Iterator[Garbage]:
        for upload in self._store.unfinished_uploads():
            if upload.started <= self._limit:
                why = "parts of an upload that was never completed"
                yield Garbage(upload.key, why, (), 0, upload.started, upload)
