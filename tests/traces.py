"""Texts looked for in whatever a run leaves behind, through the wrappings they may be in."""

import base64
import gzip
import io
import json
import re
import sqlite3
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq

_DATA_URI = re.compile(rb"base64,([A-Za-z0-9+/=]{16,})")


def traces(data: bytes, wanted: Mapping[str, str]) -> set[str]:
    """Return the names of the texts that occur in bytes, plain, encoded or packed.

    Args:
        data: a file or an object.
        wanted: texts by the name that a failing test shows, so that it shows no secret.
    """
    layers = list(_layers(data))
    return {
        name
        for name, text in wanted.items()
        if any(form in layer for layer in layers for form in _forms(text))
    }


def traces_in_folder(folder: Path, wanted: Mapping[str, str], allowed: set[Path]) -> dict[str, str]:
    """Return the names of the texts that occur under a folder, by file."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and path not in allowed:
            names = traces(path.read_bytes(), wanted)
            if path.suffix == ".db":
                names |= traces(_database_text(path), wanted)
            if names:
                found[str(path.relative_to(folder))] = ", ".join(sorted(names))
    return found


def _database_text(path: Path) -> bytes:
    # As text too: what is longer than a page of the file lies in pieces.
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return "\n".join(database.iterdump()).encode("utf-8", "replace")


def _forms(text: str) -> Iterator[bytes]:
    plain = text.encode()
    yield plain
    yield text.encode("utf-16-le")
    yield text.encode("utf-16-be")
    yield plain.hex().encode()
    yield json.dumps(text)[1:-1].encode()
    for shift in range(3):
        # Base64 of the text wherever it begins, without the characters that its neighbours decide.
        encoded = base64.b64encode(bytes(shift) + plain)
        yield encoded[-(-shift * 8 // 6) : (shift + len(plain)) * 8 // 6]


def _layers(data: bytes, depth: int = 4) -> Iterator[bytes]:
    yield data
    if not depth:
        return
    for inner in _unpacked(data):
        yield from _layers(inner, depth - 1)


def _unpacked(data: bytes) -> Iterator[bytes]:
    if data.startswith(b"\x1f\x8b"):
        yield gzip.decompress(data)
    elif data.startswith(b"PAR1"):
        table = pq.read_table(io.BytesIO(data))
        yield json.dumps(table.to_pylist(), default=str, ensure_ascii=False).encode()
    elif data.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            yield from (archive.read(name) for name in archive.namelist())
    elif data.startswith(b"\x89PNG"):
        yield from _deflated(data)
    for found in _DATA_URI.finditer(data):
        yield base64.b64decode(found[1] + b"=" * (-len(found[1]) % 4))


def _deflated(png: bytes) -> Iterator[bytes]:
    for start in (found.start() for found in re.finditer(rb"\x78[\x01\x9c\xda]", png)):
        try:
            yield zlib.decompressobj().decompress(png[start:], 1 << 20)
        except zlib.error:
            continue
