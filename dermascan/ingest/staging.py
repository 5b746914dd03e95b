"""What the steps of one ingest tell each other through object storage."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from dermascan.errors import NotFoundError
from dermascan.fingerprint import canonical_json
from dermascan.imaging import ImageFacts
from dermascan.isic.records import PackedRecords
from dermascan.layout import DatasetKeys, part
from dermascan.storage import Store

NAMED_IN_MESSAGES = 10
JSON_LINES = "application/jsonl"

Status = Literal["new", "known", "refused", "failed"]


@dataclass(frozen=True)
class IngestPlan:
    """One resolved request: which images, in how many shards.

    Attributes:
        dataset: the dataset's name.
        plan: names the selection by its content.
        shards: number of shards.
        images: number of images.
        missing: images that the archive counted and did not list.
    """

    dataset: str
    plan: str
    shards: int
    images: int
    missing: int = 0

    def key(self, kind: str, shard: int, suffix: str) -> str:
        """Return the staging key of one shard's `records`, `images`, `index` or `placed`."""
        prefix = DatasetKeys(self.dataset).plan(self.plan)
        return part(f"{prefix}{kind}-", shard, suffix)

    def records_key(self, shard: int) -> str:
        """Return the staging key of what was found for one shard."""
        return self.key("records", shard, ".jsonl.gz")


@dataclass(frozen=True)
class IndexEntry:
    """What became of one image of a shard.

    Attributes:
        isic_id: the archive's identifier.
        status: `new` and `refused` images are in the shard's tar; `known` ones were
            stored or refused by an earlier run; `failed` ones could not be had.
        reason: why it was refused or failed, else None.
        sha256: of the bytes, None if there are none.
        size: of the bytes.
        extension: `jpg` or `png`.
        key: where the bytes are, None until placed.
        facts: what was measured, None unless the image is usable.
    """

    isic_id: str
    status: Status
    reason: str | None = None
    sha256: str | None = None
    size: int = 0
    extension: str = "jpg"
    key: str | None = None
    facts: ImageFacts | None = None

    @property
    def usable(self) -> bool:
        """Tell whether the image belongs in the manifest."""
        return self.facts is not None

    @property
    def packed(self) -> bool:
        """Tell whether the image's bytes are in the shard's tar."""
        return self.status in {"new", "refused"}

    def to_line(self) -> bytes:
        """Encode as one JSON line."""
        facts = vars(self.facts) if self.facts else None  # `asdict` copies value by value
        return canonical_json({**vars(self), "facts": facts}) + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> "IndexEntry":
        """Decode one JSON line."""
        plain = json.loads(line)
        facts = plain.pop("facts")
        return cls(**plain, facts=ImageFacts(**facts) if facts else None)


@dataclass(frozen=True)
class ShardOutcome:
    """How many images of a shard ended how, and whether the step found its work done."""

    shard: int
    new: int = 0
    known: int = 0
    refused: int = 0
    failed: int = 0
    skipped: bool = False

    @property
    def packed(self) -> int:
        """Return how many images' bytes are in the shard's tar."""
        return self.new + self.refused


class StagedIndex(Mapping[str, IndexEntry]):
    """What became of a shard's images, by `isic_id`; each entry is decoded when asked for.

    Decoded, all of them would take several times the memory.
    """

    def __init__(self, body: bytes) -> None:
        self._lines = {IndexEntry.from_line(line).isic_id: line for line in body.splitlines()}

    def __getitem__(self, isic_id: str) -> IndexEntry:
        """Return what became of an image."""
        return IndexEntry.from_line(self._lines[isic_id])

    def __iter__(self) -> Iterator[str]:
        """Yield the identifiers."""
        return iter(self._lines)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._lines)


def read_records(store: Store, ingest_plan: IngestPlan, shard: int) -> PackedRecords:
    """Return what `plan` found for a shard."""
    return PackedRecords(store.get(ingest_plan.records_key(shard)))


def write_records(
    store: Store, ingest_plan: IngestPlan, shard: int, lines: Iterable[bytes]
) -> None:
    """Store what `plan` found for a shard, a record in JSON a line."""
    records = PackedRecords.of_lines(lines)
    store.put(ingest_plan.records_key(shard), records.packed, "application/gzip")


def read_index(store: Store, key: str) -> StagedIndex | None:
    """Return what became of a shard's images, None while its step is not finished."""
    body = store.get_if_present(key)
    return None if body is None else StagedIndex(body)


def required_index(
    store: Store, ingest_plan: IngestPlan, shard: int, kind: str = "index"
) -> StagedIndex:
    """Return the `index` or `placed` entries of a finished step.

    Raises:
        NotFoundError: they were cleared after publication.
    """
    key = ingest_plan.key(kind, shard, ".jsonl")
    entries = read_index(store, key)
    if entries is None:
        raise NotFoundError(f"{store.address(key)} is gone: trigger ingest_isic again")
    return entries


def write_index(path: Path, shard: int, entries: Iterable[IndexEntry]) -> ShardOutcome:
    """Write what becomes of a shard's images to a file, one at a time, and count them."""
    with path.open("wb") as file:
        return outcome_of(shard, _written(file, entries))


def _written(file: BinaryIO, entries: Iterable[IndexEntry]) -> Iterator[IndexEntry]:
    for entry in entries:
        file.write(entry.to_line())
        yield entry


def outcome_of(shard: int, entries: Iterable[IndexEntry]) -> ShardOutcome:
    """Count how a shard's images ended."""
    counts = Counter(entry.status for entry in entries)
    return ShardOutcome(shard, counts["new"], counts["known"], counts["refused"], counts["failed"])


def describe_failures(entries: Iterable[IndexEntry]) -> str:
    """Name the first images that could not be had, and why."""
    failed = [entry for entry in entries if entry.status == "failed"]
    named = "; ".join(f"{e.isic_id}: {e.reason}" for e in failed[:NAMED_IN_MESSAGES])
    more = len(failed) - NAMED_IN_MESSAGES
    ending = f"; and {more} more" if more > 0 else ""
    return f"{len(failed)} images could not be downloaded: {named}{ending}"
