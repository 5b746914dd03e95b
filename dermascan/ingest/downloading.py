"""The second step: the bytes of a shard's images, examined and packed for the next step."""

import io
import logging
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from dermascan.dataset import read_pointer, read_refusals, read_rows
from dermascan.decoding import decoding_slots
from dermascan.errors import NotFoundError, TransientError
from dermascan.fingerprint import Plain, sha256_hex
from dermascan.imaging import ImageFacts, ImageRefusedError, decode, measure
from dermascan.ingest.staging import (
    JSON_LINES,
    IndexEntry,
    IngestPlan,
    ShardOutcome,
    describe_failures,
    outcome_of,
    read_index,
    read_records,
    required_index,
    write_index,
)
from dermascan.isic.client import Download, IsicClient
from dermascan.isic.records import PackedRecords
from dermascan.layout import is_image_id
from dermascan.progress import Progress
from dermascan.storage import Store, concurrently

logger = logging.getLogger(__name__)


def download(
    store: Store,
    client: IsicClient,
    ingest_plan: IngestPlan,
    shard: int,
    max_failed_share: float = 0.01,
) -> ShardOutcome:
    """Fetch and examine the images of a shard that no earlier run or try has brought.

    Every record of the shard ends in the shard's index exactly once. Images that could not
    be fetched are tried again by running this step again.

    Args:
        store: the bucket.
        client: the archive.
        ingest_plan: what was planned.
        shard: number of the shard.
        max_failed_share: share of all images of the plan, 0 to 1, that may fail.

    Raises:
        TransientError: more failed in this shard alone; the message names them.
    """
    index_key = ingest_plan.key("index", shard, ".jsonl")
    earlier = read_index(store, index_key)
    before = outcome_of(shard, earlier.values()) if earlier else ShardOutcome(shard)
    if earlier and not before.failed:
        logger.info("shard %d is downloaded already, nothing to do", shard)
        return replace(before, skipped=True)
    records = read_records(store, ingest_plan, shard)
    settled = _settled(store, ingest_plan.dataset, records, earlier or {})
    pack_key = ingest_plan.key("images", shard, ".tar")
    with tempfile.TemporaryDirectory() as folder:
        pack, index = Path(folder) / "images.tar", Path(folder) / "index.jsonl"
        if before.packed:
            store.get_file(pack_key, pack)
        outcome = write_index(index, shard, _download_into(pack, client, records, settled))
        if outcome.packed:
            store.put_file(pack_key, pack, "application/x-tar")
        store.put_file(index_key, index, JSON_LINES)
    logger.info("shard %d: %s", shard, _counts_text(outcome))
    if outcome.failed > max_failed_share * ingest_plan.images:
        entries = required_index(store, ingest_plan, shard).values()
        raise TransientError(
            f"shard {shard}: {describe_failures(entries)}. What did arrive is kept"
        )
    return outcome


def _download_into(
    pack: Path, client: IsicClient, records: PackedRecords, settled: Mapping[str, IndexEntry]
) -> Iterator[IndexEntry]:
    progress = Progress(logger, "images", len(records))
    progress.advance(len(settled))
    yield from settled.values()
    wanted = (record for record in records if record.isic_id not in settled)
    examine = _Examiner()
    with tarfile.open(pack, "a", format=tarfile.PAX_FORMAT) as tar:
        for entry, data in concurrently(examine, client.download(wanted), concurrency=4):
            if data is not None and entry.packed:
                _add_to_tar(tar, entry.isic_id, data)
            progress.advance()
            yield entry


def _settled(
    store: Store, dataset: str, records: PackedRecords, earlier: Mapping[str, IndexEntry]
) -> dict[str, IndexEntry]:
    """Return what needs no request: kept by an earlier run or try, or hopeless."""
    known = _known_images(store, dataset, [record.isic_id for record in records])
    known |= {name: entry for name, entry in earlier.items() if entry.status != "failed"}
    settled: dict[str, IndexEntry] = {}
    for record in records:
        found = known.get(record.isic_id)
        if not is_image_id(record.isic_id):
            reason = f"not an image identifier: {record.isic_id!r}"
            settled[record.isic_id] = IndexEntry(record.isic_id, "failed", reason)
        elif found and found.size == record.size:
            settled[record.isic_id] = found
    return settled


class _Examiner:
    """Decode and measure downloads, no more at once than there are cores."""

    def __init__(self) -> None:
        self._slots = decoding_slots()

    def __call__(self, download_: Download) -> tuple[IndexEntry, bytes | None]:
        record, data = download_.record, download_.data
        if data is None:
            return IndexEntry(record.isic_id, "failed", download_.failure), None
        entry = IndexEntry(
            record.isic_id,
            "new",
            sha256=download_.sha256 or sha256_hex(data),
            size=len(data),
            extension=record.extension,
        )
        try:
            with self._slots:
                return replace(entry, facts=measure(data, decode(data))), data
        except ImageRefusedError as error:
            return replace(entry, status="refused", reason=str(error)), data


def _add_to_tar(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _known_images(store: Store, dataset: str, isic_ids: list[str]) -> dict[str, IndexEntry]:
    try:
        pointer = read_pointer(store, dataset)
    except NotFoundError:
        return {}
    columns = ["isic_id", "key", "sha256", "size", *ImageFacts.__dataclass_fields__]
    rows = read_rows(store, pointer, isic_ids, columns)
    known = {str(row["isic_id"]): _entry_from_manifest(row) for row in rows}
    for refusal in read_refusals(store, pointer):
        known[refusal.isic_id] = IndexEntry(
            refusal.isic_id, "known", refusal.reason, refusal.sha256, refusal.size
        )
    return known


def _entry_from_manifest(row: Mapping[str, Plain]) -> IndexEntry:
    return IndexEntry(
        isic_id=str(row["isic_id"]),
        status="known",
        sha256=str(row["sha256"]),
        size=int(str(row["size"])),
        key=str(row["key"]),
        facts=ImageFacts(**{name: row[name] for name in ImageFacts.__dataclass_fields__}),  # type: ignore[arg-type]  # the manifest's schema has these types
    )


def _counts_text(outcome: ShardOutcome) -> str:
    return (
        f"{outcome.new} new, {outcome.known} known from before, "
        f"{outcome.refused} refused, {outcome.failed} failed"
    )
