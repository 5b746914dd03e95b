from collections import Counter

import numpy as np
import pytest

from dermascan.imaging import ImageSize
from dermascan.learning.augmentation import Augmentation
from dermascan.learning.batches import Shards, ordered_batches, training_batches
from dermascan.records import Record, write_records


def images_of(count, height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)


def fetched(store, folder, parts):
    for number, records in enumerate(parts):
        write_records(folder / "packed", records)
        store.put_file(f"train/{number}", folder / "packed")
    (folder / "unpacked").mkdir()
    keys = [f"train/{number}" for number in range(len(parts))]
    return Shards.fetch(store, keys, folder / "unpacked", ImageSize(16, 24), batch_size=5)


@pytest.fixture
def shards(store, tmp_path):
    """Store and fetch 23 examples in three files; the first pixel of an image is its number."""
    images = images_of(23, 16, 24)
    images[:, 0, 0, 0] = np.arange(23)
    records = [
        Record(image, i % 7, f"ISIC_{i:07d}", None, "0" * 64) for i, image in enumerate(images)
    ]
    return fetched(store, tmp_path, [records[part * 9 : part * 9 + 9] for part in range(3)])


def numbers(batches):
    return [int(image[0, 0, 0]) for images, _ in batches for image in images.numpy()]


def test_ordered_batches_give_every_example_once_in_file_order(shards):
    batches = list(ordered_batches(shards))

    assert numbers(batches) == list(range(23))
    assert [len(labels) for _, labels in batches] == [5, 5, 5, 5, 3]
    labels = np.concatenate([labels.numpy() for _, labels in batches])
    assert labels.tolist() == [number % 7 for number in range(23)]
    images = np.concatenate([images.numpy() for images, _ in batches])
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images[:, 1:], images_of(23, 16, 24)[:, 1:])


def test_training_batches_give_every_example_once_in_an_order_of_seed_and_epoch(shards):
    def order(seed, epoch):
        return numbers(training_batches(shards, None, seed, epoch, drop_last=False))

    assert Counter(order(1, 1)) == Counter(range(23))
    assert order(1, 1) == order(1, 1)
    assert order(1, 1) != order(1, 2)
    assert order(1, 1) != order(2, 1)


def test_training_batches_when_dropping_the_last_have_one_size(shards):
    batches = training_batches(shards, Augmentation(), 0, 1, drop_last=True)

    assert [len(labels) for _, labels in batches] == [5, 5, 5, 5]


def test_training_batches_with_augmentation_are_a_function_of_seed_and_epoch(shards):
    def stream(seed, epoch):
        batches = training_batches(shards, Augmentation(), seed, epoch, drop_last=True)
        return np.concatenate([images.numpy() for images, _ in batches])

    np.testing.assert_array_equal(stream(3, 2), stream(3, 2))
    assert not np.array_equal(stream(3, 2), stream(3, 1))


def test_streams_do_not_wait_for_the_tuner_at_their_end(shards):
    streams = (ordered_batches(shards), training_batches(shards, None, 0, 1, drop_last=False))

    assert [stream.options().autotune.enabled for stream in streams] == [False, False]
