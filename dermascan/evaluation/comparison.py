"""Two models on the same images: what differs between them, and what of it chance explains."""

import math

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from dermascan.errors import InputError
from dermascan.evaluation.bootstrap import DEFAULT_RESAMPLES
from dermascan.evaluation.ranking import Ranking
from dermascan.evaluation.schema import Estimate
from dermascan.evaluation.scored import Scored, read_scored, test_set_fingerprint, with_scores_of
from dermascan.evaluation.statistic import Flags, Floats, Integers, Statistic, mean_recall, share
from dermascan.taxonomy import Taxonomy

# Below lies the rounding error of placements that are all equal.
_SMALLEST_VARIANCE = 1e-24
_MATCHED_SPECIFICITY = 0.9


class Comparison(BaseModel):
    """Two models on the same images, paired; differences are the one minus the other.

    Attributes:
        roc_auc, other_roc_auc: malignant against benign.
        difference: of the ROC AUCs.
        delong_p: two-sided, of no difference of the ROC AUCs; images are taken as independent,
            so the interval of `difference` is to be preferred where lesions have several. None
            with fewer than two malignant or benign images, or if the models order all pairs
            alike.
        sensitivity_at_90_specificity_difference: each model at the best of all thresholds on its
            own ROC curve of these images that keep a specificity of 0.9, so that neither gains
            sensitivity by calling more lesions malignant.
        sensitivity_difference, specificity_difference: each model at its own threshold; to be
            read together, since either can be had at the other's cost.
        balanced_accuracy_difference: of the mean recall over the seven classes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int
    lesions: int
    roc_auc: float | None
    other_roc_auc: float | None
    difference: Estimate
    delong_p: float | None
    sensitivity_at_90_specificity_difference: Estimate
    sensitivity_difference: Estimate
    specificity_difference: Estimate
    balanced_accuracy_difference: Estimate


def compare(  # noqa: PLR0913  # two models with their thresholds, and options that callers name
    table: pd.DataFrame,
    other: pd.DataFrame,
    threshold: float,
    other_threshold: float,
    *,
    taxonomy: Taxonomy | None = None,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare two models on the same images, whatever their order.

    Args:
        table: scored by the one model, see `evaluate`.
        other: scored by the other; only its scores are used.
        threshold: of the one model: an image is called malignant if `p_malignant >= threshold`.
        other_threshold: of the other.
        taxonomy: which classes are malignant, by default those of `Taxonomy()`.
        resamples: bootstrap resamples of lesions, the same ones for both models.
        seed: of the bootstrap.

    Raises:
        InputError: a table or a threshold is not as described, or the tables differ in their
            images or the classes of them.
    """
    malignant = taxonomy or Taxonomy()
    one = read_scored(table, threshold, malignant, resamples, seed)
    aligned = with_scores_of(table, other)
    if test_set_fingerprint(table) != test_set_fingerprint(other):
        raise InputError("the tables disagree about lesion classes: score the same test set")
    two = read_scored(aligned, other_threshold, malignant, resamples, seed)
    return Comparison(
        images=len(table),
        lesions=one.lesions,
        roc_auc=one.value(_roc_auc(one)),
        other_roc_auc=one.value(_roc_auc(two)),
        difference=_difference(one, _roc_auc(one), _roc_auc(two)),
        delong_p=delong_p(one.positive, one.score, two.score),
        sensitivity_at_90_specificity_difference=_difference(one, _matched(one), _matched(two)),
        sensitivity_difference=_difference(one, _sensitivity(one), _sensitivity(two)),
        specificity_difference=_difference(one, _specificity(one), _specificity(two)),
        balanced_accuracy_difference=_difference(one, _mean_recall(one), _mean_recall(two)),
    )


def delong_p(positive: Flags, scores: Floats, other: Floats) -> float | None:
    """Test whether two correlated ROC AUCs differ.

    Args:
        positive: the truth, bool [images].
        scores: of the one model, [images].
        other: of the other model, [images].

    Returns:
        The two-sided p value; None with fewer than two positives or negatives, and where the
        variance of the difference is 0.

    Source:
        DeLong, DeLong and Clarke-Pearson, Biometrics 44:837-845, 1988, by midranks as in Sun
        and Xu, IEEE Signal Processing Letters 21:1389-1393, 2014.
    """
    positives = np.count_nonzero(positive)
    if min(positives, len(positive) - positives) < 2:
        return None
    of_positives, of_negatives = _placements(positive, scores)
    other_positives, other_negatives = _placements(positive, other)
    by_positive = of_positives - other_positives
    by_negative = of_negatives - other_negatives
    variance = by_positive.var(ddof=1) / len(by_positive)
    variance += by_negative.var(ddof=1) / len(by_negative)
    if not variance > _SMALLEST_VARIANCE:
        return None
    return math.erfc(abs(float(by_positive.mean())) / math.sqrt(2 * variance))


def _placements(positive: Flags, scores: Floats) -> tuple[Floats, Floats]:
    """Return which share of negatives each positive outranks, and the reverse; ties count half."""
    above, below = scores[positive], scores[~positive]
    return _midrank(below, above), 1 - _midrank(above, below)


def _midrank(among: Floats, of: Floats) -> Floats:
    ordered = np.sort(among)
    places: Integers = np.searchsorted(ordered, of, "left") + np.searchsorted(ordered, of, "right")
    return places / (2 * len(ordered))


def _difference(scored: Scored, one: Statistic, other: Statistic) -> Estimate:
    return scored.estimate(lambda weights: one(weights) - other(weights))


def _roc_auc(scored: Scored) -> Statistic:
    return Ranking(scored.positive, scored.score).roc_auc


def _matched(scored: Scored) -> Statistic:
    return Ranking(scored.positive, scored.score).sensitivity_at(_MATCHED_SPECIFICITY)


def _sensitivity(scored: Scored) -> Statistic:
    return share(scored.called, scored.positive)


def _specificity(scored: Scored) -> Statistic:
    return share(~scored.called, ~scored.positive)


def _mean_recall(scored: Scored) -> Statistic:
    return mean_recall(scored.truth, scored.predicted)
