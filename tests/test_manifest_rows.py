import json
import random

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermascan import dataset
from dermascan.dataset import (
    MANIFEST_SCHEMA,
    decode_manifest,
    encode_manifest,
    manifest_fingerprint,
    write_manifest,
)
from dermascan.fingerprint import (
    ListFingerprint,
    canonical_json,
    canonical_json_of,
    fingerprint,
    items_of_canonical_json,
)
from dermascan.ingest.manifest_rows import ManifestRows


def row(number: int, age: int | None) -> dict[str, object]:
    return {
        "isic_id": f"ISIC_{number:07d}",
        "key": f"raw/x/images/ISIC_{number:07d}.jpg",
        "size": 1000 + number,
        "attribution": "Jane Doe, Straße 1",
        "age_approx": age,
        "width": 48,
        "sharpness": number / 7,
        "lesion_class": None if number % 5 else "nv",
    }


def shuffled_rows(ages: list[int | None]) -> list[dict[str, object]]:
    rows = [row(number, age) for number, age in enumerate(ages)]
    random.Random(0).shuffle(rows)
    return rows


@pytest.mark.parametrize("ages", [[45] * 23, [None, 50, 60] * 8, [None] * 20])
def test_manifest_rows_in_shards_are_named_and_written_as_one_table(tmp_path, monkeypatch, ages):
    monkeypatch.setattr(dataset, "ROWS_IN_MEMORY", 5)
    monkeypatch.setattr(dataset, "ROWS_CONVERTED", 2)
    rows = shuffled_rows(ages)
    table = pd.DataFrame(rows, columns=MANIFEST_SCHEMA.names)
    collected = ManifestRows(tmp_path)
    for start in range(0, len(rows), 7):
        collected.add(rows[start : start + 7])

    write_manifest(tmp_path / "manifest.parquet", collected)

    written = decode_manifest((tmp_path / "manifest.parquet").read_bytes())
    assert len(collected) == len(rows)
    assert collected.fingerprint() == manifest_fingerprint(table) == manifest_fingerprint(written)
    pd.testing.assert_frame_equal(written, decode_manifest(encode_manifest(table)))
    assert (tmp_path / "manifest.parquet").read_bytes() == encode_manifest(table)


@given(st.lists(st.one_of(st.text(), st.integers(), st.lists(st.none()))))
def test_list_fingerprint_names_what_fingerprint_names(values):
    growing = ListFingerprint()
    for value in values:
        growing.add(value)

    assert growing.name() == fingerprint(values)

    growing.add_list(values)

    assert growing.name() == fingerprint([*values, values])


@given(st.dictionaries(st.text(), st.one_of(st.text(), st.integers())))
def test_items_are_encoded_and_decoded_as_their_mapping(mapping):
    encoded = canonical_json_of(sorted(mapping.items()))

    assert encoded == canonical_json(mapping)
    assert list(items_of_canonical_json(encoded)) == sorted(mapping.items())


@pytest.mark.parametrize("end", range(15))
def test_items_of_a_mapping_that_was_cut_off_are_not_taken_for_all(end):
    encoded = canonical_json({"a": 1, "b": "x"})

    assert len(encoded) == 15
    with pytest.raises(json.JSONDecodeError):
        list(items_of_canonical_json(encoded[:end]))
