"""The rows of a manifest on disk, so that a manifest of any length can be sorted and named."""

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator
from heapq import merge
from operator import itemgetter
from pathlib import Path
from typing import cast

import pyarrow as pa

from dermascan.dataset import MANIFEST_SCHEMA
from dermascan.fingerprint import FINGERPRINT_HEX_DIGITS, Plain, canonical_json

Row = dict[str, Plain]

_WHOLE_NUMBERS = tuple(each.name for each in MANIFEST_SCHEMA if pa.types.is_integer(each.type))


class ManifestRows:
    """Collects rows shard by shard, and gives them back in the order of `isic_id`.

    Args:
        folder: for one file a shard.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0
        self._files: list[Path] = []
        self._with_nulls: set[str] = set()

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._count

    def __iter__(self) -> Iterator[Row]:
        """Yield the rows, of each shard one at a time in memory."""
        shards = (_read(path) for path in self._files)
        return merge(*shards, key=itemgetter("isic_id"))

    def add(self, rows: Iterable[Row]) -> None:
        """Take in the rows of a shard, with the columns of `MANIFEST_SCHEMA`."""
        path = self._folder / f"{len(self._files)}.jsonl"
        places = []
        with tempfile.TemporaryFile(dir=self._folder) as unsorted:
            for row in rows:
                places.append((str(row["isic_id"]), unsorted.tell()))
                unsorted.write(self._encoded(row))
            with path.open("wb") as file:
                for _, place in sorted(places):
                    unsorted.seek(place)
                    file.write(unsorted.readline())
        self._count += len(places)
        self._files.append(path)

    def _encoded(self, row: Row) -> bytes:
        self._with_nulls |= {name for name in _WHOLE_NUMBERS if row.get(name) is None}
        return canonical_json(row) + b"\n"

    def fingerprint(self) -> str:
        """Return what `dataset.manifest_fingerprint` returns for these rows."""
        digest = hashlib.sha256()
        for row in self:
            digest.update(canonical_json([self._as_named(row, n) for n in MANIFEST_SCHEMA.names]))
        return digest.hexdigest()[:FINGERPRINT_HEX_DIGITS]

    def _as_named(self, row: Row, name: str) -> Plain:
        """Return a value as pandas holds it: whole numbers that can be missing as floats."""
        value = row.get(name)
        if name in self._with_nulls and value is not None:
            return float(cast("int", value))
        return value


def _read(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        for line in file:
            yield json.loads(line)
