"""The shards of a batch-inference run as files of results, one shard in memory at a time."""

import heapq
import io
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from dermascan.drift.features import FeatureFile
from dermascan.inference.digest import BatchDigest
from dermascan.inference.pictures import Picture
from dermascan.inference.scoring import PREDICTIONS_SCHEMA, QUALITY_SCHEMA

RUNTIME = b"dermascan.runtime"  # key of a Parquet file's metadata
ROWS_IN_MEMORY = 512
_SHOWN = tuple(name for name in PREDICTIONS_SCHEMA.names if name != "isic_id")

_Ranked = tuple[float, str, Picture]


@dataclass(frozen=True, eq=False)
class Merged:
    """All shards together.

    Attributes:
        digest: of the predictions.
        features: of the scored images, for `dermascan.drift`, in the folder of the results; None if
            the model version has no reference.
        pictures: of the images of highest risk, by `image_key`.
        runtime: what computed the scores, empty if not recorded.
    """

    digest: BatchDigest
    features: FeatureFile | None
    pictures: dict[str, Picture]
    runtime: str = ""


def merge_shards(shards: Iterable[bytes], folder: Path, pictures: int) -> Merged:
    """Write `predictions.parquet` and `.csv`, and `quality.parquet` if images were measured.

    Args:
        shards: Parquet files with the columns of `EXTENDED_SCHEMA`; of an earlier release with
            those of `PREDICTIONS_SCHEMA` alone.
        folder: for the files, and for one of features.
        pictures: how many are kept at most.
    """
    digest, features = BatchDigest(), _Features(folder / "features.f32")
    best: list[_Ranked] = []
    runtimes: set[str] = set()
    with _Files(folder) as files:
        for shard in map(_open, shards):
            runtimes.add(_runtime(shard))
            files.write(shard)
            for table in _tables(shard):
                digest.add(_shown(table).to_pandas(use_threads=False))
                if "features" in table.column_names:
                    features.add(table["features"])
                if "picture" in table.column_names:
                    best = heapq.nsmallest(pictures, [*best, *_pictures(table)], key=_rank)
        runtime = ", ".join(sorted(runtimes - {""}))
        files.note({RUNTIME.decode(): runtime})
    drawn = {key: picture for _, key, picture in best}
    return Merged(digest, features.written(), drawn, runtime)


class _Files:
    """The files of results, to which shard after shard is added."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._open = folder, ExitStack()
        self._quality: pq.ParquetWriter | None = None

    def __enter__(self) -> Self:
        schema = PREDICTIONS_SCHEMA
        self._predictions = self._open.enter_context(self._parquet("predictions", schema))
        self._csv = self._open.enter_context(
            pyarrow.csv.CSVWriter(self._folder / "predictions.csv", schema)
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def write(self, shard: pq.ParquetFile) -> None:
        predictions = _plain(shard, PREDICTIONS_SCHEMA)
        self._predictions.write_table(predictions)
        self._csv.write_table(predictions)
        if "warnings" not in shard.schema_arrow.names:  # staged by an earlier release
            return
        if self._quality is None:
            self._quality = self._open.enter_context(self._parquet("quality", QUALITY_SCHEMA))
        self._quality.write_table(_plain(shard, QUALITY_SCHEMA))

    def note(self, metadata: dict[str, str]) -> None:
        """Leave metadata in the Parquet files."""
        for file in (self._predictions, self._quality):
            if file is not None:
                file.add_key_value_metadata(metadata)

    def _parquet(self, name: str, schema: pa.Schema) -> pq.ParquetWriter:
        path = self._folder / f"{name}.parquet"
        # With a schema of Arrow beside its own, readers would not see metadata that is added last.
        return pq.ParquetWriter(path, schema, compression="zstd", store_schema=False)


def _open(shard: bytes) -> pq.ParquetFile:
    return pq.ParquetFile(io.BytesIO(shard))


def _tables(shard: pq.ParquetFile) -> Iterator[pa.Table]:
    for batch in shard.iter_batches(ROWS_IN_MEMORY, use_threads=False):
        yield pa.Table.from_batches([batch])


def _plain(shard: pq.ParquetFile, schema: pa.Schema) -> pa.Table:
    """Return some columns in one piece, and so in one row group of a file."""
    table = shard.read(schema.names, use_threads=False)
    return table.select(schema.names).cast(schema).combine_chunks()


def _runtime(shard: pq.ParquetFile) -> str:
    found: bytes = (shard.schema_arrow.metadata or {}).get(RUNTIME, b"")
    return found.decode()


def _shown(table: pa.Table) -> pa.Table:
    names = [*_SHOWN, *(["warnings"] if "warnings" in table.column_names else [])]
    return table.select(names).replace_schema_metadata(None)


class _Features:
    """Features of images in a file, for of many images only some are looked at."""

    def __init__(self, path: Path) -> None:
        self._path, self._images, self._width = path, 0, 0

    def add(self, column: pa.ChunkedArray) -> None:
        """Add a column of lists, all of one length but those that are null."""
        lists = column.combine_chunks()
        described = len(lists) - lists.null_count
        if described:
            values = np.array(lists.flatten(), np.float32)
            self._images, self._width = self._images + described, len(values) // described
            with self._path.open("ab") as file:
                file.write(values.data)

    def written(self) -> FeatureFile | None:
        return FeatureFile(self._path, self._images, self._width) if self._images else None


def _pictures(table: pa.Table) -> Iterator[_Ranked]:
    drawn = table.filter(pc.is_valid(table["picture"]))
    names = ("p_malignant", "image_key", "picture", "overlay")
    columns = [drawn[name].to_pylist() for name in names]
    for risk, key, jpeg, overlay in zip(*columns, strict=True):
        yield risk, key, Picture(jpeg, overlay)


def _rank(ranked: _Ranked) -> tuple[float, str]:
    risk, key, _ = ranked
    return -risk, key
