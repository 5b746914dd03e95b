import numpy as np
import pandas as pd
import pytest
from scored_tables import THRESHOLD, is_malignant, scored_table
from sklearn import metrics

from dermascan.errors import InputError
from dermascan.evaluation import CLASS_COLUMNS, evaluate
from dermascan.evaluation.bootstrap import Bootstrap
from dermascan.evaluation.calibration import expected_calibration_error
from dermascan.evaluation.scored import Scored
from dermascan.model.calibration import softmax
from dermascan.taxonomy import LESION_CLASSES, Taxonomy


@pytest.fixture(scope="module")
def table():
    return scored_table()


@pytest.fixture(scope="module")
def evaluation(table):
    return evaluate(table, THRESHOLD)


def with_probabilities(table: pd.DataFrame, probabilities: np.ndarray) -> pd.DataFrame:
    malignant = probabilities[:, list(Taxonomy().malignant_indices())].sum(axis=1).clip(0, 1)
    columns = dict(zip(CLASS_COLUMNS, probabilities.T, strict=True))
    return table.assign(**columns, p_malignant=malignant)


def test_brier_and_cross_entropy_equal_those_of_scikit_learn(table, evaluation):
    calibrated = evaluation.calibrated
    expected = metrics.brier_score_loss(is_malignant(table), table["p_malignant"])
    assert calibrated.brier.value == pytest.approx(expected, abs=1e-6)
    probabilities = table[list(CLASS_COLUMNS)].to_numpy()
    expected = metrics.log_loss(table["lesion_class"], probabilities, labels=list(LESION_CLASSES))
    assert calibrated.cross_entropy.value == pytest.approx(expected, abs=1e-6)
    assert calibrated.cross_entropy.low < expected < calibrated.cross_entropy.high


def test_calibration_error_averages_the_gaps_of_ten_equal_bins(table, evaluation):
    truth, score = is_malignant(table), table["p_malignant"]
    bins = pd.cut(score, np.linspace(0, 1, 11), right=False, labels=False)
    groups = pd.DataFrame({"truth": truth, "score": score}).groupby(bins)
    expected = sum(len(g) * abs(g["truth"].mean() - g["score"].mean()) for _, g in groups)
    ece = evaluation.calibrated.ece
    assert ece.value == pytest.approx(expected / len(table), abs=1e-6)
    assert ece.low <= ece.value <= ece.high
    assert [each.images for each in evaluation.calibrated.reliability if each.images] == [
        len(group) for _, group in groups
    ]


@pytest.mark.parametrize(("shift", "least"), [(0.0, 0.8), (0.15, 0.9), (0.7, 0.9)])
def test_interval_of_the_calibration_error_covers_the_true_one(shift, least):
    """Coverage over drawn test sets of 300 images whose scores are too high by `shift` logits."""
    expected = calibration_error_interval(400_000, shift, seed=0, resamples=2).value
    found = [calibration_error_interval(300, shift, seed, resamples=200) for seed in range(1, 101)]
    covered = np.mean([each.low <= expected <= each.high for each in found])
    assert covered >= least


def calibration_error_interval(images, shift, seed, resamples):
    random = np.random.default_rng(seed)
    logits = random.normal(-2, 1.8, images)
    positive = random.random(images) < 1 / (1 + np.exp(-logits))
    score = 1 / (1 + np.exp(-logits - shift))
    nothing = np.zeros(images, dtype=int)
    bootstrap = Bootstrap(np.arange(images), resamples, seed)
    return expected_calibration_error(
        Scored(positive, score, score >= 0.5, nothing, nothing, np.zeros((0, 7)), images, bootstrap)
    )


def test_a_score_of_one_belongs_to_the_last_bin():
    one = scored_table(1)
    one[list(CLASS_COLUMNS)] = 0.0
    one["p_mel"] = one["p_malignant"] = 1.0
    assert evaluate(one, THRESHOLD).calibrated.reliability[-1].images == 1


def test_figures_of_the_scores_are_repeated_where_they_are_looked_for(evaluation):
    assert evaluation.malignant.brier == evaluation.calibrated.brier
    assert evaluation.malignant.ece == evaluation.calibrated.ece


def test_a_certain_mistake_has_a_large_but_finite_cross_entropy(table):
    wrong = np.eye(7)[[(LESION_CLASSES.index(name) + 1) % 7 for name in table["lesion_class"]]]
    figures = evaluate(with_probabilities(table, wrong), THRESHOLD, resamples=2).calibrated
    assert figures.cross_entropy.value == pytest.approx(36.04, abs=0.01)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.5])
def test_undoing_the_temperature_gives_the_figures_before_it(table, temperature):
    logits = np.random.default_rng(5).normal(0, 2, (len(table), 7))
    cold = with_probabilities(table, softmax(logits))
    warm = with_probabilities(table, softmax(logits, temperature))
    derived = evaluate(warm, THRESHOLD, temperature=temperature, resamples=50)
    given = evaluate(
        warm, THRESHOLD, temperature=temperature, uncalibrated=cold.iloc[::-1], resamples=50
    )
    before = evaluate(cold, THRESHOLD, resamples=50)
    assert derived.temperature == temperature
    assert derived.uncalibrated == given.uncalibrated == before.calibrated
    assert (derived.uncalibrated == derived.calibrated) == (temperature == 1)


def test_given_uncalibrated_scores_need_no_more_than_their_columns(table):
    scores = table[["isic_id", *CLASS_COLUMNS, "p_malignant"]]
    evaluation = evaluate(table, THRESHOLD, uncalibrated=scores, temperature=3.0, resamples=2)
    assert evaluation.uncalibrated == evaluation.calibrated


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda table: table.iloc[1:], "different images"),
        (lambda table: pd.concat([table, table.iloc[:1]]), "different images"),
        (lambda table: table.drop(columns="p_mel"), "p_mel"),
        (lambda table: table.assign(p_mel=9.0), "0 to 1"),
    ],
)
def test_uncalibrated_scores_that_do_not_fit_are_refused(table, change, complaint):
    with pytest.raises(InputError, match=complaint):
        evaluate(table, THRESHOLD, uncalibrated=change(table))


@pytest.mark.parametrize("temperature", [0, -1, np.nan])
def test_a_temperature_that_is_none_is_refused(table, temperature):
    with pytest.raises(InputError, match="temperature"):
        evaluate(table, THRESHOLD, temperature=temperature)
