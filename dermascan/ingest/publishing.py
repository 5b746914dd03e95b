"""The last step: the shards become a manifest, and the dataset's pointer moves to it."""

import logging
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq

from dermascan.dataset import DatasetPointer, publish_file, row_groups, write_manifest
from dermascan.errors import InputError, NotFoundError, PermanentError
from dermascan.fingerprint import Plain, canonical_json, fingerprint
from dermascan.ingest.manifest_rows import ManifestRows, Row
from dermascan.ingest.staging import (
    JSON_LINES,
    IndexEntry,
    IngestPlan,
    describe_failures,
    read_records,
    required_index,
)
from dermascan.isic.client import ImageRecord, IsicClient
from dermascan.isic.metadata import parse_metadata
from dermascan.layout import DatasetKeys
from dermascan.memory import give_back_memory
from dermascan.storage import Store

logger = logging.getLogger(__name__)


def publish_manifest(
    store: Store, client: IsicClient, ingest_plan: IngestPlan, max_failed_share: float = 0.01
) -> DatasetPointer:
    """Merge the shards into a manifest and move the dataset's pointer to it.

    Args:
        store: the bucket.
        client: asked for the text of each licence.
        ingest_plan: what was planned.
        max_failed_share: share of images, 0 to 1, that may have failed.

    Raises:
        PermanentError: more images failed than allowed; the message names them.
    """
    done = _published_before(store, ingest_plan)
    if done is not None:
        return done
    try:
        return _publish_shards(store, client, ingest_plan, max_failed_share)
    except NotFoundError:
        done = _published_before(store, ingest_plan)  # by a twin, which cleared what was missed
        if done is None:
            raise
        return done


def _published_before(store: Store, ingest_plan: IngestPlan) -> DatasetPointer | None:
    note_key = DatasetKeys(ingest_plan.dataset).published(ingest_plan.plan)
    if store.exists(ingest_plan.records_key(0)) or not store.exists(note_key):
        return None
    logger.info("published already, nothing to do")
    return DatasetPointer(**store.get_json(note_key))  # type: ignore[arg-type]  # written below


def _publish_shards(
    store: Store, client: IsicClient, ingest_plan: IngestPlan, max_failed_share: float
) -> DatasetPointer:
    with tempfile.TemporaryDirectory(prefix="dermascan-") as folder:
        path = Path(folder) / "manifest.parquet"
        rows = ManifestRows(Path(folder))
        left_out: list[IndexEntry] = []
        for shard in range(ingest_plan.shards):
            left_out += _collect(store, ingest_plan, shard, rows)
        _check_failures(_failed(left_out), ingest_plan, max_failed_share)
        if not len(rows):
            message = f"none of {ingest_plan.images} images is usable: see the quarantine"
            raise PermanentError(message)
        write_manifest(path, rows)
        made = _Manifest(rows.fingerprint(), path, len(rows))
        return _published(store, client, ingest_plan, left_out, made)


@dataclass(frozen=True)
class _Manifest:
    """A manifest that is made: its fingerprint, its Parquet file, and its number of rows."""

    fingerprint: str
    path: Path
    images: int


@dataclass(frozen=True, eq=False)
class _Contents:
    """How many images of a manifest have each rights holder and licence, and each class."""

    rights: Counter[tuple[str | None, str | None]]
    classes: Counter[str | None]

    @classmethod
    def of(cls, manifest: Path) -> "_Contents":
        found = cls(Counter(), Counter())
        with pq.ParquetFile(manifest) as file:
            for table in row_groups(file, ["attribution", "copyright_license", "lesion_class"]):
                holders, licences, classes = (column.to_pylist() for column in table.columns)
                found.rights.update(zip(holders, licences, strict=True))
                found.classes.update(classes)
        return found


def _collect(
    store: Store, ingest_plan: IngestPlan, shard: int, rows: ManifestRows
) -> list[IndexEntry]:
    """Add a shard's images to the rows of the manifest; return what does not belong there."""
    entries = required_index(store, ingest_plan, shard, "placed")
    records = read_records(store, ingest_plan, shard)
    pairs = ((record, entries[record.isic_id]) for record in records)
    rows.add(_manifest_row(record, entry) for record, entry in pairs if entry.usable)
    return [entry for entry in entries.values() if not entry.usable]


def _failed(left_out: list[IndexEntry]) -> list[IndexEntry]:
    return [entry for entry in left_out if entry.status == "failed"]


def _published(
    store: Store,
    client: IsicClient,
    ingest_plan: IngestPlan,
    left_out: list[IndexEntry],
    made: _Manifest,
) -> DatasetPointer:
    name, failed = made.fingerprint, _failed(left_out)
    refused = [entry for entry in left_out if entry.status != "failed"]
    left_out_key = _store_left_out(store, ingest_plan.dataset, refused, failed)
    pointer = DatasetPointer(
        dataset=ingest_plan.dataset,
        fingerprint=name,
        manifest_key=DatasetKeys(ingest_plan.dataset).manifest(name),
        images=made.images,
        refused=len(refused),
        failed=len(failed) + ingest_plan.missing,
        left_out_key=left_out_key,
    )
    contents = _Contents.of(made.path)
    _store_companions(store, client, pointer, contents)
    give_back_memory()  # what the rows took; parts of a large file take 10 MiB
    moved = publish_file(store, pointer, made.path)
    note_key = DatasetKeys(ingest_plan.dataset).published(ingest_plan.plan)
    store.put_json(note_key, pointer.as_plain())
    staging = DatasetKeys(ingest_plan.dataset).plan(ingest_plan.plan)
    store.delete([found.key for found in store.list(staging)])
    logger.info("%s", _publication_text(pointer, contents, moved))
    return pointer


def _check_failures(failed: list[IndexEntry], ingest_plan: IngestPlan, allowed: float) -> None:
    for entry in failed:
        logger.warning("%s could not be downloaded: %s", entry.isic_id, entry.reason)
    if len(failed) + ingest_plan.missing > allowed * ingest_plan.images:
        raise PermanentError(
            f"of {ingest_plan.images} images {describe_failures(failed)}; the archive did not list "
            f"{ingest_plan.missing} more that it counted. That is more than {allowed:.1%}. Clear "
            "the download_from_isic tasks to try again, or raise max_failed_share"
        )


def _manifest_row(record: ImageRecord, entry: IndexEntry) -> Row:
    metadata = parse_metadata(record)
    values = metadata.model_dump(exclude={"errors"})
    return {
        **values,
        **(asdict(entry.facts) if entry.facts else {}),
        "isic_id": entry.isic_id,
        "key": entry.key,
        "sha256": entry.sha256,
        "size": entry.size,
        "copyright_license": record.copyright_license,
        "attribution": record.attribution,
        "metadata_errors": "; ".join(metadata.errors) or None,
        "metadata_json": canonical_json(dict(record.metadata)).decode(),
    }


def _store_companions(
    store: Store,
    client: IsicClient,
    pointer: DatasetPointer,
    contents: _Contents,
) -> None:
    keys = DatasetKeys(pointer.dataset)
    attribution = _attribution_text(contents).encode()
    store.put(keys.attribution(pointer.fingerprint), attribution, "text/plain; charset=utf-8")
    store.put_json(keys.class_counts(pointer.fingerprint), class_counts(contents.classes))
    for name in sorted({name for _, name in contents.rights if name}):
        _store_license(store, client, name, keys.license(name))


def _store_license(store: Store, client: IsicClient, name: str, key: str) -> None:
    if store.exists(key):
        return
    try:
        text = client.license_text(name)
    except InputError as error:
        logger.warning("only the name of licence %r is kept: %s", name, error)
    else:
        store.put(key, text.encode(), "text/plain; charset=utf-8")


def _store_left_out(
    store: Store, dataset: str, refused: list[IndexEntry], failed: list[IndexEntry]
) -> str:
    """Store the list of what is not in the manifest, and return its key."""
    keys = DatasetKeys(dataset)
    entries = [
        *(replace(e, status="refused", key=keys.refused(str(e.sha256))) for e in refused),
        *failed,
    ]
    ordered = sorted(entries, key=lambda entry: entry.isic_id)
    key = keys.left_out(fingerprint([entry.to_line().decode() for entry in ordered]))
    store.put(key, b"".join(entry.to_line() for entry in ordered), JSON_LINES)
    return key


def class_counts(classes: Counter[str | None]) -> dict[str, Plain]:
    """Say how many images each lesion class has, for pages that cannot wait for a manifest."""
    return {
        "classes": {name: images for name, images in classes.items() if name is not None},
        "without_class": classes[None],
    }


def _attribution_text(contents: _Contents) -> str:
    """Say who made the images of a manifest and under which licences they may be used."""
    counts: Counter[tuple[str, str]] = Counter()
    for (holder, name), images in contents.rights.items():
        counts[holder or "Unknown", name or "no licence stated"] += images
    lines = [f"{holder} ({name}): {n} images" for (holder, name), n in sorted(counts.items())]
    return "\n".join(["Images of this dataset, by rights holder and licence:", "", *lines, ""])


def _publication_text(pointer: DatasetPointer, contents: _Contents, moved: bool) -> str:
    unmapped = contents.classes[None]
    state = "published" if moved else "was published already, nothing changed"
    return (
        f"dataset {pointer.dataset!r} {state}: {pointer.images} images "
        f"({unmapped} without a lesion class, left out of training), {pointer.refused} refused, "
        f"{pointer.failed} failed; manifest {pointer.manifest_key}"
    )
