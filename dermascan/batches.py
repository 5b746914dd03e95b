"""Streams of training examples: TFRecord shards to batches of images, with augmentation.

The order of the images and every change to them are functions of (seed, epoch) alone, so that
a training that was killed goes on as if it had not been.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dermascan.fingerprint import Plain
from dermascan.imaging import ImageSize

if TYPE_CHECKING:
    import tensorflow as tf

_PARALLEL_FILES = 4
_SHUFFLE_BYTES = 200 * 1024 * 1024
_DRAWS = 12
_GREY_WEIGHTS = (0.299, 0.587, 0.114)  # luma of ITU-R BT.601


@dataclass(frozen=True)
class Augmentation:
    """How far training images are changed; none of it changes a diagnosis.

    Always: mirror images, which with each other make half turns; quarter turns of square images.

    Attributes:
        zoom: images are enlarged or shrunk by up to this factor less one.
        shift: share of height and width by which they are moved.
        brightness, contrast, saturation: largest relative change.
        tint: largest relative change of one colour channel, as another lamp would make.
    """

    zoom: float = 0.2
    shift: float = 0.05
    brightness: float = 0.15
    contrast: float = 0.15
    saturation: float = 0.2
    tint: float = 0.05

    def as_plain(self) -> dict[str, Plain]:
        """Return the settings as a JSON-ready mapping."""
        return asdict(self)


@dataclass(frozen=True)
class Shards:
    """Local TFRecord files (gzip) of examples of one image size."""

    paths: tuple[Path, ...]
    image_size: ImageSize
    batch_size: int


def ordered_batches(shards: Shards) -> "tf.data.Dataset":
    """Stream the examples once, in file order.

    Returns:
        Batches of (images uint8 (B, H, W, 3) RGB, labels int64 (B,)); the last may be smaller.
    """
    import tensorflow as tf  # noqa: PLC0415  # TensorFlow takes 10 s to import

    records = tf.data.TFRecordDataset(_names(shards.paths), compression_type="GZIP")
    examples = records.map(_Parse(shards.image_size), num_parallel_calls=tf.data.AUTOTUNE)
    return examples.batch(shards.batch_size).prefetch(2)


def training_batches(
    shards: Shards, augmentation: Augmentation | None, seed: int, epoch: int, *, drop_last: bool
) -> "tf.data.Dataset":
    """Stream the examples of one epoch, shuffled and augmented.

    Memory does not grow with the data: at most 200 MiB of images wait to be shuffled.

    Args:
        shards: what to read.
        augmentation: None to leave the images as they are.
        seed: of the whole training.
        epoch: from 1.
        drop_last: leave out what does not fill the last batch.

    Returns:
        Batches of (images float32 (B, H, W, 3) RGB, 0..255, labels int64 (B,)).
    """
    import tensorflow as tf  # noqa: PLC0415  # TensorFlow takes 10 s to import

    random = np.random.default_rng([seed, epoch])
    shuffle_seed, augment_seed = (int(value) for value in random.integers(2**31, size=2))
    names = random.permutation(_names(shards.paths)).tolist()
    size = shards.image_size
    waiting = max(1, _SHUFFLE_BYTES // (size.height * size.width * 3))
    records = tf.data.Dataset.from_tensor_slices(names).interleave(
        _read_gzip, cycle_length=_PARALLEL_FILES, block_length=1, num_parallel_calls=1
    )
    shuffled = records.shuffle(waiting, seed=shuffle_seed, reshuffle_each_iteration=False)
    examples = shuffled.map(_Parse(size), num_parallel_calls=tf.data.AUTOTUNE)
    batches = examples.batch(shards.batch_size, drop_remainder=drop_last).enumerate()

    def finish(index: "tf.Tensor", batch: tuple["tf.Tensor", ...]) -> tuple["tf.Tensor", ...]:
        images, labels = batch
        images = tf.cast(images, tf.float32)
        if augmentation is not None:
            draw_seed = tf.stack([tf.constant(augment_seed, tf.int64), index])
            images = augment(images, augmentation, draw_seed)
        return images, labels

    return batches.map(finish, num_parallel_calls=tf.data.AUTOTUNE).prefetch(2)


def augment(images: "tf.Tensor", augmentation: Augmentation, seed: "tf.Tensor") -> "tf.Tensor":
    """Change each image of a batch in its own way.

    Args:
        images: float32 (B, H, W, 3) RGB, 0..255.
        augmentation: how far.
        seed: int (2,); equal seeds give equal results.

    Returns:
        float32 (B, H, W, 3) RGB, 0..255; what comes into view from beyond the edge is mirrored.
    """
    import tensorflow as tf  # noqa: PLC0415  # TensorFlow takes 10 s to import

    draws = tf.random.stateless_uniform([tf.shape(images)[0], _DRAWS], seed, -1.0, 1.0)
    return _recolour(_move(images, augmentation, draws[:, :6]), augmentation, draws[:, 6:])


def _move(images: "tf.Tensor", augmentation: Augmentation, draws: "tf.Tensor") -> "tf.Tensor":
    import tensorflow as tf  # noqa: PLC0415  # TensorFlow takes 10 s to import

    height, width = images.shape[1:3]
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    scale = (1 + augmentation.zoom) ** draws[:, 0]
    scale_x, scale_y = scale * tf.sign(draws[:, 1]), scale * tf.sign(draws[:, 2])
    turned = tf.cast(draws[:, 3] > 0, tf.float32) if height == width else tf.zeros_like(scale)
    x_from_x, x_from_y = scale_x * (1 - turned), scale_x * turned
    y_from_y, y_from_x = scale_y * (1 - turned), scale_y * turned
    offset_x = centre_x + augmentation.shift * width * draws[:, 4]
    offset_y = centre_y + augmentation.shift * height * draws[:, 5]
    offset_x -= x_from_x * centre_x + x_from_y * centre_y
    offset_y -= y_from_x * centre_x + y_from_y * centre_y
    zero = tf.zeros_like(scale)
    rows = [x_from_x, x_from_y, offset_x, y_from_x, y_from_y, offset_y, zero, zero]
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack(rows, axis=1),
        output_shape=tf.constant([height, width]),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )


def _recolour(images: "tf.Tensor", augmentation: Augmentation, draws: "tf.Tensor") -> "tf.Tensor":
    import tensorflow as tf  # noqa: PLC0415  # TensorFlow takes 10 s to import

    by_image = draws[:, None, None, :]
    brightness = 1 + augmentation.brightness * by_image[..., 0:1]
    contrast = 1 + augmentation.contrast * by_image[..., 1:2]
    saturation = 1 + augmentation.saturation * by_image[..., 2:3]
    tint = 1 + augmentation.tint * by_image[..., 3:6]
    grey = tf.reduce_sum(images * tf.constant(_GREY_WEIGHTS), axis=-1, keepdims=True)
    images = grey + (images - grey) * saturation
    mean = tf.reduce_mean(grey, axis=(1, 2), keepdims=True)
    images = mean + (images - mean) * contrast
    return tf.clip_by_value(images * brightness * tint, 0.0, 255.0)


@dataclass(frozen=True)
class _Parse:
    """Decode one serialised example of `dermascan.records`."""

    size: ImageSize

    def __call__(self, record: "tf.Tensor") -> tuple["tf.Tensor", "tf.Tensor"]:
        import tensorflow as tf  # noqa: PLC0415  # TensorFlow takes 10 s to import

        fields = {
            "image": tf.io.FixedLenFeature([], tf.string),
            "label": tf.io.FixedLenFeature([], tf.int64),
        }
        example = tf.io.parse_single_example(record, fields)
        pixels = tf.io.decode_raw(example["image"], tf.uint8)
        return tf.reshape(pixels, (self.size.height, self.size.width, 3)), example["label"]


def _read_gzip(name: "tf.Tensor") -> "tf.data.Dataset":
    import tensorflow as tf  # noqa: PLC0415  # TensorFlow takes 10 s to import

    return tf.data.TFRecordDataset(name, compression_type="GZIP")


def _names(paths: Sequence[Path]) -> list[str]:
    return [str(path) for path in paths]
