"""TensorFlow twins of two NumPy functions, to be part of an exported model's graph.

`fitted` follows the geometry of `dermascan.imaging.prepare`, `calibrated` is
`dermascan.model.calibration.apply`. Tests hold each to the other.
"""

from typing import TYPE_CHECKING

import numpy as np

from dermascan.model.calibration import Calibration

if TYPE_CHECKING:
    import tensorflow as tf


def fitted(images: "tf.Tensor", size: tuple[int, int]) -> "tf.Tensor":
    """Bring images to the network's size as `prepare` does.

    Images that have that size pass unchanged. Others take a quarter turn clockwise if that lays
    their long side along the target's, are scaled at true aspect to cover the target (shrunk by
    averaging over areas, enlarged bilinearly), rounded to whole levels, and cropped to the
    centre. OpenCV shrinks by the same averages and enlarges in fixed point, so that a value
    differs from that of `prepare` by one level at most. Of 64 images of HAM10000, 150x200, shrunk
    to 144x192, 4 values in 10,000 differed, and one EfficientNet-Lite0's `p_malignant` by 0.003 at
    most; enlarged to 192x256, 12 values in 100 differed.

    Args:
        images: uint8 or float32 (N, h, w, 3), 0..255, h and w at least 1.
        size: height and width of the network in pixels.

    Returns:
        float32 (N, height, width, 3), 0..255.
    """
    import tensorflow as tf  # noqa: PLC0415  # TensorFlow takes 10 s to import

    images = tf.cast(images, tf.float32)
    found = tf.shape(images)[1:3]
    fits = tf.reduce_all(found == tf.constant(size))
    result = tf.cond(fits, lambda: images, lambda: _covering_centre(images, size))
    return tf.ensure_shape(result, (None, *size, 3))


def _covering_centre(images: "tf.Tensor", size: tuple[int, int]) -> "tf.Tensor":
    import tensorflow as tf  # noqa: PLC0415  # TensorFlow takes 10 s to import

    height, width = size
    shape = tf.shape(images)
    lies_across = (shape[2] - shape[1]) * (width - height) < 0
    images = tf.cond(lies_across, lambda: tf.image.rot90(images, k=3), lambda: images)
    found = tf.cast(tf.shape(images)[1:3], tf.float64)
    target = tf.constant(size, tf.float64)
    scale = tf.reduce_max(target / found)
    covering = tf.cast(tf.maximum(target, tf.round(found * scale)), tf.int32)
    scaled = tf.cond(
        scale < 1,
        lambda: tf.image.resize(images, covering, tf.image.ResizeMethod.AREA),
        lambda: tf.image.resize(images, covering, tf.image.ResizeMethod.BILINEAR),
    )
    top, left = (covering[0] - height) // 2, (covering[1] - width) // 2
    return tf.floor(scaled[:, top : top + height, left : left + width] + 0.5)


def calibrated(
    logits: "tf.Tensor", calibration: Calibration, malignant_indices: tuple[int, ...]
) -> tuple["tf.Tensor", "tf.Tensor"]:
    """Make probabilities of averaged logits, in float64 until the last step.

    Args:
        logits: float32 (N, C).
        calibration: what to apply.
        malignant_indices: columns of the malignant classes, neither none nor all.

    Returns:
        Probabilities float32 (N, C), rows add up to 1; `p_malignant` float32 (N,).
    """
    import tensorflow as tf  # noqa: PLC0415  # TensorFlow takes 10 s to import

    scaled = tf.cast(logits, tf.float64) / calibration.temperature
    malignant = np.isin(np.arange(logits.shape[-1]), malignant_indices)
    offsets = np.array(calibration.class_offsets or np.zeros(len(malignant)))
    columns = [np.flatnonzero(malignant), np.flatnonzero(~malignant)]
    sums = [tf.reduce_logsumexp(tf.gather(scaled, group, axis=1), axis=1) for group in columns]
    before = sums[0] - sums[1]
    rising, falling = calibration.slopes
    odds = rising * tf.math.log_sigmoid(before) - falling * tf.math.log_sigmoid(-before)
    odds += calibration.malignant_offset
    shifted = [tf.gather(scaled + offsets, group, axis=1) for group in columns]
    groups = [
        tf.exp(tf.math.log_sigmoid(sign * odds)[:, tf.newaxis] + tf.nn.log_softmax(group))
        for sign, group in zip((1.0, -1.0), shifted, strict=True)
    ]
    order = np.argsort(np.concatenate(columns))
    probabilities = tf.gather(tf.concat(groups, axis=1), order, axis=1)
    return tf.cast(probabilities, tf.float32), tf.cast(tf.sigmoid(odds), tf.float32)
