import json
from collections import Counter

import pandas as pd

from dermascan.dataset import MANIFEST_SCHEMA, DatasetPointer, encode_manifest, publish
from dermascan.ingest.publishing import class_counts
from dermascan.layout import DatasetKeys
from dermascan.overview.datasets import DATASETS_ON_A_PAGE, DatasetReader

CLASSES = ["nv", "nv", "nv", "mel", None]


def table(classes=CLASSES) -> pd.DataFrame:
    rows = [{"isic_id": f"ISIC_{i}", "lesion_class": name} for i, name in enumerate(classes)]
    return pd.DataFrame(rows).reindex(columns=MANIFEST_SCHEMA.names)


def put_dataset(store, name="isic", fingerprint="a" * 24, *, counted=True):
    keys = DatasetKeys(name)
    manifest = table()
    pointer = DatasetPointer(
        name, fingerprint, keys.manifest(fingerprint), len(manifest), 2, 1, "left out"
    )
    if counted:
        store.put_json(keys.class_counts(fingerprint), class_counts(Counter(CLASSES)))
    publish(store, pointer, manifest)


def put_verdict(store, suites, *outcomes, name="isic", fingerprint="a" * 24):
    verdict = {
        "success": all(success for success, severity in outcomes if severity == "critical"),
        "suites": suites,
        "expectations": [{"success": ok, "severity": severity} for ok, severity in outcomes],
    }
    key = f"{DatasetKeys(name).validation(fingerprint)}{suites}/result.json"
    store.put(key, json.dumps(verdict).encode())


def test_a_bucket_without_datasets_has_nothing_to_show(store):
    assert DatasetReader(store).read().items == ()


def test_a_dataset_comes_with_counts_balance_and_the_latest_verdict(store):
    put_dataset(store)
    put_verdict(store, "0" * 12, (False, "critical"))
    put_verdict(store, "1" * 12, (True, "critical"), (False, "warning"))

    (row,) = DatasetReader(store).read().items

    assert (row.name, row.images, row.refused, row.failed) == ("isic", 5, 2, 1)
    assert [(each.code, each.images, each.share) for each in row.balance.classes] == [
        ("nv", 3, 0.75),
        ("mel", 1, 0.25),
    ]
    assert row.balance.without_class == 1
    found = row.validation
    assert (found.success, found.suites, found.expectations) == (True, "1" * 12, 2)
    assert (found.critical, found.warnings) == (0, 1)


def test_a_dataset_from_before_counts_were_written_is_counted_from_its_manifest(store):
    put_dataset(store, "counted")
    put_dataset(store, "older", counted=False)

    counted, older = DatasetReader(store).read().items

    assert older.balance == counted.balance


def test_a_manifest_that_is_too_large_to_count_is_left_alone(store, monkeypatch):
    put_dataset(store, counted=False)
    size = len(encode_manifest(table()))
    monkeypatch.setattr("dermascan.overview.datasets._LARGEST_MANIFEST", size - 1)

    assert DatasetReader(store).read().items[0].balance is None


def test_a_dataset_that_was_not_validated_says_so_and_one_not_published_is_left_out(store):
    put_dataset(store)
    store.put("raw/arriving/images/ISIC_1.jpg", b"image")

    (row,) = DatasetReader(store).read().items

    assert row.validation is None


def test_datasets_are_shown_page_by_page(store):
    names = [f"set-{number}" for number in range(DATASETS_ON_A_PAGE + 1)]
    for name in names:
        put_dataset(store, name)

    page = DatasetReader(store).read(2)

    assert [row.name for row in page.items] == names[-1:]
    assert (page.number, page.count) == (2, 2)
