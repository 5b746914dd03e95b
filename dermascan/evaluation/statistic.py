"""Figures as functions of image weights, and how those that are not defined are recorded."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Integers = NDArray[np.intp]
# Weights [resamples, images] -> figure [resamples], NaN where it is not defined.
Statistic = Callable[[Floats], Floats]

_DECIMALS = 6


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Divide, with NaN where there is nothing to divide by."""
    shape = np.broadcast_shapes(numerator.shape, denominator.shape)
    result = np.full(shape, np.nan)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result


def weighted_mean(values: Floats) -> Statistic:
    """Return the statistic of the mean of values [images]."""
    return lambda weights: ratio(weights @ values, weights.sum(axis=1))


def share(of: Flags, among: Flags) -> Statistic:
    """Return the statistic of the share of images in `among` that are also in `of`."""
    both, all_of_them = (of & among).astype(float), among.astype(float)
    return lambda weights: ratio(weights @ both, weights @ all_of_them)


def mean_recall(truth: Integers, predicted: Integers) -> Statistic:
    """Return the statistic of the share that is found of each class, averaged over classes.

    Classes without images do not count; it is the "balanced accuracy" of scikit-learn.

    Args:
        truth: number of the class, from 0, [images].
        predicted: likewise, of the answer.
    """
    of_class = np.eye(int(truth.max(initial=0)) + 1)[truth]
    found = of_class * (truth == predicted)[:, None]

    def statistic(weights: Floats) -> Floats:
        there = weights @ of_class
        recalls = np.nan_to_num(ratio(weights @ found, there))
        return ratio(recalls.sum(axis=1), np.count_nonzero(there, axis=1).astype(float))

    return statistic


def mean(values: Floats) -> float | None:
    """Average values for the record; None if there are none."""
    return rounded(float(values.mean())) if len(values) else None


def rounded(value: float) -> float | None:
    """Round for the record; NaN, not defined, becomes None."""
    return None if np.isnan(value) else round(float(value), _DECIMALS)
