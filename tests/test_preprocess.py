import logging
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hostile import encoded, hostile_images, photograph

import dermascan.preprocess
from dermascan.errors import InputError, IntegrityError
from dermascan.fingerprint import sha256_hex
from dermascan.imaging import (
    ImageRefusedError,
    ImageSize,
    Preprocessing,
    decode,
    decode_for,
    prepare,
)
from dermascan.preprocess import ImageRow, ShardCounts, preprocess_shard
from dermascan.records import read_records
from dermascan.storage import Store
from dermascan.taxonomy import LESION_CLASSES

SETTINGS = Preprocessing(ImageSize(48, 64))
DESTINATION = "processed/part-00000.tfrecord.gz"


def stored(store: Store, data: bytes, number: int = 0) -> ImageRow:
    isic_id = f"ISIC_{number:07d}"
    store.put(f"images/{isic_id}.jpg", data)
    lesion_id = f"IL_{number:07d}" if number % 2 else None
    lesion_class = LESION_CLASSES[number % 7]
    return ImageRow(isic_id, f"images/{isic_id}.jpg", sha256_hex(data), lesion_id, lesion_class)


def stored_photographs(store: Store, count: int) -> list[ImageRow]:
    files = [encoded(photograph(seed=seed), "JPEG") for seed in range(count)]
    return [stored(store, data, number) for number, data in enumerate(files)]


def test_preprocess_shard_when_images_are_good_writes_them_in_order(store: Store, tmp_path: Path):
    rows = stored_photographs(store, 40)
    counts = preprocess_shard(store, rows, SETTINGS, DESTINATION)
    store.get_file(DESTINATION, tmp_path / "part")
    records = list(read_records(tmp_path / "part"))
    assert counts == ShardCounts(40, (tmp_path / "part").stat().st_size)
    assert [record.isic_id for record in records] == [row.isic_id for row in rows]
    assert [LESION_CLASSES[record.label] for record in records] == [r.lesion_class for r in rows]
    assert [record.lesion_id for record in records] == [row.lesion_id for row in rows]
    assert [record.sha256 for record in records] == [row.sha256 for row in rows]
    for row, record in zip(rows, records, strict=True):
        expected = prepare(decode(store.get(row.key)), SETTINGS)
        np.testing.assert_array_equal(record.image, expected)


def test_preprocess_shard_when_repeated_elsewhere_gives_equal_bytes(store: Store):
    rows = stored_photographs(store, 5)
    for destination in ("one", "two"):
        preprocess_shard(store, rows, SETTINGS, destination)
    assert store.get("one") == store.get("two")


def test_preprocess_shard_when_output_is_there_does_nothing_and_says_so(
    store: Store, caplog: pytest.LogCaptureFixture
):
    rows = stored_photographs(store, 3)
    first = preprocess_shard(store, rows, SETTINGS, DESTINATION)
    store.delete([row.key for row in rows])
    with caplog.at_level(logging.INFO):
        second = preprocess_shard(store, rows, SETTINGS, DESTINATION)
    assert second == ShardCounts(first.images, first.bytes, skipped=True)
    assert "nothing to do" in caplog.text


def test_preprocess_shard_when_an_original_changed_raises_and_writes_nothing(store: Store):
    rows = stored_photographs(store, 3)
    store.put(rows[1].key, encoded(photograph(seed=99), "JPEG"))
    with pytest.raises(IntegrityError, match=rows[1].key):
        preprocess_shard(store, rows, SETTINGS, DESTINATION)
    assert not store.exists(DESTINATION)


def test_preprocess_shard_when_an_original_is_unreadable_names_it_and_why(store: Store):
    row = stored(store, hostile_images()["cmyk_jpeg"])
    with pytest.raises(ImageRefusedError, match=rf"wrong_mode.*{row.key}"):
        preprocess_shard(store, [row], SETTINGS, DESTINATION)
    assert not store.exists(DESTINATION)


def test_preprocess_shard_when_a_class_is_unknown_raises_before_any_reading(store: Store):
    row = ImageRow("ISIC_0000001", "never/there.jpg", "0" * 64, None, "wart")
    with pytest.raises(InputError, match="wart"):
        preprocess_shard(store, [row], SETTINGS, DESTINATION)


def test_preprocess_shard_when_there_are_many_images_decodes_few_at_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    lock, under_way, most = threading.Lock(), 0, 0

    def counted_decode(*arguments):
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.01)
        with lock:
            under_way -= 1
        return decode_for(*arguments)

    monkeypatch.setattr(dermascan.preprocess, "decode_for", counted_decode)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    preprocess_shard(store, stored_photographs(store, 40), SETTINGS, DESTINATION)
    assert 1 <= most <= 2
