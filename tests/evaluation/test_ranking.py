import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from dermascan.evaluation.ranking import Ranking

ROWS = st.lists(
    st.tuples(st.booleans(), st.integers(0, 6), st.integers(0, 3)), min_size=2, max_size=40
)


def columns(rows):
    positive, score, weight = (np.array(column) for column in zip(*rows, strict=True))
    return positive, score / 6, weight[None].astype(float)


@settings(deadline=None, max_examples=100)
@given(ROWS)
def test_areas_of_tied_and_weighted_scores_equal_scikit_learn(rows):
    positive, score, weights = columns(rows)
    ranking, weight = Ranking(positive, score), weights[0]
    if not (weight[positive].sum() and weight[~positive].sum()):
        assert np.isnan(ranking.roc_auc(weights)[0])
        assert np.isnan(ranking.partial_auc_above(0.8)(weights)[0])
        assert np.isnan(ranking.sensitivity_at(0.9)(weights)[0])
        assert np.isnan(ranking.specificity_at(0.9)(weights)[0])
        return
    auc = metrics.roc_auc_score(positive, score, sample_weight=weight)
    precision = metrics.average_precision_score(positive, score, sample_weight=weight)
    assert ranking.roc_auc(weights)[0] == pytest.approx(auc)
    assert ranking.average_precision(weights)[0] == pytest.approx(precision)
    assert ranking.partial_auc_above(0)(weights)[0] == pytest.approx(auc)


@settings(deadline=None, max_examples=100)
@given(ROWS)
def test_partial_area_equals_that_of_scikit_learn_with_the_outcomes_turned_round(rows):
    positive, score, weights = columns(rows)
    weight = weights[0]
    if not (weight[positive].sum() and weight[~positive].sum()):
        return
    limit = 0.2
    normalised = metrics.roc_auc_score(~positive, -score, max_fpr=limit, sample_weight=weight)
    by_chance = limit**2 / 2
    expected = by_chance + (normalised - 0.5) * 2 * (limit - by_chance)
    got = Ranking(positive, score).partial_auc_above(0.8)(weights)[0]
    assert got == pytest.approx(expected, abs=1e-9)


def test_partial_area_is_a_fifth_if_perfect_and_a_fiftieth_if_all_scores_are_equal():
    positive = np.array([True, True, False, False, False])
    once = np.ones((1, 5))
    perfect = Ranking(positive, np.array([0.9, 0.8, 0.3, 0.2, 0.1])).partial_auc_above(0.8)
    equal = Ranking(positive, np.zeros(5)).partial_auc_above(0.8)
    assert perfect(once)[0] == pytest.approx(0.2)
    assert equal(once)[0] == pytest.approx(0.02)


@pytest.mark.parametrize("level", [0.8, 0.9, 0.95])
def test_best_rates_are_those_of_scikit_learns_curve(level):
    random = np.random.default_rng(0)
    positive = random.random(200) < 0.3
    score = (random.normal(positive, 1) * 5).round()
    false_rate, true_rate, _ = metrics.roc_curve(positive, score, drop_intermediate=False)
    ranking, once = Ranking(positive, score), np.ones((1, 200))
    sensitivity = true_rate[1 - false_rate >= level - 1e-9].max()
    specificity = (1 - false_rate[true_rate >= level - 1e-9]).max()
    assert ranking.sensitivity_at(level)(once)[0] == pytest.approx(sensitivity)
    assert ranking.specificity_at(level)(once)[0] == pytest.approx(specificity)


def test_a_rate_that_is_reached_exactly_counts():
    negatives, positives = np.arange(10) / 20, np.arange(10) / 20 + 0.425
    positive = np.repeat([False, True], 10)
    ranking = Ranking(positive, np.concatenate([negatives, positives]))
    assert ranking.sensitivity_at(0.9)(np.ones((1, 20)))[0] == 1
    assert ranking.specificity_at(0.9)(np.ones((1, 20)))[0] == 1
