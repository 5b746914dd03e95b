import base64
import gzip
import io
import json
import sqlite3
import zipfile
import zlib
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest
from traces import traces, traces_in_folder

WANTED = {"secret": "aVerySecretText/42+", "other": "never there"}
TEXT = WANTED["secret"].encode()


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", b"..." + TEXT)
    return file.getvalue()


def parquet() -> bytes:
    table = pd.DataFrame({"a": ["..", WANTED["secret"]]})
    return table.to_parquet(compression="zstd")


@pytest.mark.parametrize(
    "data",
    [
        b"before" + TEXT,
        WANTED["secret"].encode("utf-16-le"),
        TEXT.hex().encode(),
        json.dumps(WANTED["secret"]).encode(),
        *(base64.b64encode(bytes(n) + TEXT + b"tail") for n in range(3)),
        gzip.compress(b"x" * 99 + TEXT, mtime=0),
        gzip.compress(gzip.compress(TEXT, mtime=0), mtime=0),
        zipped(),
        parquet(),
        b"\x89PNG...." + zlib.compress(TEXT),
        b"src='data:image/jpeg;base64," + base64.b64encode(gzip.compress(TEXT, mtime=0)) + b"'",
    ],
)
def test_traces_when_a_text_is_there_finds_it_in_any_wrapping(data: bytes):
    assert traces(data, WANTED) == {"secret"}


def test_traces_in_folder_when_a_text_is_long_finds_it_across_pages_of_a_database(tmp_path: Path):
    wanted = {"long": "0123456789abcdef" * 2000}
    with closing(sqlite3.connect(tmp_path / "a.db")) as database:
        database.execute("create table notes (text)")
        database.execute("insert into notes values (?)", [wanted["long"]])
        database.commit()
    assert traces((tmp_path / "a.db").read_bytes(), wanted) == set()
    assert traces_in_folder(tmp_path, wanted, set()) == {"a.db": "long"}


def test_traces_in_folder_when_a_file_may_hold_it_leaves_it_out(tmp_path: Path):
    for name in ("allowed", "log"):
        (tmp_path / name).write_bytes(TEXT)
    assert traces_in_folder(tmp_path, WANTED, {tmp_path / "allowed"}) == {"log": "secret"}
