import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scored_tables import THRESHOLD, binary_table, is_malignant, scored_table

from dermascan.errors import InputError
from dermascan.evaluation import Estimate, compare, evaluate
from dermascan.evaluation.comparison import delong_p

POSITIVE = np.array([True, True, True, False, False])
SCORES = np.array([0.9, 0.8, 0.3, 0.7, 0.2])


def placements(positive, scores):
    """Count by definition: share of negatives below each positive, and the reverse."""
    wins = np.array([[(a > b) + (a == b) / 2 for b in scores[~positive]] for a in scores[positive]])
    return wins.mean(axis=1), wins.mean(axis=0), wins.mean()


def delong_by_definition(positive, one, other):
    above, below, areas = zip(*(placements(positive, s) for s in (one, other)), strict=True)
    covariance = np.cov(above) / positive.sum() + np.cov(below) / (~positive).sum()
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    return math.erfc(abs(areas[0] - areas[1]) / math.sqrt(2 * variance))


def test_delong_equals_a_case_worked_by_hand():
    # Areas 5/6 and 2/3; variance 1/36 over the positives and 1/36 over the negatives: z is
    # (1/6) / sqrt(1/18), the square root of a half, and p is erfc(1/2).
    other = np.array([0.6, 0.4, 0.45, 0.5, 0.1])
    assert delong_p(POSITIVE, SCORES, other) == pytest.approx(math.erfc(0.5))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000))
def test_delong_equals_its_definition_by_pairs(seed):
    random = np.random.default_rng(seed)
    positive = np.append([True, True, False, False], random.random(30) < 0.4)
    one = random.normal(positive, 1).round(1)
    other = (one + random.normal(0, 1, len(one))).round(1)
    expected = delong_by_definition(positive, one, other)
    assert delong_p(positive, one, other) == pytest.approx(expected)


def test_delong_agrees_with_exchanging_the_models_at_random():
    random = np.random.default_rng(3)
    positive = random.random(300) < 0.3
    common = random.normal(positive, 1)
    ranks = [np.argsort(np.argsort(common + random.normal(0, noise, 300))) for noise in (0.4, 0.9)]
    swaps = random.random((1000, 300)) < 0.5
    one, other = np.where(swaps, *ranks), np.where(swaps, *ranks[::-1])
    differences = [area(positive, a) - area(positive, b) for a, b in zip(one, other, strict=True)]
    observed = abs(area(positive, ranks[0]) - area(positive, ranks[1]))
    expected = np.mean(np.abs(differences) >= observed)
    assert 0.005 < expected < 0.5
    assert delong_p(positive, *map(np.asarray, ranks)) == pytest.approx(expected, abs=0.03)


def area(positive, ranks):
    order = np.argsort(np.argsort(ranks))
    count = positive.sum()
    return (order[positive].sum() - count * (count - 1) / 2) / (count * (~positive).sum())


def test_delong_of_no_difference_is_seldom_small():
    random, values = np.random.default_rng(0), []
    for _ in range(400):
        positive = random.random(120) < 0.4
        one, other = (random.normal(positive, 1) for _ in range(2))
        values.append(delong_p(positive, one, other))
    assert np.mean(np.array(values) < 0.05) == pytest.approx(0.05, abs=0.03)


@pytest.mark.parametrize("positive", [[True] * 5, [True, False, False, False, False]])
def test_delong_is_not_defined_with_fewer_than_two_of_a_kind(positive):
    assert delong_p(np.array(positive), SCORES, SCORES[::-1].copy()) is None


def test_delong_is_not_defined_between_models_that_order_alike():
    assert delong_p(POSITIVE, SCORES, SCORES**2) is None


def test_comparison_has_the_differences_of_two_evaluations():
    better, worse = scored_table(skill=2.5), scored_table(skill=1.0)
    got = compare(better, worse, 0.4, 0.3)
    first, second = evaluate(better, 0.4, resamples=2), evaluate(worse, 0.3, resamples=2)
    assert (got.images, got.lesions) == (first.images, first.lesions)
    assert got.roc_auc == first.malignant.roc_auc.value
    assert got.other_roc_auc == second.malignant.roc_auc.value
    for difference, one, other in (
        (got.difference, first.malignant.roc_auc, second.malignant.roc_auc),
        (
            got.sensitivity_at_90_specificity_difference,
            first.malignant.sensitivity_at_90_specificity,
            second.malignant.sensitivity_at_90_specificity,
        ),
        (got.sensitivity_difference, first.malignant.sensitivity, second.malignant.sensitivity),
        (got.specificity_difference, first.malignant.specificity, second.malignant.specificity),
        (got.balanced_accuracy_difference, first.balanced_accuracy, second.balanced_accuracy),
    ):
        assert difference.value == pytest.approx(one.value - other.value, abs=2e-6)
        assert difference.low < difference.value < difference.high
    assert got.difference.low > 0
    assert got.delong_p < 0.001


def test_comparison_is_paired():
    table = scored_table(seed=2)
    noise = np.random.default_rng(0).normal(0, 0.002, len(table))
    other = table.assign(p_malignant=(table["p_malignant"] + noise).clip(0, 1))
    difference = compare(table, other, THRESHOLD, THRESHOLD).difference
    auc = evaluate(table, THRESHOLD).malignant.roc_auc
    assert difference.high - difference.low < 0.2 * (auc.high - auc.low)


def test_comparison_at_matched_specificity_is_blind_to_the_thresholds():
    table = scored_table()
    got = compare(table, table, 0.1, 0.6, resamples=50)
    assert got.sensitivity_difference.value > 0.1
    assert got.specificity_difference.value < -0.1
    assert got.sensitivity_at_90_specificity_difference == Estimate(value=0.0)


def test_comparison_the_other_way_round_has_the_opposite_differences():
    one, other = scored_table(skill=2.0), scored_table(skill=1.0)
    there, back = compare(one, other, 0.4, 0.3), compare(other, one, 0.3, 0.4)
    assert back.difference.value == pytest.approx(-there.difference.value)
    assert back.difference.low == pytest.approx(-there.difference.high, abs=2e-6)
    assert back.delong_p == pytest.approx(there.delong_p)


def test_comparison_does_not_depend_on_the_order_of_rows():
    one, other = scored_table(skill=2.0), scored_table(skill=1.0)
    shuffled = other.sample(frac=1, random_state=0)
    assert compare(one, shuffled, 0.4, 0.4) == compare(one, other, 0.4, 0.4)


def test_comparison_of_a_model_with_itself_finds_no_difference_and_no_interval():
    table = scored_table()
    got = compare(table, table, THRESHOLD, THRESHOLD, resamples=50)
    assert got.difference == Estimate(value=0.0)
    assert got.delong_p is None


def test_comparison_without_malignant_images_is_not_defined():
    table = binary_table([False] * 6, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    got = compare(table, table, THRESHOLD, THRESHOLD, resamples=10)
    assert (got.roc_auc, got.difference, got.sensitivity_difference) == (
        None,
        Estimate(),
        Estimate(),
    )


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda table: table.iloc[1:], "different images"),
        (lambda table: table.assign(lesion_class="nv"), "lesion classes"),
    ],
)
def test_comparison_on_other_images_is_refused(change, complaint):
    table = scored_table()
    assert is_malignant(table).any()
    with pytest.raises(InputError, match=complaint):
        compare(table, change(table), THRESHOLD, THRESHOLD)
