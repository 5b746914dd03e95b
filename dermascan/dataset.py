"""Datasets: the manifest of one verified selection of images, and the pointer to it."""

import hashlib
import io
import json
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dermascan.errors import ConflictError, NotFoundError
from dermascan.fingerprint import FINGERPRINT_HEX_DIGITS, Plain, canonical_json
from dermascan.layout import DatasetKeys
from dermascan.storage import Store

logger = logging.getLogger(__name__)

ROWS_IN_MEMORY = 2048
ROWS_CONVERTED = 256
DIAGNOSIS_COLUMNS = ("diagnosis_1", "diagnosis_2", "diagnosis_3", "diagnosis_4", "diagnosis_5")

MANIFEST_SCHEMA = pa.schema(
    [
        # identity and bytes
        ("isic_id", pa.string()),
        ("key", pa.string()),
        ("sha256", pa.string()),
        ("size", pa.int64()),
        # rights
        ("copyright_license", pa.string()),
        ("attribution", pa.string()),
        # ISIC metadata, null where the archive has none or what it has is not valid
        ("patient_id", pa.string()),
        ("lesion_id", pa.string()),
        *((name, pa.string()) for name in DIAGNOSIS_COLUMNS),
        ("diagnosis_confirm_type", pa.string()),
        ("image_type", pa.string()),
        ("age_approx", pa.int32()),
        ("sex", pa.string()),
        ("anatom_site_general", pa.string()),
        ("fitzpatrick_skin_type", pa.string()),
        ("metadata_errors", pa.string()),  # what was not valid, "; " between, null when all was
        ("metadata_json", pa.string()),  # the archive's row as it came
        # decided by `dermascan.taxonomy`, null when no class covers the diagnosis
        ("lesion_class", pa.string()),
        # image facts, measured by `dermascan.imaging`
        ("format", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("sharpness", pa.float64()),
        ("brightness", pa.float64()),
        ("clipped_fraction", pa.float64()),
        ("perceptual_hash", pa.string()),  # 16 hexadecimal digits
    ]
)


@dataclass(frozen=True)
class DatasetPointer:
    """What `raw/<dataset>/current.json` says.

    Attributes:
        dataset: the dataset's name.
        fingerprint: names the manifest by its content.
        manifest_key: key of the Parquet manifest.
        images: rows in the manifest.
        refused: objects of this selection that are in quarantine.
        failed: images that could not be downloaded, or that the archive did not list.
        left_out_key: key of the list of refused and failed images, JSON lines.
    """

    dataset: str
    fingerprint: str
    manifest_key: str
    images: int
    refused: int
    failed: int
    left_out_key: str

    def as_plain(self) -> dict[str, Plain]:
        """Return the pointer as a JSON-ready mapping."""
        return asdict(self)


def manifest_fingerprint(manifest: pd.DataFrame) -> str:
    """Name a manifest by all that it says, whatever the order of its rows."""
    ordered = manifest.sort_values("isic_id")[MANIFEST_SCHEMA.names].astype(object)
    rows = ordered.where(ordered.notna(), None).itertuples(index=False)
    digest = hashlib.sha256()
    for row in rows:
        digest.update(canonical_json(list(row)))
    return digest.hexdigest()[:FINGERPRINT_HEX_DIGITS]


def write_manifest(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write a manifest's rows, sorted by `isic_id`, as Parquet; a few are in memory at a time."""
    remaining = iter(rows)
    with pq.ParquetWriter(path, MANIFEST_SCHEMA, compression="zstd") as writer:
        while table := _next_row_group(remaining):
            writer.write_table(table)


def _next_row_group(rows: Iterator[Mapping[str, object]]) -> pa.Table:
    """Take the next rows into a table, a few at a time: a row is 20 times as large before."""
    group = islice(rows, ROWS_IN_MEMORY)
    parts = iter(lambda: list(islice(group, ROWS_CONVERTED)), [])
    tables = [pa.Table.from_pylist(part, schema=MANIFEST_SCHEMA) for part in parts]
    return pa.concat_tables([MANIFEST_SCHEMA.empty_table(), *tables]).combine_chunks()


def encode_manifest(manifest: pd.DataFrame) -> bytes:
    """Encode a manifest as Parquet, sorted by `isic_id`; equal manifests give equal bytes."""
    ordered = manifest.sort_values("isic_id").reset_index(drop=True)
    table = pa.Table.from_pandas(ordered, schema=MANIFEST_SCHEMA, preserve_index=False)
    sink = io.BytesIO()
    plain = table.replace_schema_metadata(None)
    pq.write_table(plain, sink, compression="zstd", row_group_size=ROWS_IN_MEMORY)
    return sink.getvalue()


def decode_manifest(data: bytes) -> pd.DataFrame:
    """Decode a Parquet manifest; columns as in `MANIFEST_SCHEMA`."""
    table = pq.read_table(io.BytesIO(data))
    return cast("pd.DataFrame", table.to_pandas(self_destruct=True, split_blocks=True))


def read_pointer(store: Store, dataset: str) -> DatasetPointer:
    """Return the pointer of a dataset.

    Raises:
        NotFoundError: nothing was ever published under this name.
    """
    value, _ = store.read_pointer(DatasetKeys(dataset).pointer)
    if value is None:
        message = f"dataset {dataset!r} does not exist in {store.bucket!r}: run ingest_isic first"
        raise NotFoundError(message)
    return DatasetPointer(**value)  # type: ignore[arg-type]  # JSON written by publish()


def read_manifest(store: Store, pointer: DatasetPointer) -> pd.DataFrame:
    """Return the manifest that a pointer names."""
    return decode_manifest(store.get(pointer.manifest_key))


@contextmanager
def open_parquet(store: Store, key: str) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file in object storage, for as long as the block lasts, on a local copy."""
    with tempfile.TemporaryDirectory(prefix="dermascan-") as folder:
        path = Path(folder) / "table.parquet"
        store.get_file(key, path)
        with pq.ParquetFile(path) as file:
            yield file


def row_groups(file: pq.ParquetFile, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yield some columns of a Parquet file's rows, at most `ROWS_IN_MEMORY` at a time."""
    for number in range(file.num_row_groups):
        yield file.read_row_group(number, columns=list(columns), use_threads=False)


def read_columns(file: pq.ParquetFile, columns: Sequence[str]) -> pd.DataFrame:
    """Return some columns of all rows of a Parquet file; text stays in Arrow's memory."""
    tables = [file.schema_arrow.empty_table(), *row_groups(file, columns)]
    parts: list[pd.DataFrame] = [table.select(list(columns)).to_pandas() for table in tables]
    return pd.concat(parts, ignore_index=True)


def number_values(file: pq.ParquetFile, column: str) -> NDArray[np.int32]:
    """Number the values of a column of strings, of which only a few are in memory at a time.

    Returns:
        For each row a number: the same for equal values, another for others, and -1 for null.
    """
    values = (value for table in row_groups(file, [column]) for value in table[column].to_pylist())
    digests = np.fromiter(map(_digest, values), "S16", file.metadata.num_rows)
    order = np.argsort(digests)
    digests = digests[order]
    known = digests != b""
    differs = np.append(True, digests[1:] != digests[:-1])[: len(order)]
    numbers = np.empty(len(order), np.int32)
    numbers[order] = np.where(known, np.cumsum(differs & known, dtype=np.int32), 0) - 1
    return numbers


def _digest(value: str | None) -> bytes:
    return b"" if value is None else hashlib.blake2b(value.encode(), digest_size=16).digest()


@dataclass(frozen=True)
class Refusal:
    """An object of a dataset's selection that is in quarantine, and why."""

    isic_id: str
    reason: str
    sha256: str
    size: int


def read_refusals(store: Store, pointer: DatasetPointer) -> list[Refusal]:
    """Return what was refused when a manifest was made."""
    body = store.get(pointer.left_out_key)
    rows = [json.loads(line) for line in body.splitlines()]
    return [
        Refusal(row["isic_id"], row["reason"], row["sha256"], row["size"])
        for row in rows
        if row["sha256"] is not None
    ]


def read_rows(
    store: Store, pointer: DatasetPointer, isic_ids: Sequence[str], columns: Sequence[str]
) -> Iterator[dict[str, Plain]]:
    """Yield some columns of some rows of a manifest, without holding the others in memory."""
    wanted = pa.array(isic_ids, pa.string())
    with open_parquet(store, pointer.manifest_key) as manifest:
        for table in row_groups(manifest, ["isic_id", *columns]):
            found = table.filter(pc.is_in(table["isic_id"], wanted)).select(list(columns))
            yield from cast("list[dict[str, Plain]]", found.to_pylist())


def publish(store: Store, pointer: DatasetPointer, manifest: pd.DataFrame) -> bool:
    """Store a manifest, then move its dataset's pointer to it; see `publish_file`."""
    with tempfile.TemporaryDirectory(prefix="dermascan-") as folder:
        path = Path(folder) / "manifest.parquet"
        path.write_bytes(encode_manifest(manifest))
        return publish_file(store, pointer, path)


def publish_file(store: Store, pointer: DatasetPointer, manifest: Path) -> bool:
    """Store a manifest that is a Parquet file already, then move its dataset's pointer to it.

    Returns:
        True if the pointer moved, False if it already said the same.
    """
    store.put_named_file(pointer.manifest_key, manifest)
    pointer_key = DatasetKeys(pointer.dataset).pointer
    for _ in range(5):
        current, tag = store.read_pointer(pointer_key)
        if current == pointer.as_plain():
            return False
        try:
            store.move_pointer(pointer_key, pointer.as_plain(), tag)
        except ConflictError:
            logger.info("%s moved meanwhile, trying again", pointer_key)
            continue
        return True
    message = f"{pointer_key} is being moved by others all the time: run one ingest at a time"
    raise ConflictError(message)
