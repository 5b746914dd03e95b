"""Figures beside those of isic-challenge-scoring, the challenge's own implementation.

The package imports `zipfile_deflate64` for reading submissions, an extension that is not
installed; its metrics need none of it, so the standard library's module stands in.
"""

import sys
import zipfile

import numpy as np
import pandas as pd
import pytest
from scored_tables import THRESHOLD, binary_table, is_malignant, scored_table

from dermascan.evaluation import CLASS_COLUMNS, evaluate, figure
from dermascan.evaluation.ranking import Ranking
from dermascan.taxonomy import LESION_CLASSES

sys.modules.setdefault("zipfile_deflate64", zipfile)

from isic_challenge_scoring import ClassificationMetric, ClassificationScore, metrics  # noqa: E402
from isic_challenge_scoring.confusion import create_binary_confusion_matrix  # noqa: E402

BINARY = {
    "accuracy": metrics.binary_accuracy,
    "sensitivity": metrics.binary_sensitivity,
    "specificity": metrics.binary_specificity,
    "ppv": metrics.binary_ppv,
    "npv": metrics.binary_npv,
}


@pytest.fixture(scope="module")
def table():
    return scored_table(400, seed=7)


@pytest.fixture(scope="module")
def evaluation(table):
    return evaluate(table, THRESHOLD, resamples=2)


@pytest.fixture(scope="module")
def challenge(table):
    columns = list(LESION_CLASSES)
    truth = pd.get_dummies(table["lesion_class"]).reindex(columns=columns).astype(float)
    scores = table[list(CLASS_COLUMNS)].set_axis(columns, axis="columns")
    weights = pd.DataFrame({"score_weight": 1.0, "validation_weight": 1.0}, index=table.index)
    return ClassificationScore(truth, scores, weights, ClassificationMetric.BALANCED_ACCURACY)


def test_balanced_accuracy_equals_the_challenges(evaluation, challenge):
    assert evaluation.balanced_accuracy.value == pytest.approx(challenge.overall, abs=1e-6)


@pytest.mark.parametrize("name", LESION_CLASSES)
def test_areas_of_a_class_equal_the_challenges(evaluation, challenge, name):
    expected = challenge.per_category.loc[name, ["auc", "ap"]].tolist()
    got = [
        figure(evaluation, f"classes.{name}.{path}") for path in ("roc_auc", "average_precision")
    ]
    assert got == pytest.approx(expected, abs=1e-6)


def test_malignant_areas_equal_the_challenges(table, evaluation):
    truth, once = pd.Series(is_malignant(table).astype(float)), pd.Series(1.0, index=table.index)
    got = evaluation.malignant
    expected = metrics.auc(truth, table["p_malignant"], once)
    assert got.roc_auc.value == pytest.approx(expected, abs=1e-6)
    expected = metrics.average_precision(truth, table["p_malignant"], once)
    assert got.average_precision.value == pytest.approx(expected, abs=1e-6)


def test_partial_area_equals_the_challenges_less_what_lies_below_the_line(table, evaluation):
    truth, once = pd.Series(is_malignant(table).astype(float)), pd.Series(1.0, index=table.index)
    down_to_zero = metrics.auc_above_sensitivity(truth, table["p_malignant"], once, 0.8)
    false_rate, true_rate = Ranking(is_malignant(table), table["p_malignant"].to_numpy()).roc(
        np.ones((1, len(table)))
    )
    width = 1 - false_rate[0][np.searchsorted(true_rate[0], 0.8)]
    got = evaluation.malignant.partial_auc.value
    assert got == pytest.approx(down_to_zero - 0.8 * width, abs=1e-6)


@pytest.mark.parametrize("name", BINARY)
def test_rates_at_the_threshold_equal_the_challenges(table, evaluation, name):
    called = table["p_malignant"].to_numpy() >= THRESHOLD
    counts = create_binary_confusion_matrix(is_malignant(table), called)
    assert figure(evaluation, f"malignant.{name}") == pytest.approx(BINARY[name](counts), abs=1e-6)


@pytest.mark.parametrize(
    ("name", "malignant", "score"),
    [
        ("sensitivity", False, 0.9),
        ("specificity", True, 0.9),
        ("ppv", True, 0.1),
        ("npv", False, 0.9),
    ],
)
def test_what_the_challenge_calls_perfect_for_want_of_images_is_not_defined(name, malignant, score):
    table = binary_table([malignant] * 3, [score] * 3)
    called = table["p_malignant"].to_numpy() >= THRESHOLD
    counts = create_binary_confusion_matrix(is_malignant(table), called)
    assert BINARY[name](counts) == 1
    assert figure(evaluate(table, THRESHOLD, resamples=2), f"malignant.{name}") is None
