"""A batch of images compared with a reference: by how much it differs, and whether by chance.

The statistic is the energy distance between two samples, 2 E|X-Y| - E|X-X'| - E|Y-Y'|, which is 0
exactly if both come from one distribution, takes any number of features, and has nothing to tune
(Szekely and Rizzo, "Energy statistics: a class of statistics based on distances", Journal of
Statistical Planning and Inference 143, 2013). Divided by 2 E|X-Y| it is a share between 0 and 1,
the coefficient of inhomogeneity. Two normal distributions that lie 0.2, 0.5 or 0.8 standard
deviations apart, which Cohen calls small, medium and large, have 0.01, 0.06 and 0.13 in one
dimension.

What chance makes of it is learned from resamples: as many images as the batch has, and a reference
of the same size, both drawn from the reference with replacement. A difference counts if fewer than
1 in 100 batches like the training data would show one in any of the aspects (Bonferroni), and if it
is large enough to matter: of thousands of images, chance explains next to nothing.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from dermascan.drift.features import APPEARANCE_FEATURES, COLOUR_FEATURES, FeatureFile, Reference

Verdict = Literal["like", "somewhat different", "different"]
Array = NDArray[np.float64]
Features = NDArray[np.float32] | FeatureFile

FALSE_ALARMS = 0.01
RESAMPLES = 1_000
NOTICEABLE, LARGE = 0.01, 0.06
LEAST_SAMPLE = 30
LARGEST_BATCH = 1_000  # images of a batch that are compared; more would not show more
_SEED = 0
_SMALLEST = 1e-6

ASPECTS: Final = {
    "colour": slice(0, len(COLOUR_FEATURES)),
    "sharpness": slice(len(COLOUR_FEATURES), len(APPEARANCE_FEATURES)),
    "content": slice(len(APPEARANCE_FEATURES), None),
}


@dataclass(frozen=True)
class Shift:
    """A feature whose median moved: name, and by how many standard deviations."""

    feature: str
    deviations: float


@dataclass(frozen=True)
class AspectDrift:
    """How far a batch lies from the reference in one aspect.

    Attributes:
        name: `colour`, `sharpness` or `content`.
        difference: energy distance beyond what chance makes of it, as a share of the largest
            possible, at most 1; 0 or less where there is none.
        p_value: share of batches like the reference that would differ as much or more.
        verdict: in one word or two.
        shifts: of the features that have names, the largest first.
    """

    name: str
    difference: float
    p_value: float
    verdict: Verdict
    shifts: tuple[Shift, ...] = ()


@dataclass(frozen=True)
class Drift:
    """How far a batch lies from the images that a model version was made with.

    Attributes:
        images: in the batch.
        compared: of them, the most that are compared being `LARGEST_BATCH`.
        reference: images that they are compared with.
        verdict: the worst of the aspects.
        aspects: one by one.
    """

    images: int
    compared: int
    reference: int
    verdict: Verdict
    aspects: tuple[AspectDrift, ...]


def compare(reference: Reference, features: Features, resamples: int = RESAMPLES) -> Drift | None:
    """Compare a batch with a reference.

    Args:
        reference: of the model version.
        features: float32 (N, features), from `Reference.features`; of a file, only those that are
            compared are read.
        resamples: from which the distribution under chance is learned.

    Returns:
        The same for equal arguments. None if there is no image, or the reference is too small.
    """
    sample = reference.sample.astype(np.float64)
    if not len(features) or len(sample) < LEAST_SAMPLE:
        return None
    random = np.random.default_rng(_SEED)
    batch = _thinned(features, random).astype(np.float64)
    aspects = tuple(
        _aspect(name, batch[:, columns], sample[:, columns], resamples)
        for name, columns in ASPECTS.items()
    )
    worst = max((aspect.verdict for aspect in aspects), key=_BY_SEVERITY.index)
    return Drift(len(features), len(batch), len(sample), worst, aspects)


_BY_SEVERITY: tuple[Verdict, ...] = ("like", "somewhat different", "different")


def _thinned(batch: Features, random: np.random.Generator) -> NDArray[np.float32]:
    if len(batch) <= LARGEST_BATCH:
        return batch[np.arange(len(batch))]
    return batch[np.sort(random.choice(len(batch), LARGEST_BATCH, replace=False))]


def _aspect(name: str, batch: Array, sample: Array, resamples: int) -> AspectDrift:
    scale = _scale(name, sample)
    within = _distances(sample / scale, sample / scale)
    across = _distances(batch / scale, sample / scale)
    inside = _distances(batch / scale, batch / scale)
    statistic = 2 * across.mean() - inside.mean() - within.mean()
    chance = _by_chance(within, len(batch), resamples)
    extreme = float((1 + np.count_nonzero(chance >= statistic)) / (1 + resamples))
    # Fewer ways to choose a batch among all images leave no room for a smaller p-value.
    p_value = max(extreme, 1 / math.comb(len(sample) + len(batch), len(batch)))
    difference = float((statistic - chance.mean()) / (2 * across.mean()))
    shifts = tuple(_shifts(name, batch, sample))
    return AspectDrift(name, difference, p_value, _verdict(difference, p_value), shifts)


def _verdict(difference: float, p_value: float) -> Verdict:
    if p_value > FALSE_ALARMS / len(ASPECTS) or difference < NOTICEABLE:
        return "like"
    return "different" if difference >= LARGE else "somewhat different"


def _scale(name: str, sample: Array) -> Array:
    """Return what features are divided by: each by its own spread, those of content alike.

    Components keep their proportions, for those in which images hardly differ are mostly noise.
    """
    spread: Array = np.maximum(sample.std(axis=0), _SMALLEST)
    if name == "content":
        spread[:-1] = spread[:-1].max()
    return spread


def _distances(one: Array, other: Array) -> Array:
    """Return Euclidean distances (N, M) between the rows of (N, d) and (M, d)."""
    squares = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1) - 2 * one @ other.T
    distances: Array = np.sqrt(np.maximum(squares, 0))
    return distances


def _by_chance(within: Array, images: int, resamples: int) -> Array:
    """Return the statistic of resampled batches against resampled references.

    With weights w, the share of each image in the batch less that in the reference, the
    statistic is -w'Dw.
    """
    random, size = np.random.default_rng(_SEED), len(within)
    uniform = np.full(size, 1 / size)
    batches = random.multinomial(images, uniform, resamples) / images
    weights = batches - random.multinomial(size, uniform, resamples) / size
    chance: Array = -((weights @ within) * weights).sum(axis=1)
    return chance


def _shifts(name: str, batch: Array, sample: Array) -> Iterator[Shift]:
    names = APPEARANCE_FEATURES[ASPECTS[name]] if name != "content" else ()
    moved = np.median(batch, axis=0) - np.median(sample, axis=0)
    deviations = moved / np.maximum(sample.std(axis=0), _SMALLEST)
    for index in np.argsort(-np.abs(deviations[: len(names)])):
        yield Shift(names[index], float(deviations[index]))
