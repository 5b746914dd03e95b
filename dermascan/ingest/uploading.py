"""The third step: a shard's images in their final place."""

import logging
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from dermascan.errors import IntegrityError, NotFoundError
from dermascan.fingerprint import sha256_hex
from dermascan.ingest.staging import (
    IndexEntry,
    IngestPlan,
    ShardOutcome,
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
    entries = required_index(store, ingest_plan, shard)
    placed = read_index(store, placed_key)
    if placed is not None and _identities(placed) == _identities(entries):
        logger.info("shard %d is uploaded already, nothing to do", shard)
        return replace(outcome_of(shard, placed), skipped=True)
    index = {entry.isic_id: entry for entry in entries}
    packed = [entry for entry in entries if entry.packed]
    if packed:
        try:
            index |= _placed(store, ingest_plan, shard, packed)
        except (IntegrityError, NotFoundError):
            store.delete([ingest_plan.key("index", shard, ".jsonl")])  # so that it is fetched anew
            raise
    else:
        logger.info("shard %d has no new images, nothing to upload", shard)
    write_index(store, placed_key, index.values())
    return outcome_of(shard, list(index.values()))


def _identities(entries: list[IndexEntry]) -> list[tuple[str, str, str | None]]:
    return sorted((entry.isic_id, entry.status, entry.sha256) for entry in entries)


def _placed(
    store: Store, ingest_plan: IngestPlan, shard: int, packed: list[IndexEntry]
) -> dict[str, IndexEntry]:
    with tempfile.TemporaryDirectory() as folder:
        tar = Path(folder) / "images.tar"
        store.get_file(ingest_plan.key("images", shard, ".tar"), tar)
        index = {entry.isic_id: entry for entry in packed}
        pairs = tracked(_tar_images(tar, index), logger, "images", len(packed))
        place = partial(_place, store, DatasetKeys(ingest_plan.dataset))
        placed = {entry.isic_id: entry for entry in concurrently(place, pairs)}
    if placed.keys() != index.keys():
        raise IntegrityError(f"the pack of shard {shard} lacks images: clear the download task")
    return placed


def _tar_images(path: Path, index: Mapping[str, IndexEntry]) -> Iterator[tuple[IndexEntry, bytes]]:
    with tarfile.open(path) as tar:
        for member in tar:
            file = tar.extractfile(member)
            data = file.read() if file else b""
            entry = index.get(member.name)
            if entry is None:
                continue  # fetched by a try that died before its index
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
