"""Changes to training images that leave their diagnosis as it is.

Everything is a function of (image, settings, seed), in TensorFlow, for a whole batch at once.
"""

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from dermascan.fingerprint import Plain

if TYPE_CHECKING:
    import tensorflow as tf

_MOVES, _COLOURS, _DISC = 8, 8, 8
_DRAWS = _MOVES + _COLOURS + _DISC + 2
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_BLUR = (1.0, 4.0, 6.0, 4.0, 1.0)
_DISC_RADIUS = (0.1, 0.3)  # of the height; less than the way from the edge to the middle
_DISC_REACH = 0.1  # of height or width, from the edge outwards
_DISC_SOFTNESS = 1.5  # pixels


@dataclass(frozen=True)
class Augmentation:
    """How far training images are changed.

    A lesion is as malignant upside down, nearer, under another lamp, in another focus, and
    beside a coloured sticker. Mirror images are always among the changes.

    Attributes:
        rotation: turn by any angle; else not at all.
        zoom: images are enlarged or shrunk by up to this factor less one.
        shift: share of height and width by which they are moved.
        brightness, contrast, saturation: largest relative change.
        tint: largest relative change of one colour channel, as another lamp would make.
        blur: largest share of a blurred copy (5 x 5, binomial) mixed in; half of it the other way
            sharpens.
        noise: largest standard deviation of noise added, 0..255.
        discs: share of images that get a coloured disc at their edge, as stickers are.
    """

    rotation: bool = True
    zoom: float = 0.2
    shift: float = 0.06
    brightness: float = 0.15
    contrast: float = 0.15
    saturation: float = 0.2
    tint: float = 0.05
    blur: float = 0.0
    noise: float = 0.0
    discs: float = 0.0

    def as_plain(self) -> dict[str, Plain]:
        """Return the settings as a JSON-ready mapping."""
        return asdict(self)


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
    moves, colours, disc, focus, noise = tf.split(draws, [_MOVES, _COLOURS, _DISC, 1, 1], axis=1)
    images = _move(images, augmentation, moves)
    if augmentation.discs:
        images = _add_disc(images, augmentation.discs, disc)
    images = _recolour(images, augmentation, colours)
    if augmentation.blur:
        images = _refocus(images, augmentation.blur * focus)
    if augmentation.noise:
        strength = tf.abs(noise)[:, :, None, None] * augmentation.noise
        images += strength * tf.random.stateless_normal(images.shape[1:], seed)  # one for all
    return tf.clip_by_value(images, 0.0, 255.0)


def _move(images: "tf.Tensor", augmentation: Augmentation, draws: "tf.Tensor") -> "tf.Tensor":
    """Scale, mirror, turn and shift by one resampling."""
    import tensorflow as tf  # noqa: PLC0415  # TensorFlow takes 10 s to import

    height, width = images.shape[1:3]
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    scale = (1 + augmentation.zoom) ** draws[:, 0]
    scale_x, scale_y = scale * tf.sign(draws[:, 1]), scale * tf.sign(draws[:, 2])
    angle = math.pi * draws[:, 3] * float(augmentation.rotation)
    cos, sin = tf.cos(angle), tf.sin(angle)
    x_from_x, x_from_y = scale_x * cos, -scale_x * sin
    y_from_x, y_from_y = scale_y * sin, scale_y * cos
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


def _add_disc(images: "tf.Tensor", share: float, draws: "tf.Tensor") -> "tf.Tensor":
    """Lay a disc of one colour over some images, its centre on an edge or a little beyond."""
    import tensorflow as tf  # noqa: PLC0415  # TensorFlow takes 10 s to import

    height, width = images.shape[1:3]
    where, along, further = tf.unstack((draws[:, :3] + 1) / 2, axis=1)
    on_side = where < height / (height + width)  # left or right, not top or bottom
    outside = tf.where(draws[:, 7] > 0, 1 + _DISC_REACH * further, -_DISC_REACH * further)
    x = width * tf.where(on_side, outside, along)
    y = height * tf.where(on_side, along, outside)
    low, high = _DISC_RADIUS
    radius = height * (low + (high - low) * tf.abs(draws[:, 7]))
    columns = tf.range(width, dtype=tf.float32)[None, None, :] - x[:, None, None]
    rows = tf.range(height, dtype=tf.float32)[None, :, None] - y[:, None, None]
    distance = tf.sqrt(columns**2 + rows**2)
    cover = tf.clip_by_value((radius[:, None, None] - distance) / _DISC_SOFTNESS, 0.0, 1.0)
    chosen = tf.cast(draws[:, 3] < 2 * share - 1, tf.float32)
    cover = (cover * chosen[:, None, None])[..., None]
    colour = 127.5 * (1 + draws[:, None, None, 4:7])
    return images + cover * (colour - images)


def _recolour(images: "tf.Tensor", augmentation: Augmentation, draws: "tf.Tensor") -> "tf.Tensor":
    """Apply one affine map of colours to each image."""
    import tensorflow as tf  # noqa: PLC0415  # TensorFlow takes 10 s to import

    brightness = 1 + augmentation.brightness * draws[:, 0]
    contrast = 1 + augmentation.contrast * draws[:, 1]
    saturation = 1 + augmentation.saturation * draws[:, 2]
    gain = brightness[:, None] * (1 + augmentation.tint * draws[:, 3:6])
    luma = tf.constant(_LUMA)
    mean = tf.reduce_mean(images[:, ::4, ::4], axis=(1, 2)) @ luma[:, None]
    keep, mix = contrast * saturation, contrast * (1 - saturation)
    matrix = keep[:, None, None] * tf.eye(3) + mix[:, None, None] * luma[None, :, None]
    offset = (1 - contrast)[:, None] * mean
    flat = tf.reshape(images, (tf.shape(images)[0], -1, 3))
    flat = flat @ (matrix * gain[:, None, :]) + (offset * gain)[:, None, :]
    return tf.reshape(flat, tf.shape(images))


def _refocus(images: "tf.Tensor", share: "tf.Tensor") -> "tf.Tensor":
    """Mix each image with its blurred copy; a negative share (halved) sharpens."""
    import tensorflow as tf  # noqa: PLC0415  # TensorFlow takes 10 s to import

    line = tf.constant(_BLUR) / sum(_BLUR)
    kernel = tf.tile((line[:, None] * line[None, :])[:, :, None, None], (1, 1, 3, 1))
    padded = tf.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), "REFLECT")
    blurred = tf.nn.depthwise_conv2d(padded, kernel, (1, 1, 1, 1), "VALID")
    amount = tf.where(share < 0, share / 2, share)[:, :, None, None]
    return images + amount * (blurred - images)
