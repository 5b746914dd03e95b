from collections import Counter

import keras
import numpy as np
import pytest

from dermascan.imaging import ImageSize
from dermascan.learning import batches as streams
from dermascan.learning.augmentation import Augmentation, augment
from dermascan.learning.batches import first_images, ordered_batches, training_batches
from dermascan.learning.cluster import Share
from dermascan.learning.shards import Shards
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


def numbered_records():
    """Make 23 examples; the first pixel of an image is its number."""
    images = images_of(23, 16, 24)
    images[:, 0, 0, 0] = np.arange(23)
    return [Record(image, i % 7, f"ISIC_{i:07d}", None, "0" * 64) for i, image in enumerate(images)]


@pytest.fixture
def shards(store, tmp_path):
    """Store and fetch 23 examples in three files."""
    records = numbered_records()
    return fetched(store, tmp_path, [records[part * 9 : part * 9 + 9] for part in range(3)])


@pytest.fixture
def uneven_shards(store, tmp_path):
    """Store and fetch 23 examples in six files, one of them empty."""
    records = iter(numbered_records())
    sizes = (1, 9, 0, 6, 4, 3)
    return fetched(store, tmp_path, [[next(records) for _ in range(size)] for size in sizes])


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


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [
        (1, "21 0 17 20 1 18 2 11 10 3 22 16 19 5 13 7 6 9 8 14 4 12 15"),
        (2, "1 21 16 2 3 18 17 12 10 11 20 14 0 7 8 6 9 15 5 13 4 19 22"),
    ],
)
def test_training_batches_keep_the_order_in_which_trainings_were_begun(
    uneven_shards, monkeypatch, epoch, expected
):
    monkeypatch.setattr(streams, "_SHUFFLE_BYTES", 8 * 16 * 24 * 3)
    keras.utils.set_random_seed(3)

    batches = list(training_batches(uneven_shards, None, 3, epoch, drop_last=False))

    order = [int(number) for number in expected.split()]
    assert numbers(batches) == order
    labels = np.concatenate([labels.numpy() for _, labels in batches])
    assert labels.tolist() == [number % 7 for number in order]


@pytest.mark.parametrize("share", [Share(), Share(1, 2), Share(1, 2).part(1, 2)])
def test_training_batches_augment_a_share_of_each_batch_as_trainings_were_begun(shards, share):
    seed = np.random.default_rng([3, 1]).integers(2**31, size=2)[1]
    whole = training_batches(shards, None, 3, 1, drop_last=False)
    settings = Augmentation(noise=4.0)

    changed = list(training_batches(shards, settings, 3, 1, drop_last=False, share=share))

    assert len(changed) == 5
    for number, ((plain, plain_labels), (images, labels)) in enumerate(
        zip(whole, changed, strict=True)
    ):
        expected = augment(plain.numpy(), settings, (seed, number))[share.places(len(plain))]
        np.testing.assert_array_equal(images, expected)
        np.testing.assert_array_equal(labels, plain_labels[share.index :: share.of])


def test_training_batches_give_a_share_of_no_image_where_a_batch_is_too_small(shards):
    batches = training_batches(shards, Augmentation(), 0, 1, drop_last=False, share=Share(3, 4))

    assert [images.shape for images, _ in batches] == [*[(1, 16, 24, 3)] * 4, (0, 16, 24, 3)]


def test_first_images_gives_those_that_are_there(shards):
    assert first_images(shards, 4)[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert len(first_images(shards, 99)) == 23


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
    both = (ordered_batches(shards), training_batches(shards, None, 0, 1, drop_last=False))

    assert [stream.options().autotune.enabled for stream in both] == [False, False]
