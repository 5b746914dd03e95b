"""Choices made on validation scores: temperature, operating threshold, and the AUC to rank by."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Flags = NDArray[np.bool_]

_TEMPERATURES = (0.05, 20.0)
_GOLDEN_STEPS = 60
_GOLDEN_RATIO = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold and what it does on the images that it was chosen on.

    Attributes:
        threshold: `p_malignant` from which an image is called malignant, 0..1.
        sensitivity: share of the malignant that are called so; None without any.
        specificity: share of the benign that are not; None without any.
    """

    threshold: float
    sensitivity: float | None
    specificity: float | None


def softmax(logits: Floats, temperature: float = 1.0) -> NDArray[np.float64]:
    """Return probabilities (N, C) of logits (N, C) after division by `temperature`."""
    scaled = np.asarray(logits, np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    result: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return result


def cross_entropy(logits: Floats, labels: NDArray[np.integer], temperature: float = 1.0) -> float:
    """Return the mean negative log-likelihood in nats of labels (N,) under logits (N, C)."""
    scaled = np.asarray(logits, np.float64) / temperature
    top = scaled.max(axis=1)
    normaliser = top + np.log(np.exp(scaled - top[:, None]).sum(axis=1))
    return float(np.mean(normaliser - scaled[np.arange(len(labels)), labels]))


def fit_temperature(logits: Floats, labels: NDArray[np.integer]) -> float:
    """Find the temperature that makes held-out probabilities most likely.

    Args:
        logits: (N, C) of images that were not trained on, N > 0.
        labels: int (N,), 0..C-1.

    Returns:
        The minimiser of the cross-entropy between 0.05 and 20; above 1 the network was too sure.

    Source:
        Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 4.2. The
        cross-entropy has one minimum in the temperature, so golden-section search finds it.
    """
    low, high = np.log(_TEMPERATURES)
    for _ in range(_GOLDEN_STEPS):
        step = _GOLDEN_RATIO * (high - low)
        left, right = high - step, low + step
        if cross_entropy(logits, labels, np.exp(left)) < cross_entropy(
            logits, labels, np.exp(right)
        ):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))


def roc_auc(scores: Floats, positive: Flags) -> float | None:
    """Return the area under the ROC curve: how often a positive outranks a negative.

    Args:
        scores: (N,), higher means more likely positive; ties count one half.
        positive: (N,).

    Returns:
        0..1, None unless there are both positives and negatives.
    """
    above, below = scores[positive], np.sort(scores[~positive])
    if not len(above) or not len(below):
        return None
    wins = np.searchsorted(below, above, "left") + np.searchsorted(below, above, "right")
    return float(wins.sum() / (2 * len(above) * len(below)))


def choose_threshold(scores: Floats, malignant: Flags) -> OperatingPoint:
    """Choose the threshold with the highest sum of sensitivity and specificity.

    Youden's index weighs a missed malignancy and a false alarm alike *as shares of their own
    groups*, so the choice does not depend on how common malignancy is among the images.
    Of equally good thresholds the lowest is taken: it misses fewest. The threshold is put
    halfway to the next lower score, where new images are least likely to fall on its edge.

    Args:
        scores: `p_malignant` (N,), 0..1, of validation images only.
        malignant: the truth (N,).

    Returns:
        The operating point; threshold 0.5 when one of the groups is empty.

    Source:
        Youden, Index for rating diagnostic tests, Cancer 3:32-35, 1950.
    """
    positives, negatives = np.sort(scores[malignant]), np.sort(scores[~malignant])
    if not len(positives) or not len(negatives):
        return OperatingPoint(0.5, None, None)
    candidates = np.unique(scores)
    sensitivity = 1 - np.searchsorted(positives, candidates, "left") / len(positives)
    specificity = np.searchsorted(negatives, candidates, "left") / len(negatives)
    best = int(np.argmax(sensitivity + specificity))
    below = candidates[best - 1] if best else 0.0
    threshold = (float(candidates[best]) + float(below)) / 2
    return OperatingPoint(threshold, float(sensitivity[best]), float(specificity[best]))
