"""What decisions cost and gain: fixed thresholds, abstaining, net benefit."""

from typing import get_args

import numpy as np

from dermascan.evaluation.ranking import Ranking
from dermascan.evaluation.schema import CoveragePoint, DecisionPoint, Estimate, OperatingFigures
from dermascan.evaluation.scored import Scored
from dermascan.evaluation.statistic import Flags, Floats, Statistic, ratio, rounded, share
from dermascan.model.calibration import RATE_TOLERANCE, Target, threshold_for

LEVELS = (0.8, 0.9, 0.95)
COVERAGES = tuple(step / 20 for step in range(1, 21))
THRESHOLD_PROBABILITIES = tuple(percent / 100 for percent in range(1, 100))


def operating_points(
    scored: Scored, validation: tuple[Flags, Floats] | None
) -> tuple[OperatingFigures, ...]:
    """Evaluate thresholds on the test set that were chosen on validation.

    Args:
        scored: the test set.
        validation: which validation images are malignant, and their scores; None if not known.
    """
    pairs = [(target, level) for target in get_args(Target) for level in LEVELS]
    return tuple(
        _operating_figures(
            scored, target, level, validation and threshold_for(*validation, target, level)
        )
        for target, level in pairs
    )


def coverage_points(scored: Scored, threshold: float) -> tuple[CoveragePoint, ...]:
    """Judge the decisions on the most certain share of images, for growing shares.

    Args:
        scored: the test set.
        threshold: of the decisions.
    """
    if not len(scored.score):
        return ()
    certainties = certainty(scored.score, threshold)
    ordered = np.sort(certainties)[::-1]
    counts = [int(np.ceil(coverage * len(ordered) - RATE_TOLERANCE)) for coverage in COVERAGES]
    return tuple(
        _coverage_point(scored, coverage, certainties >= ordered[count - 1])
        for coverage, count in zip(COVERAGES, counts, strict=True)
    )


def certainty(scores: Floats, threshold: float) -> Floats:
    """Measure how far scores are from a threshold, as a share of what is possible on their side.

    The share makes both decisions comparable where the threshold is not in the middle: with a
    threshold of 0.2 a score of 0 is as certain as one of 1.

    Args:
        scores: [images], 0..1.
        threshold: 0..1.

    Returns:
        [images], 0..1.
    """
    widest = np.where(scores >= threshold, 1 - threshold, threshold)
    return np.nan_to_num(ratio(np.abs(scores - threshold), widest))


def area_under_risk_coverage(scored: Scored, threshold: float) -> Estimate:
    """Average the share of wrong decisions over all coverages; equally certain images together.

    Source:
        Geifman, Uziel and El-Yaniv, Bias-Reduced Uncertainty Estimation for Deep Neural
        Classifiers, ICLR 2019.
    """
    wrong = scored.called != scored.positive
    ranking = Ranking(wrong, certainty(scored.score, threshold))

    def statistic(weights: Floats) -> Floats:
        errors, rights = ranking.hits(weights)
        decided = errors + rights
        risk = np.nan_to_num(ratio(errors, decided))
        area: Floats = np.sum(risk[:, 1:] * np.diff(decided, axis=1), axis=1)
        return ratio(area, decided[:, -1])

    return scored.estimate(statistic)


def decision_curve(scored: Scored) -> tuple[DecisionPoint, ...]:
    """Weigh true against false positives by the odds of each threshold probability.

    Source:
        Vickers and Elkin, Decision curve analysis, Medical Decision Making 26:565-574, 2006.
    """
    if not len(scored.score):
        return ()
    everything = np.ones_like(scored.positive)
    return tuple(
        DecisionPoint(
            threshold=threshold,
            model=_net_benefit(scored.score >= threshold, scored.positive, threshold),
            treat_all=_net_benefit(everything, scored.positive, threshold),
        )
        for threshold in THRESHOLD_PROBABILITIES
    )


def balanced_accuracy(called: Flags, positive: Flags) -> Statistic:
    """Return the statistic of the mean of sensitivity and specificity."""
    sensitivity, specificity = share(called, positive), share(~called, ~positive)
    return lambda weights: (sensitivity(weights) + specificity(weights)) / 2


def _operating_figures(
    scored: Scored, target: Target, level: float, threshold: float | None
) -> OperatingFigures:
    sensitivity = specificity = Estimate()
    if threshold is not None:
        called = scored.score >= threshold
        sensitivity = scored.share(called, scored.positive)
        specificity = scored.share(~called, ~scored.positive)
    return OperatingFigures(
        target=target,
        level=level,
        threshold=threshold,
        sensitivity=sensitivity,
        specificity=specificity,
    )


def _coverage_point(scored: Scored, coverage: float, covered: Flags) -> CoveragePoint:
    positive, called = scored.positive[covered], scored.called[covered]
    return CoveragePoint(
        coverage=coverage,
        images=int(covered.sum()),
        error=_share(called != positive, np.ones_like(positive)),
        sensitivity=_share(called, positive),
        specificity=_share(~called, ~positive),
    )


def _share(of: Flags, among: Flags) -> float | None:
    return rounded(share(of, among)(np.ones((1, len(of))))[0])


def _net_benefit(called: Flags, positive: Flags, threshold: float) -> float:
    odds = threshold / (1 - threshold)
    gained = np.count_nonzero(called & positive) - odds * np.count_nonzero(called & ~positive)
    return round(gained / len(called), 6)
