import numpy as np
import pandas as pd
import pytest
from scored_tables import THRESHOLD, is_malignant, scored_table
from sklearn import metrics

from dermascan.errors import InputError
from dermascan.evaluation import (
    CLASS_COLUMNS,
    REQUIRED_COLUMNS,
    Estimate,
    Evaluation,
    evaluate,
    figure,
)
from dermascan.taxonomy import LESION_CLASSES, Taxonomy


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return scored_table()


@pytest.fixture(scope="module")
def evaluation(table) -> Evaluation:
    return evaluate(table, THRESHOLD, dataset="made-up")


def test_malignant_figures_equal_those_of_scikit_learn(table, evaluation):
    truth, score = is_malignant(table), table["p_malignant"].to_numpy()
    called = score >= THRESHOLD
    false_rate, true_rate, _ = metrics.roc_curve(truth, score, drop_intermediate=False)
    prevalence = truth.mean()
    expected = {
        "roc_auc": metrics.roc_auc_score(truth, score),
        "average_precision": metrics.average_precision_score(truth, score),
        "accuracy": metrics.accuracy_score(truth, called),
        "sensitivity": metrics.recall_score(truth, called),
        "specificity": metrics.recall_score(~truth, ~called),
        "ppv": metrics.precision_score(truth, called),
        "npv": metrics.precision_score(~truth, ~called),
        **{
            f"sensitivity_at_{level}_specificity": true_rate[false_rate <= 1 - level / 100].max()
            for level in (80, 90, 95)
        },
        **{
            f"specificity_at_{level}_sensitivity": 1 - false_rate[true_rate >= level / 100].min()
            for level in (80, 90, 95)
        },
        "partial_auc": np.trapezoid(np.maximum(true_rate - 0.8, 0), false_rate),
        "brier": metrics.brier_score_loss(truth, score),
        "brier_skill": 1 - metrics.brier_score_loss(truth, score) / (prevalence * (1 - prevalence)),
        "prevalence": prevalence,
        "majority_rate": max(prevalence, 1 - prevalence),
        "images": truth.sum(),
    }
    got = {name: figure(evaluation, f"malignant.{name}") for name in expected}
    assert got == pytest.approx(expected, abs=1e-6)


def test_seven_class_figures_equal_those_of_scikit_learn(table, evaluation):
    truth = table["lesion_class"]
    predicted = np.array(LESION_CLASSES)[table[list(CLASS_COLUMNS)].to_numpy().argmax(axis=1)]
    assert evaluation.accuracy.value == pytest.approx(
        metrics.accuracy_score(truth, predicted), abs=1e-6
    )
    assert evaluation.balanced_accuracy.value == pytest.approx(
        metrics.balanced_accuracy_score(truth, predicted), abs=1e-6
    )
    majority_rate = truth.value_counts(normalize=True).max()
    assert evaluation.majority_rate == pytest.approx(majority_rate, abs=1e-6)
    matrix = metrics.confusion_matrix(truth, predicted, labels=list(LESION_CLASSES))
    assert np.array(evaluation.confusion).tolist() == matrix.tolist()


@pytest.mark.parametrize("name", LESION_CLASSES)
def test_class_figures_equal_those_of_scikit_learn(table, evaluation, name):
    truth, score = (table["lesion_class"] == name).to_numpy(), table[f"p_{name}"]
    best = table[list(CLASS_COLUMNS)].to_numpy().argmax(axis=1) == LESION_CLASSES.index(name)
    expected = [
        metrics.roc_auc_score(truth, score),
        metrics.average_precision_score(truth, score),
        metrics.recall_score(truth, best),
        metrics.precision_score(truth, best),
    ]
    paths = ("roc_auc", "average_precision", "recall", "precision")
    got = [figure(evaluation, f"classes.{name}.{path}") for path in paths]
    assert got == pytest.approx(expected, abs=1e-6)


def test_score_at_the_threshold_is_called_malignant():
    table = scored_table(40)
    table["p_malignant"] = THRESHOLD
    evaluation = evaluate(table, THRESHOLD, resamples=10)
    assert (evaluation.malignant.sensitivity.value, evaluation.malignant.specificity.value) == (
        1,
        0,
    )


def test_intervals_lie_around_the_estimate(evaluation):
    for name in ("roc_auc", "average_precision", "sensitivity", "ppv", "brier", "brier_skill"):
        estimate = getattr(evaluation.malignant, name)
        assert estimate.low < estimate.value < estimate.high


def test_images_without_a_lesion_id_are_lesions_of_their_own(table):
    nameless = table.assign(lesion_id=[None, ""] * (len(table) // 2))
    assert evaluate(nameless, THRESHOLD, resamples=2).lesions == len(table)


def test_evaluation_of_one_class_only_is_undefined_where_two_are_needed():
    benign = scored_table().query("lesion_class == 'nv'")
    risk = evaluate(benign, THRESHOLD, resamples=50).malignant
    undefined = (
        "roc_auc",
        "partial_auc",
        "sensitivity",
        "sensitivity_at_90_specificity",
        "specificity_at_90_sensitivity",
        "brier_skill",
    )
    assert [getattr(risk, name) for name in undefined] == [Estimate()] * len(undefined)
    assert risk.average_precision == Estimate()
    assert risk.specificity.value is not None


def test_evaluation_of_no_image_has_no_figures():
    nothing = evaluate(pd.DataFrame(columns=list(REQUIRED_COLUMNS)), THRESHOLD)
    assert (nothing.images, nothing.lesions, nothing.accuracy) == (0, 0, Estimate())
    assert nothing.majority_rate is None
    assert nothing.malignant.ece == nothing.uncalibrated.cross_entropy == Estimate()
    assert (nothing.coverage, nothing.decision_curve, nothing.worst_slice) == ((), (), None)


def test_evaluation_is_the_same_again_in_any_row_order_and_through_json(table, evaluation):
    shuffled = table.sample(frac=1, random_state=1)
    assert evaluate(shuffled, THRESHOLD, dataset="made-up") == evaluation
    assert Evaluation.model_validate_json(evaluation.model_dump_json()) == evaluation


def test_test_set_name_depends_on_the_images_alone(table, evaluation):
    other_scores = scored_table(seed=0, skill=9)
    assert evaluate(other_scores, 0.7, resamples=2).test_set == evaluation.test_set
    assert evaluate(table.iloc[1:], THRESHOLD, resamples=2).test_set != evaluation.test_set


def test_taxonomy_decides_what_is_malignant(table):
    only_melanoma = evaluate(table, THRESHOLD, taxonomy=Taxonomy(malignant=("mel",)), resamples=2)
    assert only_melanoma.malignant.images == (table["lesion_class"] == "mel").sum()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"p_mel": np.nan}, "ISIC_0000000"),
        ({"p_mel": 1.5}, "ISIC_0000000"),
        ({"p_malignant": -0.1}, "ISIC_0000000"),
        (dict.fromkeys(CLASS_COLUMNS, 0.5), "adding up to 1"),
        ({"lesion_class": "wart"}, "wart"),
        ({"lesion_class": None}, "None"),
        ({"isic_id": "ISIC_0000001"}, "ISIC_0000001 is scored twice"),
    ],
)
def test_evaluate_with_an_unusable_row_names_it(table, change, complaint):
    damaged = table.copy()
    damaged[list(change)] = damaged[list(change)].astype(object)
    damaged.loc[0, list(change)] = list(change.values())
    with pytest.raises(InputError, match=complaint):
        evaluate(damaged, THRESHOLD)


def test_evaluate_without_a_column_names_it(table):
    with pytest.raises(InputError, match="lesion_id"):
        evaluate(table.drop(columns="lesion_id"), THRESHOLD)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, np.nan])
def test_evaluate_with_a_threshold_that_is_none_is_refused(table, threshold):
    with pytest.raises(InputError, match="threshold"):
        evaluate(table, threshold)
