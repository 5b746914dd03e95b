"""Streams of training examples: shards to batches of images, with augmentation.

The order of the images and every change to them are functions of (seed, epoch) alone, so that
a training that was killed goes on as if it had not been.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dermascan.cores import usable_cores
from dermascan.learning.augmentation import Augmentation, augment
from dermascan.learning.cluster import Share
from dermascan.learning.shards import Shards

if TYPE_CHECKING:
    import tensorflow as tf

_INTERLEAVED_PARTS = 4
_BATCHES_AHEAD = 2
_ALL = Share()
# Images are shuffled among as many as these hold, so that those of a batch lie near on disk.
# The order of every training depends on it.
_SHUFFLE_BYTES = 200 * 1024 * 1024


def ordered_batches(shards: Shards) -> "tf.data.Dataset":
    """Stream the examples once, in file order.

    Returns:
        Batches of (images uint8 (B, H, W, 3) RGB, labels int64 (B,)); the last may be smaller.
    """
    import tensorflow as tf  # noqa: PLC0415  # TensorFlow takes 10 s to import

    return _prepared(tf.data.Dataset.range(len(shards)).batch(shards.batch_size), _Prepare(shards))


def first_images(shards: Shards, most: int) -> NDArray[np.uint8]:
    """Return the images that come first in file order, `most` of them or all: (N, H, W, 3) RGB."""
    return shards.images(np.arange(min(most, len(shards))))


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

    Only the pixels of a few batches are in memory, whatever the size of the data.

    Args:
        shards: what to read.
        augmentation: None to leave the images as they are.
        seed: of the whole training.
        epoch: from 1.
        drop_last: leave out what does not fill the last batch.
        share: of each batch; what others take is not read.

    Returns:
        Batches of (images uint8 (B, H, W, 3) RGB, labels int64 (B,)), or shares of them.
    """
    import tensorflow as tf  # noqa: PLC0415  # TensorFlow takes 10 s to import

    random = np.random.default_rng([seed, epoch])
    shuffle_seed, augment_seed = (int(value) for value in random.integers(2**31, size=2))
    order = random.permutation(len(shards.parts))
    ends = np.cumsum(shards.parts)
    size = shards.image_size
    waiting = max(1, _SHUFFLE_BYTES // (size.height * size.width * 3))
    numbers = tf.data.Dataset.from_tensor_slices(((ends - shards.parts)[order], ends[order]))
    numbers = numbers.interleave(
        tf.data.Dataset.range, cycle_length=_INTERLEAVED_PARTS, block_length=1
    )
    shuffled = numbers.shuffle(waiting, seed=shuffle_seed, reshuffle_each_iteration=False)
    batches = shuffled.batch(shards.batch_size, drop_remainder=drop_last)
    return _prepared(batches, _Prepare(shards, share, augmentation, augment_seed))


def _prepared(batches: "tf.data.Dataset", prepare: "_Prepare") -> "tf.data.Dataset":
    prepared = batches.enumerate().map(prepare, num_parallel_calls=usable_cores())
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
    """Read a share of a batch, and augment it in the batch's own way, by its number."""

    shards: Shards
    share: Share = _ALL
    augmentation: Augmentation | None = None
    seed: int = 0

    def __call__(
        self, number: "tf.Tensor", members: "tf.Tensor"
    ) -> tuple["tf.Tensor", "tf.Tensor"]:
        import tensorflow as tf  # noqa: PLC0415  # TensorFlow takes 10 s to import

        kinds, size = (tf.uint8, tf.int64), self.shards.image_size
        images, labels = tf.numpy_function(self._read, (number, members), kinds, stateful=False)
        shape = (None, size.height, size.width, 3)
        return tf.ensure_shape(images, shape), tf.ensure_shape(labels, (None,))

    def _read(
        self, number: int, members: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        own = members[self.share.index :: self.share.of]
        images = self.shards.images(own)
        if self.augmentation is not None:
            places = self.share.places(len(members))
            images = augment(images, self.augmentation, (self.seed, number), places, out=images)
        return images, self.shards.labels[own]
