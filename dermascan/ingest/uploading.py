"""The third step: a shard's images in their final place."""

import logging
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from dermascan.errors import IntegrityError, NotFoundError
from dermascan.fingerprint import sha256_hex
from dermascan.ingest.staging import (
    JSON_LINES,
    IndexEntry,
    IngestPlan,
    ShardOutcome,
    StagedIndex,
    outcome_of,
    read_index,
    required_index,
    write_index,
)
from dermascan.layout import DatasetKeys
from dermascan.progress import tracked
from dermascan.storage import Store, concurrently

logger = logging.getLogger(__name__)


def upload(store: Store, ingest_plan: IngestPlan, shard: int) -> ShardOutcome:
    """Put a shard's new images under `raw/` and its refused ones in quarantine.

    Raises:
        IntegrityError: bytes changed between download and upload.
    """
    placed_key = ingest_plan.key("placed", shard, ".jsonl")
    index = required_index(store, ingest_plan, shard)
    placed = read_index(store, placed_key)
    if placed is not None and _identities(placed) == _identities(index):
        logger.info("shard %d is uploaded already, nothing to do", shard)
        return replace(outcome_of(shard, placed.values()), skipped=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "placed.jsonl"
        try:
            outcome = write_index(path, shard, _placed(store, ingest_plan, shard, index))
        except (IntegrityError, NotFoundError):
            store.delete([ingest_plan.key("index", shard, ".jsonl")])  # so that it is fetched anew
            raise
        store.put_file(placed_key, path, JSON_LINES)
    return outcome


def _identities(index: StagedIndex) -> list[tuple[str, str, str | None]]:
    return sorted((entry.isic_id, entry.status, entry.sha256) for entry in index.values())


def _placed(
    store: Store, ingest_plan: IngestPlan, shard: int, index: StagedIndex
) -> Iterator[IndexEntry]:
    """Place what is in the shard's pack; yield the entries of the whole shard."""
    yield from (entry for entry in index.values() if not entry.packed)
    packed = {name for name, entry in index.items() if entry.packed}
    if not packed:
        logger.info("shard %d has no new images, nothing to upload", shard)
        return
    with tempfile.TemporaryDirectory() as folder:
        tar = Path(folder) / "images.tar"
        store.get_file(ingest_plan.key("images", shard, ".tar"), tar)
        pairs = tracked(_tar_images(tar, index, packed), logger, "images", len(packed))
        yield from concurrently(partial(_place, store, DatasetKeys(ingest_plan.dataset)), pairs)
    if packed:
        raise IntegrityError(f"the pack of shard {shard} lacks images: clear the download task")


def _tar_images(
    path: Path, index: StagedIndex, packed: set[str]
) -> Iterator[tuple[IndexEntry, bytes]]:
    """Yield images and bytes of a pack, and take them out of those that it must have."""
    with tarfile.open(path) as tar:
        for member in tar:
            file = tar.extractfile(member)
            data = file.read() if file else b""
            if member.name not in packed:
                continue  # fetched by a try that died before its index
            packed.remove(member.name)
            entry = index[member.name]
            if sha256_hex(data) != entry.sha256:
                raise IntegrityError(
                    f"{entry.isic_id} changed between download and upload: clear the download task"
                )
            yield entry, data


def _place(store: Store, keys: DatasetKeys, pair: tuple[IndexEntry, bytes]) -> IndexEntry:
    entry, data = pair
    if entry.status == "refused":
        key = keys.refused(sha256_hex(data))
        store.put_if_absent(key, data)
        reason = {"isic_id": entry.isic_id, "reason": entry.reason}
        store.put_json(keys.refusal(sha256_hex(data), entry.isic_id), reason)
        return replace(entry, key=key)
    content_type = "image/png" if entry.extension == "png" else "image/jpeg"
    key = keys.image(entry.isic_id, entry.extension)
    if not store.put_immutable(key, data, content_type):
        key = keys.image_revision(entry.isic_id, sha256_hex(data), entry.extension)
        logger.warning("%s has other bytes than before, kept beside them as %s", entry.isic_id, key)
        store.put_immutable(key, data, content_type)
    return replace(entry, key=key)
