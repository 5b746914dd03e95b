"""Streams of training examples: TFRecord shards to batches of images, with augmentation.

The order of the images and every change to them are functions of (seed, epoch) alone, so that
a training that was killed goes on as if it had not been.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dermascan.cores import usable_cores
from dermascan.imaging import ImageSize
from dermascan.layout import part
from dermascan.learning.augmentation import Augmentation, augment
from dermascan.learning.cluster import Share
from dermascan.records import unpack_records
from dermascan.storage import Store, concurrently

if TYPE_CHECKING:
    import tensorflow as tf

_PARALLEL_FILES = 4
_BATCHES_AHEAD = 2
_ALL = Share()
_SHUFFLE_BYTES = 200 * 1024 * 1024


@dataclass(frozen=True)
class Shards:
    """Local TFRecord files, not compressed, of examples of one image size."""

    paths: tuple[Path, ...]
    image_size: ImageSize
    batch_size: int

    @classmethod
    def fetch(
        cls, store: Store, keys: Sequence[str], folder: Path, image_size: ImageSize, batch_size: int
    ) -> "Shards":
        """Copy shards to this host, and unpack them: each is read once an epoch.

        Args:
            store: bucket of the shards.
            keys: of gzip'd TFRecord files.
            folder: an empty one.
            image_size: of the examples.
            batch_size: images a step.
        """

        def fetch(numbered: tuple[int, str]) -> Path:
            number, key = numbered
            packed = folder / part("", number, ".tfrecord.gz")
            store.get_file(key, packed)
            path = unpack_records(packed, packed.with_suffix(""))
            packed.unlink()
            return path

        numbered = enumerate(keys)
        paths = tuple(concurrently(fetch, numbered, concurrency=_PARALLEL_FILES))
        return cls(paths, image_size, batch_size)


def ordered_batches(shards: Shards) -> "tf.data.Dataset":
    """Stream the examples once, in file order.

    Returns:
        Batches of (images uint8 (B, H, W, 3) RGB, labels int64 (B,)); the last may be smaller.
    """
    import tensorflow as tf  # noqa: PLC0415  # TensorFlow takes 10 s to import

    records = tf.data.TFRecordDataset(_names(shards.paths))
    batches = records.batch(shards.batch_size)
    parsed = batches.map(_Parse(shards.image_size), num_parallel_calls=usable_cores())
    return _untuned(parsed.prefetch(_BATCHES_AHEAD))


def first_images(shards: Shards, most: int) -> NDArray[np.uint8]:
    """Return the images that come first in file order, `most` of them or all: (N, H, W, 3) RGB."""
    examples = ordered_batches(shards).unbatch().take(most)
    return np.stack([image for image, _ in examples.as_numpy_iterator()])


def training_batches(  # noqa: PLR0913  # what to read, how to change it, and what of it to take
    shards: Shards,
    augmentation: Augmentation | None,
    seed: int,
    epoch: int,
    *,
    drop_last: bool,
    share: Share = _ALL,
) -> "tf.data.Dataset":
    """Stream the examples of one epoch, shuffled and augmented.

    Memory does not grow with the data: at most 200 MiB of images wait to be shuffled.

    Args:
        shards: what to read.
        augmentation: None to leave the images as they are.
        seed: of the whole training.
        epoch: from 1.
        drop_last: leave out what does not fill the last batch.
        share: of each batch; what others take is read, but neither decoded nor augmented.

    Returns:
        Batches of (images uint8 (B, H, W, 3) RGB, labels int64 (B,)), or shares of them.
    """
    import tensorflow as tf  # noqa: PLC0415  # TensorFlow takes 10 s to import

    random = np.random.default_rng([seed, epoch])
    shuffle_seed, augment_seed = (int(value) for value in random.integers(2**31, size=2))
    names = random.permutation(_names(shards.paths)).tolist()
    size = shards.image_size
    waiting = max(1, _SHUFFLE_BYTES // (size.height * size.width * 3))
    records = tf.data.Dataset.from_tensor_slices(names).interleave(
        tf.data.TFRecordDataset, cycle_length=_PARALLEL_FILES, block_length=1, num_parallel_calls=1
    )
    shuffled = records.shuffle(waiting, seed=shuffle_seed, reshuffle_each_iteration=False)
    batches = shuffled.batch(shards.batch_size, drop_remainder=drop_last).enumerate()
    change = _Change(augmentation, augment_seed, share) if augmentation else None
    prepare = _Prepare(_Parse(size), share, change)
    prepared = batches.map(prepare, num_parallel_calls=usable_cores())
    return _untuned(prepared.prefetch(_BATCHES_AHEAD))


def _untuned(stream: "tf.data.Dataset") -> "tf.data.Dataset":
    """Turn off TensorFlow's tuner of streams, for whose next look the end of a stream waits.

    It sleeps 10 ms at first, and each time twice as long, up to a minute: so an epoch took 41,
    82 or 142 seconds, whatever its work.
    """
    import tensorflow as tf  # noqa: PLC0415  # TensorFlow takes 10 s to import

    options = tf.data.Options()
    options.autotune.enabled = False
    return stream.with_options(options)


@dataclass(frozen=True)
class _Prepare:
    """Decode and augment a share of a batch."""

    parse: "_Parse"
    share: Share
    change: "_Change | None"

    def __call__(
        self, number: "tf.Tensor", records: "tf.Tensor"
    ) -> tuple["tf.Tensor", "tf.Tensor"]:
        import tensorflow as tf  # noqa: PLC0415  # TensorFlow takes 10 s to import

        images, labels = self.parse(records[self.share.index :: self.share.of])
        if self.change is None:
            return images, labels
        given = (images, number, tf.size(records))
        changed = tf.numpy_function(self.change, given, tf.uint8, stateful=False)
        return tf.ensure_shape(changed, images.shape), labels


@dataclass(frozen=True)
class _Change:
    """Augment a share of a batch in the batch's own way, by its number."""

    augmentation: Augmentation
    seed: int
    share: Share

    def __call__(self, images: NDArray[np.uint8], number: int, whole: int) -> NDArray[np.uint8]:
        places = self.share.places(whole)
        return augment(images, self.augmentation, (self.seed, number), places)


@dataclass(frozen=True)
class _Parse:
    """Decode serialised examples of `dermascan.records`."""

    size: ImageSize

    def __call__(self, records: "tf.Tensor") -> tuple["tf.Tensor", "tf.Tensor"]:
        import tensorflow as tf  # noqa: PLC0415  # TensorFlow takes 10 s to import

        fields = {
            "image": tf.io.FixedLenFeature([], tf.string),
            "label": tf.io.FixedLenFeature([], tf.int64),
        }
        examples = tf.io.parse_example(records, fields)
        pixels = tf.io.decode_raw(examples["image"], tf.uint8)
        return tf.reshape(pixels, (-1, self.size.height, self.size.width, 3)), examples["label"]


def _names(paths: Sequence[Path]) -> list[str]:
    return [str(path) for path in paths]
