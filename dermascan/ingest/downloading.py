"""The second step: the bytes of a shard's images, examined and packed for the next step."""

import io
import logging
import tarfile
import tempfile
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from dermascan.dataset import read_manifest, read_pointer, read_refusals
from dermascan.errors import NotFoundError
from dermascan.fingerprint import sha256_hex
from dermascan.imaging import ImageFacts, ImageRefusedError, decode, measure
from dermascan.ingest.staging import (
    IndexEntry,
    IngestPlan,
    ShardOutcome,
    outcome_of,
    read_index,
    read_records,
    write_index,
)
from dermascan.isic.client import Download, ImageRecord, IsicClient
from dermascan.layout import is_image_id
from dermascan.progress import Progress
from dermascan.storage import Store, concurrently

logger = logging.getLogger(__name__)


def download(store: Store, client: IsicClient, ingest_plan: IngestPlan, shard: int) -> ShardOutcome:
    """Fetch and examine the images of a shard that no earlier run has brought.

    Every record of the shard ends in the shard's index exactly once. Images that could not
    be fetched are tried again by running this step again.
    """
    index_key = ingest_plan.key("index", shard, ".jsonl")
    earlier = read_index(store, index_key)
    if earlier and not any(entry.status == "failed" for entry in earlier):
        logger.info("shard %d is downloaded already, nothing to do", shard)
        return replace(outcome_of(shard, earlier), skipped=True)
    records = read_records(store, ingest_plan, shard)
    known = _known_images(store, ingest_plan.dataset)
    with tempfile.TemporaryDirectory() as folder:
        tar = Path(folder) / "images.tar"
        entries = list(_download_into(tar, client, records, known))
        if any(entry.status in {"new", "refused"} for entry in entries):
            store.put_file(ingest_plan.key("images", shard, ".tar"), tar, "application/x-tar")
    write_index(store, index_key, entries)
    outcome = outcome_of(shard, entries)
    logger.info("shard %d: %s", shard, _counts_text(outcome))
    return outcome


def _download_into(
    tar_path: Path,
    client: IsicClient,
    records: list[ImageRecord],
    known: Mapping[str, IndexEntry],
) -> Iterator[IndexEntry]:
    progress = Progress(logger, "images", len(records))
    wanted = [record for record in records if _settled(record, known) is None]
    for record in records:
        settled = _settled(record, known)
        if settled is not None:
            progress.advance()
            yield settled
    with tarfile.open(tar_path, "w", format=tarfile.PAX_FORMAT) as tar:
        for entry, data in concurrently(_examined, client.download(wanted), concurrency=4):
            if data is not None and entry.status != "failed":
                _add_to_tar(tar, entry.isic_id, data)
            progress.advance()
            yield entry


def _settled(record: ImageRecord, known: Mapping[str, IndexEntry]) -> IndexEntry | None:
    if not is_image_id(record.isic_id):
        return IndexEntry(record.isic_id, "failed", f"not an image identifier: {record.isic_id!r}")
    earlier = known.get(record.isic_id)
    return earlier if earlier and earlier.size == record.size else None


def _examined(download_: Download) -> tuple[IndexEntry, bytes | None]:
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
        return replace(entry, facts=measure(data, decode(data))), data
    except ImageRefusedError as error:
        return replace(entry, status="refused", reason=str(error)), data


def _add_to_tar(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _known_images(store: Store, dataset: str) -> dict[str, IndexEntry]:
    try:
        pointer = read_pointer(store, dataset)
    except NotFoundError:
        return {}
    known = {
        row["isic_id"]: _entry_from_manifest(row)
        for row in read_manifest(store, pointer).to_dict("records")
    }
    for refusal in read_refusals(store, pointer):
        known[refusal.isic_id] = IndexEntry(
            refusal.isic_id, "known", refusal.reason, refusal.sha256, refusal.size
        )
    return known


def _entry_from_manifest(row: Mapping[Hashable, object]) -> IndexEntry:
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
