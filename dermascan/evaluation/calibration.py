"""How far probabilities can be taken at their word, before and after calibration."""

import numpy as np
import pandas as pd

from dermascan.errors import InputError
from dermascan.evaluation.schema import CalibrationFigures, Estimate, ReliabilityBin
from dermascan.evaluation.scored import Scored
from dermascan.evaluation.statistic import (
    Flags,
    Floats,
    Integers,
    Statistic,
    mean,
    ratio,
    weighted_mean,
)
from dermascan.taxonomy import CLASS_COLUMNS, Taxonomy

RELIABILITY_BINS = 10


def calibration_figures(scored: Scored) -> CalibrationFigures:
    """Compare `p_malignant`, and the probabilities of the seven classes, with outcomes."""
    return CalibrationFigures(
        brier=scored.estimate(brier(scored)),
        ece=expected_calibration_error(scored),
        cross_entropy=scored.estimate(_cross_entropy(scored)),
        reliability=reliability(scored),
    )


def brier(scored: Scored) -> Statistic:
    """Return the statistic of the mean squared difference of score and outcome."""
    return weighted_mean((scored.score - scored.positive) ** 2)


def brier_skill(scored: Scored) -> Statistic:
    """Return the statistic of the share of the prevalence's Brier score that is avoided."""
    of_scores = brier(scored)

    def statistic(weights: Floats) -> Floats:
        prevalence = ratio(weights @ scored.positive.astype(float), weights.sum(axis=1))
        return 1 - ratio(of_scores(weights), prevalence * (1 - prevalence))

    return statistic


def expected_calibration_error(scored: Scored) -> Estimate:
    """Average |observed rate - mean score| over ten bins of equal width, weighted by images.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
    """
    excess = _members(scored.score) * (scored.positive - scored.score)[:, None]
    return scored.bootstrap.estimate_biased_upwards(
        lambda weights: ratio(np.abs(weights @ excess).sum(axis=1), weights.sum(axis=1))
    )


def reliability(scored: Scored) -> tuple[ReliabilityBin, ...]:
    """Compare mean score and observed rate in ten bins of equal width."""
    return tuple(
        ReliabilityBin(
            low=i / RELIABILITY_BINS,
            high=(i + 1) / RELIABILITY_BINS,
            images=int(inside.sum()),
            mean_score=mean(scored.score[inside]),
            observed_rate=mean(scored.positive[inside].astype(float)),
        )
        for i, inside in enumerate(_members(scored.score).T)
    )


def before_temperature(table: pd.DataFrame, temperature: float, taxonomy: Taxonomy) -> pd.DataFrame:
    """Undo a temperature: softmax(z / T) to the power T is softmax(z) but for its sum.

    Args:
        table: with `p_akiec` to `p_vasc` after division of the logits by the temperature.
        temperature: above 0.
        taxonomy: the classes whose probabilities add up to `p_malignant`.

    Returns:
        A copy with the probabilities before. They are exact for one network; the average of
        several is treated as if it were the softmax of one.

    Raises:
        InputError: the temperature is not above 0.
    """
    if not temperature > 0:
        raise InputError(f"temperature {temperature} is not above 0: give the one of the model")
    powers = table[list(CLASS_COLUMNS)].to_numpy(dtype=float) ** temperature
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    malignant = probabilities[:, list(taxonomy.malignant_indices())].sum(axis=1).clip(0, 1)
    columns = dict(zip(CLASS_COLUMNS, probabilities.T, strict=True))
    return table.assign(**columns, p_malignant=malignant)


def _members(score: Floats) -> Flags:
    """Assign each score to one of ten bins of equal width: bool [images, bins]."""
    numbers: Integers = np.floor(score * RELIABILITY_BINS).astype(np.intp)
    bins = np.minimum(numbers, RELIABILITY_BINS - 1)
    members: Flags = bins[:, None] == np.arange(RELIABILITY_BINS)
    return members


def _cross_entropy(scored: Scored) -> Statistic:
    """Return the statistic of the mean negative log-likelihood of the seven classes, in nats.

    A probability of 0 counts as the smallest step of float64, about 36 nats.
    """
    of_truth = scored.probabilities[np.arange(len(scored.truth)), scored.truth]
    return weighted_mean(-np.log(np.maximum(of_truth, np.finfo(np.float64).eps)))
