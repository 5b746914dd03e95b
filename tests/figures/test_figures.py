import re

import numpy as np
import pytest
from scipy.stats import binomtest

from dermascan import figures
from dermascan.evaluation import (
    CorruptionFigures,
    CoveragePoint,
    DecisionPoint,
    Estimate,
    OperatingFigures,
    ReliabilityBin,
)
from dermascan.figures.calibration import wilson_interval
from dermascan.figures.canvas import spread_apart

POSITIVE = np.array([True, True, True, False, False, False])
SCORES = np.array([0.9, 0.7, 0.3, 0.4, 0.2, 0.1])


def texts(svg: str) -> list[str]:
    return [text.strip() for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]


def corruption(name: str, strength: int, auc: float | None) -> CorruptionFigures:
    return CorruptionFigures(
        name=name, strength=strength, roc_auc=Estimate(value=auc), auc_lost=None
    )


@pytest.mark.parametrize(("hits", "images"), [(0, 5), (3, 10), (40, 40), (7, 1000)])
def test_wilson_interval_equals_that_of_scipy(hits, images):
    low, high = wilson_interval(np.array([hits / images]), np.array([float(images)]))
    expected = binomtest(hits, images).proportion_ci(method="wilson")
    assert (low[0], high[0]) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_values_far_apart_stay_where_they_are():
    assert spread_apart([3.0, 1.0, 2.0], 0.5) == [3.0, 1.0, 2.0]


def test_equal_values_spread_evenly_about_their_place():
    assert spread_apart([1.0, 1.0, 1.0], 0.2) == pytest.approx([0.8, 1.0, 1.2])


def test_spread_values_keep_order_and_gap():
    values = np.random.default_rng(0).random(8).tolist()
    moved = spread_apart(values, 0.1)
    assert np.argsort(moved).tolist() == np.argsort(values).tolist()
    assert np.diff(np.sort(moved)).min() >= 0.1 - 1e-12


def test_roc_numbers_the_operating_points_that_are_defined():
    defined = OperatingFigures(
        target="specificity",
        level=0.9,
        threshold=0.4,
        sensitivity=Estimate(value=0.9, low=0.8, high=0.95),
        specificity=Estimate(value=0.9),
    )
    undefined = defined.model_copy(update={"sensitivity": Estimate()})
    shown = texts(figures.roc(POSITIVE, SCORES, 0.35, [undefined, defined]))
    assert "2" in shown
    assert "threshold 0.35" in " ".join(shown)
    assert shown.count("1") == texts(figures.roc(POSITIVE, SCORES, 0.35)).count("1")


def test_roc_of_one_kind_is_none():
    assert figures.roc(np.ones(3, bool), SCORES[:3], 0.5) is None
    assert figures.roc(np.zeros(3, bool), SCORES[:3], 0.5) is None


def test_reliability_of_empty_bins_is_none():
    empty = ReliabilityBin(low=0, high=1, images=0, mean_score=None, observed_rate=None)
    assert figures.reliability([empty], "before") is None
    filled = ReliabilityBin(low=0, high=1, images=3, mean_score=0.4, observed_rate=0.3)
    assert "<svg" in figures.reliability([empty, filled], "before")


def test_corruption_lines_are_named_at_their_ends():
    lines = [corruption("blur", 1, 0.9), corruption("blur", 2, 0.8), corruption("jpeg", 1, 0.85)]
    shown = texts(figures.corruption_lines(lines, 0.95))
    assert {"blur", "jpeg"} <= set(shown)


def test_corruption_that_is_never_defined_has_no_line():
    shown = texts(
        figures.corruption_lines([corruption("blur", 1, 0.9), corruption("noise", 1, None)], None)
    )
    assert "blur" in shown
    assert "noise" not in shown


def test_figures_without_anything_to_draw_are_none():
    undefined = CoveragePoint(coverage=1, images=0, error=None, sensitivity=None, specificity=None)
    assert figures.risk_coverage([]) is None
    assert figures.risk_coverage([undefined]) is None
    assert figures.decision_curve([]) is None
    assert figures.corruption_lines([corruption("blur", 1, None)], 0.9) is None
    assert figures.learning_losses([]) is None
    assert (
        figures.learning_scores([figures.LearningCurve("a", (0,), (None,), (0.5,), (None,))])
        is None
    )


def test_risk_coverage_leaves_out_what_is_not_defined():
    points = [
        CoveragePoint(coverage=share, images=9, error=share / 10, sensitivity=None, specificity=0.9)
        for share in (0.5, 1.0)
    ]
    shown = texts(figures.risk_coverage(points))
    assert "false alarms" in shown
    assert "missed malignant" not in shown


def test_decision_curve_draws_both_trivial_strategies():
    points = [DecisionPoint(threshold=t, model=0.2 - t / 10, treat_all=0.2 - t) for t in (0.1, 0.5)]
    assert {"this model", "treat all", "treat none"} <= set(texts(figures.decision_curve(points)))


def test_learning_curves_of_an_ensemble_are_told_apart():
    curves = [
        figures.LearningCurve(name, (0, 1), (None, 0.5), (0.9, 0.7), (0.8, 0.9), 1)
        for name in ("seed 0", "seed 1")
    ]
    assert {"seed 0", "seed 1"} <= set(texts(figures.learning_scores(curves)))
    assert texts(figures.learning_losses(curves)).count("validation") == 1
