import io
import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dermascan import dataset
from dermascan.dataset import MANIFEST_SCHEMA, encode_manifest
from dermascan.example_set import SPLIT_SCHEMA, _deal, _Images, _split_tables
from dermascan.layout import DatasetKeys
from dermascan.splits import deal, earlier, split_names
from dermascan.storage import Store

ROWS = 10


@pytest.fixture
def manifest(monkeypatch: pytest.MonkeyPatch) -> pq.ParquetFile:
    """Return images 0 to 9 in row groups of three; 2 has no class, 5 is clinical."""
    monkeypatch.setattr(dataset, "ROWS_IN_MEMORY", 3)
    rows = [
        {
            "isic_id": f"ISIC_{i}",
            "sha256": f"{i:064x}",
            "lesion_id": None if i == 4 else f"IL_{i // 2}",
            "patient_id": None,
            "perceptual_hash": f"{2**64 - 1 - i:016x}",
            "lesion_class": None if i == 2 else "nv",
            "image_type": "clinical: overview" if i == 5 else "dermoscopic",
            "copyright_license": "CC-0" if i in {2, 5} else "CC-BY",
            "age_approx": 50 if i else None,
        }
        for i in range(ROWS)
    ]
    table = pd.DataFrame(rows, columns=MANIFEST_SCHEMA.names)
    return pq.ParquetFile(io.BytesIO(encode_manifest(table)))


def test_images_are_read_across_row_groups_without_those_that_cannot_train(
    manifest: pq.ParquetFile,
):
    images = _Images.read(manifest)

    usable = [0, 1, 3, 4, 6, 7, 8, 9]
    assert images.table["isic_id"].tolist() == [f"ISIC_{i}" for i in usable]
    assert images.table["perceptual_hash"].tolist() == [2**64 - 1 - i for i in usable]
    assert images.table["sha256"].is_unique
    assert images.table["patient_id"].tolist() == [-1] * len(usable)
    lesions = images.table["lesion_id"].tolist()
    assert lesions[0] == lesions[1]
    assert len({lesions[0], *lesions[2:]}) == 5
    assert lesions[3] == -1
    assert (images.licences, images.left_out) == (("CC-BY",), 2)


def test_split_tables_give_each_image_its_split_and_group(manifest: pq.ParquetFile):
    usable = ["ISIC_0", "ISIC_1", "ISIC_3", "ISIC_4", "ISIC_6", "ISIC_7", "ISIC_8", "ISIC_9"]

    tables = list(_split_tables(manifest, ((f"split of {name}", name) for name in usable)))

    assert all(table.schema.equals(SPLIT_SCHEMA) for table in tables)
    rows = [row for table in tables for row in table.to_pylist()]
    assert [(row["isic_id"], row["group"]) for row in rows] == [(name, name) for name in usable]
    assert [row["split"] for row in rows] == [f"split of {name}" for name in usable]
    assert [row["age_approx"] for row in rows] == [None, *[50] * 7]


def test_images_when_none_can_train_are_none(manifest: pq.ParquetFile):
    column = manifest.schema_arrow.get_field_index("lesion_class")
    whole = manifest.read()
    nothing = whole.set_column(column, "lesion_class", pa.nulls(len(whole), pa.string()))
    sink = io.BytesIO()
    pq.write_table(nothing, sink)

    images = _Images.read(pq.ParquetFile(sink))

    assert (len(images.table), images.licences, images.left_out) == (0, (), ROWS)
    assert deal(images.table, earlier(images.table, ())).tolist() == []


def test_ledger_keeps_images_that_a_later_manifest_does_not_have(
    store: Store, manifest: pq.ParquetFile
):
    images = _Images.read(manifest).table
    earlier_ones, later_ones = images[:5].copy(), images[3:].copy()

    first = _deal(store, "x", earlier_ones)
    second = _deal(store, "x", later_ones)

    pointer, _ = store.read_pointer(DatasetKeys("x").split_ledger)
    dealt = {
        **dict(zip(later_ones["isic_id"], split_names(second), strict=True)),
        **dict(zip(earlier_ones["isic_id"], split_names(first), strict=True)),
    }
    assert pointer is not None
    assert json.loads(store.get(str(pointer["key"]))) == dealt
    assert pointer["images"] == len(images) == len(dealt)
