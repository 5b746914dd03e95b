import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dermascan.inference import merging
from dermascan.inference.merging import RUNTIME, merge_shards
from dermascan.inference.scoring import (
    EXTENDED_SCHEMA,
    PREDICTIONS_SCHEMA,
    QUALITY_SCHEMA,
    SCORED_SCHEMA,
)

FEATURES = 5
LONGEST = 9


def shard_of(images: range) -> pd.DataFrame:
    """Return what is staged of images, each fourth rejected, each other scored one pictured."""
    table = pd.DataFrame({"image_key": [f"new/{number:03}.jpg" for number in images]})
    numbers = np.array(images)
    scored = numbers % 4 != 2
    table["status"] = np.where(scored, "ok", "rejected")
    table["reason"] = np.where(scored, None, "empty: 0 bytes")
    table["p_malignant"] = np.where(scored, numbers / 100, np.nan)
    table["label"] = np.where(scored, "benign", None)
    table["warnings"] = np.where(scored, "blurred", None)
    table = table.assign(threshold=0.3, model_version=7).reindex(columns=EXTENDED_SCHEMA.names)
    rows = [np.full(FEATURES, n, np.float32) if n % 4 != 2 else None for n in images]
    table["features"] = pd.Series(rows, dtype=object)
    pictures = [b"jpeg %d" % n if n % 4 in {0, 1} else None for n in images]
    return table.assign(picture=pd.Series(pictures, dtype=object))


def staged(table: pd.DataFrame, schema: pa.Schema, rows: int | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    arrow = pa.Table.from_pandas(table, schema=schema, preserve_index=False)
    arrow = arrow.replace_schema_metadata({RUNTIME: b"a stand-in"})
    pq.write_table(arrow, sink, row_group_size=rows)
    return sink.getvalue().to_pybytes()


@pytest.fixture(params=[None, 2, 4])
def shards(request: pytest.FixtureRequest) -> list[bytes]:
    """Return two shards, in one row group each or in several."""
    images = (range(LONGEST), range(LONGEST, 14))
    return [staged(shard_of(each), EXTENDED_SCHEMA, request.param) for each in images]


@pytest.mark.parametrize("rows", [1, 3, 512])
def test_merged_shards_are_the_same_however_many_rows_are_in_memory(
    shards, rows, tmp_path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(merging, "ROWS_IN_MEMORY", rows)

    merged = merge_shards(shards, tmp_path, pictures=3)

    scored = [number for number in range(14) if number % 4 != 2]
    assert (merged.digest.images, merged.digest.scored) == (14, len(scored))
    assert list(merged.pictures) == ["new/013.jpg", "new/012.jpg", "new/009.jpg"]
    assert merged.pictures["new/009.jpg"].jpeg == b"jpeg 9"
    assert merged.features is not None
    assert len(merged.features) == len(scored)
    expected = np.repeat(np.array(scored, np.float32)[:, None], FEATURES, axis=1)
    np.testing.assert_array_equal(merged.features[np.arange(len(scored))], expected)
    np.testing.assert_array_equal(merged.features[np.array([3, 8])], expected[[3, 8]])


def test_files_of_results_have_a_row_group_for_each_shard(shards, tmp_path):
    merge_shards(shards, tmp_path, pictures=3)

    table = pd.concat([shard_of(range(LONGEST)), shard_of(range(LONGEST, 14))], ignore_index=True)
    for name, schema in (("predictions", PREDICTIONS_SCHEMA), ("quality", QUALITY_SCHEMA)):
        written = pq.ParquetFile(tmp_path / f"{name}.parquet")
        groups = [written.metadata.row_group(n).num_rows for n in range(written.num_row_groups)]
        assert groups == [LONGEST, 14 - LONGEST]
        expected = pa.Table.from_pandas(table, schema=schema, preserve_index=False)
        assert written.read().equals(expected)
        assert written.schema_arrow.metadata[RUNTIME] == b"a stand-in"


def test_a_shard_that_an_earlier_release_staged_has_neither_measures_nor_features(tmp_path):
    merged = merge_shards([staged(shard_of(range(6)), PREDICTIONS_SCHEMA)], tmp_path, pictures=3)

    assert (merged.digest.images, merged.digest.measured) == (6, False)
    assert (merged.features, merged.pictures) == (None, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "predictions.csv",
        "predictions.parquet",
    ]


def test_a_shard_of_a_model_without_a_reference_has_no_features(tmp_path):
    table = shard_of(range(4)).assign(features=None)

    merged = merge_shards([staged(table, SCORED_SCHEMA)], tmp_path, pictures=3)

    assert merged.features is None
    assert merged.digest.measured
