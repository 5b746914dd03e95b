import numpy as np
import pandas as pd
import pytest
from scored_tables import THRESHOLD, binary_table, is_malignant, scored_table
from sklearn import metrics

from dermascan.evaluation import REQUIRED_COLUMNS, SMALLEST_SLICE, evaluate, figure


@pytest.fixture(scope="module")
def table():
    table, random = scored_table(), np.random.default_rng(1)
    table["diagnosis_confirm_type"] = random.choice(["histopathology", "confocal", ""], 300)
    table["skin_tone"] = random.choice(["II", "V", None], 300)
    table["ita"] = random.choice([60.0, 55.0, 30.0, -40.0, np.nan], 300)
    table["sharpness"] = np.append(random.permutation(299).astype(float), np.nan)
    return table


@pytest.fixture(scope="module")
def evaluation(table):
    return evaluate(table, THRESHOLD, resamples=200)


def slice_names(evaluation):
    return {group.name: [each.name for each in group.slices] for group in evaluation.slices}


def test_slices_are_the_figures_of_their_images(table, evaluation):
    women = table[table["sex"] == "female"]
    alone = evaluate(women, THRESHOLD, resamples=2)
    for name in ("roc_auc", "sensitivity", "specificity"):
        assert figure(evaluation, f"slices.sex.female.{name}") == figure(alone, f"malignant.{name}")
    assert figure(evaluation, "slices.sex.female.images") == alone.images
    assert figure(evaluation, "slices.sex.female.malignant") == alone.malignant.images
    assert figure(evaluation, "slices.sex.female.balanced_accuracy") == pytest.approx(
        metrics.balanced_accuracy_score(is_malignant(women), women["p_malignant"] >= THRESHOLD),
        abs=1e-6,
    )


def test_slices_have_intervals(evaluation):
    low, high = (figure(evaluation, f"slices.sex.male.roc_auc.{end}") for end in ("low", "high"))
    assert low < figure(evaluation, "slices.sex.male.roc_auc") < high


def test_slices_are_named_in_the_order_of_what_they_measure_and_the_unknown_last(evaluation):
    assert slice_names(evaluation) == {
        "sex": ["female", "male", "unknown"],
        "age": ["under 30", "30 to 44", "60 to 74", "75 and over", "unknown"],
        "site": ["head/neck", "palms/soles"],
        "confirmation": ["confocal", "histopathology", "unknown"],
        "skin_tone": [
            "II",
            "V",
            "very light (estimated)",
            "light (estimated)",
            "intermediate (estimated)",
            "dark (estimated)",
            "unknown",
        ],
        "sharpness": ["lowest third", "middle third", "highest third", "unknown"],
        "brightness": [],
    }


def test_slices_are_empty_without_metadata(table):
    bare = evaluate(table[list(REQUIRED_COLUMNS)], THRESHOLD, resamples=2)
    assert all(not group.slices for group in bare.slices)
    assert bare.worst_slice is None


def test_every_image_is_in_one_slice_of_each_property(evaluation):
    for group in evaluation.slices:
        assert sum(each.images for each in group.slices) in (0, 300)


def test_estimated_skin_tone_counts_only_where_none_is_recorded(table, evaluation):
    recorded = table["skin_tone"].notna()
    assert figure(evaluation, "slices.skin_tone.V.images") == (table["skin_tone"] == "V").sum()
    expected = (~recorded & (table["ita"] == 60)).sum()
    assert figure(evaluation, "slices.skin_tone.very light (estimated).images") == expected


@pytest.mark.parametrize("column", ["skin_tone", "ita"])
def test_skin_tone_is_sliced_by_either_column_alone(table, column):
    groups = evaluate(table.drop(columns=column), THRESHOLD, resamples=2).slices
    names = next(group.slices for group in groups if group.name == "skin_tone")
    assert len(names) == {"skin_tone": 5, "ita": 3}[column]


def test_thirds_are_of_equal_size_and_equal_values_stay_together(table, evaluation):
    group = next(group for group in evaluation.slices if group.name == "sharpness")
    assert [each.images for each in group.slices] == [100, 99, 100, 1]
    same = evaluate(table.assign(sharpness=7.0), THRESHOLD, resamples=2)
    assert slice_names(same)["sharpness"] == ["lowest third"]


def with_sites(*sites: tuple[str, int, int, float]) -> pd.DataFrame:
    """Build sites of so many malignant and benign images, of which a share is scored wrongly."""
    parts = []
    for name, malignant, benign, wrong in sites:
        truth = np.repeat([True, False], [malignant, benign])
        place = np.concatenate([np.arange(malignant) / malignant, np.arange(benign) / benign])
        scores = np.where((place < wrong) ^ truth, 0.9, 0.1) + place / 100
        parts.append(binary_table(truth, scores).assign(anatom_site_general=name))
    table = pd.concat(parts, ignore_index=True)
    return table.assign(isic_id=[f"ISIC_{i:07d}" for i in range(len(table))])


def test_worst_slice_has_the_lowest_area_of_those_that_are_large_enough():
    small = SMALLEST_SLICE - 1
    table = with_sites(
        ("good", 40, 60, 0.0), ("bad", 30, 50, 0.3), ("few benign", 40, small, 0.6),
        ("few malignant", small, 40, 0.6),
    )  # fmt: skip
    evaluation = evaluate(table, 0.5, resamples=50)
    worst = evaluation.worst_slice
    assert (worst.group, worst.name, worst.images, worst.malignant) == ("site", "bad", 80, 30)
    assert worst.roc_auc.value == figure(evaluation, "slices.site.bad.roc_auc")
    assert worst.loss == pytest.approx(evaluation.malignant.roc_auc.value - worst.roc_auc.value)


def test_worst_slice_is_never_of_how_a_diagnosis_was_confirmed():
    table = with_sites(("good", 40, 60, 0.0), ("bad", 30, 50, 0.3))
    confirmed = table.assign(diagnosis_confirm_type=table["anatom_site_general"])
    only = confirmed.assign(anatom_site_general=None)

    assert evaluate(confirmed, 0.5, resamples=2).worst_slice.group == "site"
    assert evaluate(only, 0.5, resamples=2).worst_slice.name == "unknown"


def test_worst_slice_is_none_if_all_are_small():
    few = with_sites(("small", SMALLEST_SLICE - 1, 100, 0.2))
    assert evaluate(few, 0.5, resamples=2).worst_slice is None
