"""Intervals from lesions drawn with replacement.

Images of one lesion are not independent, so lesions are the unit of the bootstrap. A resample
is a weight for each image: how often its lesion was drawn.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from dermascan.evaluation.schema import Estimate
from dermascan.evaluation.statistic import Floats, Integers, Statistic, rounded

CONFIDENCE = 0.95
DEFAULT_RESAMPLES = 1000
# An interval is given only if this share of the resamples defines the figure.
_DEFINED_SHARE = 0.9
_CHUNK_ELEMENTS = 1_000_000


class Bootstrap:
    """Resamples of lesions, the same ones for every figure.

    Args:
        lesion_of_image: number of each image's lesion, from 0, [images].
        resamples: how many.
        seed: equal seeds draw equal resamples.
    """

    def __init__(self, lesion_of_image: Integers, resamples: int, seed: int) -> None:
        self._lesion_of_image = lesion_of_image
        self._everything = np.arange(len(lesion_of_image))
        self._times_drawn = _times_drawn(
            int(lesion_of_image.max(initial=0)) + 1, resamples, np.random.default_rng(seed)
        )

    def estimate(self, statistic: Statistic, rows: Integers | None = None) -> Estimate:
        """Evaluate a statistic on some images: once as they are, then on every resample.

        Args:
            statistic: takes weights [resamples, rows].
            rows: of the images, in the statistic's order; all by default.
        """
        chosen = self._everything if rows is None else rows
        value = self.value(statistic, chosen)
        if value is None:
            return Estimate()
        low, high = interval(self._resampled(statistic, chosen))
        return Estimate(value=value, low=low, high=high)

    def estimate_biased_upwards(self, statistic: Statistic) -> Estimate:
        """Evaluate a statistic of all images that chance can only raise, such as an ECE.

        Resampling adds to such a figure what chance added to it before, so its percentiles lie
        too high. The upper percentile is kept. The lower end lies as far below the figure as
        the upper lies above it, and lower still by the bias that resampling shows, but not
        below 0. Simulated on 300 images, it covers an ECE of 0.02 or more in at least 90 % of
        test sets, one of almost 0 in about 86 %.

        Source:
            Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 10: the mean
            of the resamples less the figure estimates its bias.
        """
        plain = self.estimate(statistic)
        if plain.value is None or plain.high is None:
            return plain
        bias = float(np.nanmean(self._resampled(statistic, self._everything))) - plain.value
        high = max(plain.high, plain.value)
        low = rounded(max(0.0, 2 * plain.value - high - max(0.0, bias)))
        return Estimate(value=plain.value, low=low, high=high)

    def value(self, statistic: Statistic, rows: Integers | None = None) -> float | None:
        """Evaluate a statistic on some images as they are; None where it is not defined."""
        images = len(self._everything if rows is None else rows)
        return rounded(statistic(np.ones((1, images)))[0]) if images else None

    def _resampled(self, statistic: Statistic, rows: Integers) -> Floats:
        chunks = [statistic(weights) for weights in self._weights(rows)]
        return np.concatenate([np.empty(0), *chunks])

    def _weights(self, rows: Integers) -> Iterator[Floats]:
        lesions = self._lesion_of_image[rows]
        step = max(1, _CHUNK_ELEMENTS // len(rows))
        for start in range(0, len(self._times_drawn), step):
            yield self._times_drawn[start : start + step, lesions].astype(float)


def _times_drawn(lesions: int, resamples: int, random: np.random.Generator) -> NDArray[np.uint16]:
    """Draw as many lesions as there are, with replacement: [resamples, lesions]."""
    drawn = np.empty((resamples, lesions), np.uint16)
    shares = np.full(lesions, 1 / lesions)
    for part in np.array_split(drawn, 1 + drawn.size // _CHUNK_ELEMENTS):
        part[:] = random.multinomial(lesions, shares, size=len(part))
    return drawn


def interval(draws: Floats) -> tuple[float | None, float | None]:
    """Return the ends between which 95 % of the draws lie, None if they say nothing of chance.

    Args:
        draws: a figure on every resample, NaN where it is not defined.
    """
    defined = draws[~np.isnan(draws)]
    if len(defined) < max(_DEFINED_SHARE * len(draws), 2) or np.ptp(defined) == 0:
        return None, None
    tail = (1 - CONFIDENCE) / 2
    ends: Sequence[float] = np.quantile(defined, [tail, 1 - tail]).tolist()
    return rounded(ends[0]), rounded(ends[1])
