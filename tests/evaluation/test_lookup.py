from typing import get_args

import pytest
from isic_metadata.fields import DiagnosisConfirmTypeEnum, FitzpatrickSkinType
from isic_metadata.metadata import MetadataRow as Row
from pages import image_table
from scored_tables import THRESHOLD, scored_table

from dermascan.errors import InputError
from dermascan.evaluation import (
    CorruptionFigures,
    Efficiency,
    Estimate,
    Evaluation,
    Robustness,
    evaluate,
    figure,
)
from dermascan.evaluation.slices import SLICE_NAMES, UNKNOWN


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return evaluate(scored_table(), THRESHOLD, validation=scored_table(seed=1), resamples=50)


def test_figure_finds_members_by_name(evaluation):
    mel = next(each for each in evaluation.classes if each.name == "mel")
    assert figure(evaluation, "classes.mel.roc_auc.low") == mel.roc_auc.low
    point = evaluation.operating_points[2]
    assert (point.target, point.level) == ("specificity", 0.95)
    found = figure(evaluation, "operating_points.specificity_95.sensitivity")
    assert found == point.sensitivity.value
    threshold = figure(evaluation, "operating_points.specificity_95.threshold")
    assert threshold == point.threshold


def test_figure_finds_a_corruption_by_name_and_strength(evaluation):
    figures = tuple(
        CorruptionFigures(name="blur", strength=i, roc_auc=Estimate(value=0.9), auc_lost=i / 100)
        for i in (1, 3)
    )
    robust = Robustness(
        images=9,
        corruptions=figures,
        images_at_3=20,
        malignant_at_3=5,
        mean_auc_lost_at_3=Estimate(value=0.03, low=0.01, high=0.06),
    )
    measured = evaluation.model_copy(update={"robustness": robust})
    assert figure(measured, "robustness.corruptions.blur_3.auc_lost") == 0.03
    assert figure(measured, "robustness.mean_auc_lost_at_3") == 0.03
    assert figure(measured, "robustness.mean_auc_lost_at_3.high") == 0.06
    assert figure(measured, "robustness.malignant_at_3") == 5


def test_figure_of_a_slice_that_does_not_occur_is_undefined(evaluation):
    assert figure(evaluation, "slices.site.oral/genital.roc_auc.low") is None


def test_figure_of_a_slice_that_occurs_is_found_whatever_its_name():
    table = scored_table().assign(sex="not recorded here")
    evaluation = evaluate(table, THRESHOLD, resamples=9)
    assert figure(evaluation, "slices.sex.not recorded here.images") == len(table)


def test_every_name_that_the_archive_gives_a_property_is_known_as_a_slice():
    assert SLICE_NAMES["sex"] == set(get_args(get_args(Row.model_fields["sex"].annotation)[0]))
    assert SLICE_NAMES["confirmation"] == {each.value for each in DiagnosisConfirmTypeEnum}
    assert SLICE_NAMES["skin_tone"] >= {each.value for each in FitzpatrickSkinType}


def test_every_property_has_names_and_those_of_its_slices_are_among_them():
    table = image_table().assign(sex="male", diagnosis_confirm_type=None, brightness=0.5)
    groups = evaluate(table, THRESHOLD, resamples=9).slices
    assert {group.name for group in groups} == set(SLICE_NAMES)
    for group in groups:
        assert group.slices
        assert {each.name for each in group.slices} <= SLICE_NAMES[group.name] | {UNKNOWN}


@pytest.mark.parametrize(
    "path",
    [
        "robustness.mean_auc_lost_at_3",
        "robustness.corruptions.blur_3.roc_auc.low",
        "explanation.similarity_randomised",
        "efficiency.milliseconds_per_image",
    ],
)
def test_figure_of_what_was_not_measured_is_undefined(evaluation, path):
    assert figure(evaluation, path) is None


def test_figure_of_a_worst_slice_that_there_is_none_of_is_undefined(evaluation):
    nowhere = evaluation.model_copy(update={"worst_slice": None})
    assert figure(nowhere, "worst_slice.roc_auc.low") is None
    assert figure(nowhere, "worst_slice.loss") is None


def test_figure_counts_as_a_number(evaluation):
    cost = Efficiency(bytes=7, milliseconds_per_image=1.5, milliseconds_single=9.0, cores=2)
    assert figure(evaluation.model_copy(update={"efficiency": cost}), "efficiency.bytes") == 7.0


@pytest.mark.parametrize(
    "path",
    [
        "auc",
        "malignant.auc",
        "malignant",
        "classes.scc.roc_auc",
        "slices.sex.female.auc",
        "slices.sex.femal.roc_auc",
        "slices.age.45 to 60.roc_auc",
        "slices.site.female.roc_auc",
        "operating_points.specificity_85.sensitivity",
        "robustness",
        "robustness.auc",
        "robustness.corruptions",
        "worst_slice.name",
        "efficiency.bytes.low",
        "test_set",
    ],
)
def test_figure_with_a_path_that_leads_nowhere_is_refused(evaluation, path):
    with pytest.raises(InputError, match=path):
        figure(evaluation, path)
