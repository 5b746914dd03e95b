import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from dermascan.errors import InputError
from dermascan.evaluation import (
    CLASS_COLUMNS,
    REQUIRED_COLUMNS,
    Estimate,
    Evaluation,
    Ranking,
    evaluate,
    figure,
)
from dermascan.taxonomy import LESION_CLASSES, Taxonomy

THRESHOLD = 0.4
MALIGNANT = Taxonomy().malignant


def scored_table(images: int = 300, seed: int = 0, skill: float = 1.5) -> pd.DataFrame:
    """Draw a test set of which a made-up model knows more or less."""
    random = np.random.default_rng(seed)
    lesion = random.integers(max(images * 2 // 3, 1), size=images)
    truth = lesion % len(LESION_CLASSES)
    odds = np.exp(random.normal(0, 1, (images, 7)) + skill * np.eye(7)[truth])
    table = pd.DataFrame(odds / odds.sum(axis=1, keepdims=True), columns=list(CLASS_COLUMNS))
    table["isic_id"] = [f"ISIC_{i:07d}" for i in range(images)]
    table["lesion_id"] = [f"IL_{i:07d}" for i in lesion]
    table["lesion_class"] = [LESION_CLASSES[i] for i in truth]
    table["p_malignant"] = table[[f"p_{name}" for name in MALIGNANT]].sum(axis=1).clip(0, 1)
    table["sex"] = random.choice(["female", "male", None], images)
    table["age_approx"] = random.choice([25.0, 30.0, 74.0, 75.0, np.nan], images)
    table["anatom_site_general"] = random.choice(["head/neck", "palms/soles"], images)
    return table


def is_malignant(table: pd.DataFrame) -> np.ndarray:
    return table["lesion_class"].isin(MALIGNANT).to_numpy()


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return scored_table()


@pytest.fixture(scope="module")
def evaluation(table) -> Evaluation:
    return evaluate(table, THRESHOLD, dataset="made-up")


def test_malignant_figures_equal_those_of_scikit_learn(table, evaluation):
    truth, score = is_malignant(table), table["p_malignant"].to_numpy()
    called = score >= THRESHOLD
    false_rate, true_rate, _ = metrics.roc_curve(truth, score)
    prevalence = truth.mean()
    expected = {
        "roc_auc": metrics.roc_auc_score(truth, score),
        "average_precision": metrics.average_precision_score(truth, score),
        "accuracy": metrics.accuracy_score(truth, called),
        "sensitivity": metrics.recall_score(truth, called),
        "specificity": metrics.recall_score(~truth, ~called),
        "ppv": metrics.precision_score(truth, called),
        "npv": metrics.precision_score(~truth, ~called),
        "sensitivity_at_90_specificity": true_rate[false_rate <= 0.1].max(),
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


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 6), st.integers(0, 3)), min_size=2, max_size=40
    )
)
def test_ranking_of_tied_and_weighted_scores_equals_scikit_learn(rows):
    positive, score, weight = (np.array(column) for column in zip(*rows, strict=True))
    score, weights = score / 6, weight[None].astype(float)
    ranking = Ranking(positive, score)
    if weight[positive].sum() and weight[~positive].sum():
        auc = metrics.roc_auc_score(positive, score, sample_weight=weight)
        precision = metrics.average_precision_score(positive, score, sample_weight=weight)
        assert ranking.roc_auc(weights)[0] == pytest.approx(auc)
        assert ranking.average_precision(weights)[0] == pytest.approx(precision)
    else:
        assert np.isnan(ranking.roc_auc(weights)[0])
        assert np.isnan(ranking.sensitivity_at(0.9)(weights)[0])


def test_calibration_error_averages_the_gaps_of_ten_equal_bins(table, evaluation):
    truth, score = is_malignant(table), table["p_malignant"]
    bins = pd.cut(score, np.linspace(0, 1, 11), right=False, labels=False)
    groups = pd.DataFrame({"truth": truth, "score": score}).groupby(bins)
    expected = sum(len(g) * abs(g["truth"].mean() - g["score"].mean()) for _, g in groups)
    assert evaluation.malignant.ece.value == pytest.approx(expected / len(table), abs=1e-6)
    assert [each.images for each in evaluation.reliability if each.images] == [
        len(group) for _, group in groups
    ]


def test_a_score_of_one_belongs_to_the_last_bin():
    one = scored_table(1)
    one[list(CLASS_COLUMNS)] = 0.0
    one["p_mel"] = one["p_malignant"] = 1.0
    assert evaluate(one, THRESHOLD).reliability[-1].images == 1


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


def test_interval_of_accuracy_is_that_of_drawing_lesions():
    table = scored_table(400, seed=3)
    right = table[list(CLASS_COLUMNS)].to_numpy().argmax(axis=1) == [
        LESION_CLASSES.index(name) for name in table["lesion_class"]
    ]
    lesions = [right[rows] for rows in table.groupby("lesion_id").indices.values()]
    random = np.random.default_rng(99)
    draws = [
        np.concatenate([lesions[i] for i in random.integers(len(lesions), size=len(lesions))])
        for _ in range(1000)
    ]
    expected = np.quantile([draw.mean() for draw in draws], [0.025, 0.975])
    accuracy = evaluate(table, THRESHOLD).accuracy
    assert [accuracy.low, accuracy.high] == pytest.approx(expected, abs=0.01)


def test_more_images_of_the_same_lesions_do_not_narrow_the_interval():
    once = scored_table(150).drop_duplicates("lesion_id")
    copies = [once.assign(isic_id=once["isic_id"] + f"-{i}") for i in range(4)]
    assert evaluate(pd.concat(copies), THRESHOLD).accuracy == evaluate(once, THRESHOLD).accuracy


def test_images_without_a_lesion_id_are_lesions_of_their_own(table):
    nameless = table.assign(lesion_id=[None, ""] * (len(table) // 2))
    assert evaluate(nameless, THRESHOLD, resamples=2).lesions == len(table)


def test_evaluation_of_one_class_only_is_undefined_where_two_are_needed():
    benign = scored_table().query("lesion_class == 'nv'")
    risk = evaluate(benign, THRESHOLD, resamples=50).malignant
    undefined = ("roc_auc", "sensitivity", "sensitivity_at_90_specificity", "brier_skill")
    assert [getattr(risk, name) for name in undefined] == [Estimate()] * len(undefined)
    assert risk.average_precision == Estimate()
    assert risk.specificity.value is not None


def test_evaluation_of_no_image_has_no_figures():
    nothing = evaluate(pd.DataFrame(columns=list(REQUIRED_COLUMNS)), THRESHOLD)
    assert (nothing.images, nothing.lesions, nothing.accuracy) == (0, 0, Estimate())
    assert nothing.majority_rate is None
    assert nothing.malignant.ece == Estimate()


def test_resamples_without_spread_give_no_interval():
    perfect = scored_table(60, skill=60)
    assert evaluate(perfect, THRESHOLD).accuracy == Estimate(value=1.0)


def test_rare_positives_give_no_interval_when_many_resamples_miss_them():
    table = scored_table(80).query("lesion_class in ['nv', 'bkl']").reset_index(drop=True)
    table.loc[0, ["lesion_class", "lesion_id"]] = ["mel", "IL_9999999"]
    auc = evaluate(table, THRESHOLD).malignant.roc_auc
    assert auc.value is not None
    assert auc.low is None


def test_evaluation_is_the_same_again_in_any_row_order_and_through_json(table, evaluation):
    shuffled = table.sample(frac=1, random_state=1)
    assert evaluate(shuffled, THRESHOLD, dataset="made-up") == evaluation
    assert Evaluation.model_validate_json(evaluation.model_dump_json()) == evaluation


def test_slices_are_the_figures_of_their_images(table, evaluation):
    women = evaluate(table[table["sex"] == "female"], THRESHOLD, resamples=2)
    assert figure(evaluation, "slices.sex.female.roc_auc") == women.malignant.roc_auc.value
    assert figure(evaluation, "slices.sex.female.sensitivity") == women.malignant.sensitivity.value
    assert figure(evaluation, "slices.sex.female.images") == women.images


def test_slices_name_age_bands_in_order_and_the_unknown_last(evaluation):
    names = {group.name: [each.name for each in group.slices] for group in evaluation.slices}
    assert names == {
        "sex": ["female", "male", "unknown"],
        "age": ["under 30", "30 to 44", "60 to 74", "75 and over", "unknown"],
        "site": ["head/neck", "palms/soles"],
    }


def test_slices_are_empty_without_metadata(table):
    bare = evaluate(table[list(REQUIRED_COLUMNS)], THRESHOLD, resamples=2)
    assert all(not group.slices for group in bare.slices)


def test_test_set_name_depends_on_the_images_alone(table, evaluation):
    other_scores = scored_table(seed=0, skill=9)
    assert evaluate(other_scores, 0.7, resamples=2).test_set == evaluation.test_set
    assert evaluate(table.iloc[1:], THRESHOLD, resamples=2).test_set != evaluation.test_set


def test_taxonomy_decides_what_is_malignant(table):
    only_melanoma = evaluate(table, THRESHOLD, taxonomy=Taxonomy(malignant=("mel",)), resamples=2)
    assert only_melanoma.malignant.images == (table["lesion_class"] == "mel").sum()


def test_figure_of_a_slice_that_does_not_occur_is_undefined(evaluation):
    assert figure(evaluation, "slices.site.oral/genital.roc_auc.low") is None


@pytest.mark.parametrize(
    "path",
    [
        "auc",
        "malignant.auc",
        "malignant",
        "classes.scc.roc_auc",
        "slices.sex.female.auc",
        "test_set",
    ],
)
def test_figure_with_a_path_that_leads_nowhere_is_refused(evaluation, path):
    with pytest.raises(InputError, match=path):
        figure(evaluation, path)


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
