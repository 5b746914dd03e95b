import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scored_tables import THRESHOLD, binary_table, is_malignant, scored_table

from dermascan.errors import InputError
from dermascan.evaluation import Estimate, evaluate, figure
from dermascan.evaluation.decision import LEVELS, certainty
from dermascan.model.calibration import choose_threshold, threshold_for
from dermascan.taxonomy import Taxonomy

SCORES = st.lists(st.tuples(st.booleans(), st.integers(0, 20)), min_size=1, max_size=60)


def rates(malignant, scores, threshold):
    called = scores >= threshold
    return {"sensitivity": called[malignant].mean(), "specificity": (~called)[~malignant].mean()}


@pytest.mark.parametrize("target", ["sensitivity", "specificity"])
@pytest.mark.parametrize("level", LEVELS)
@given(rows=SCORES)
def test_threshold_keeps_its_target_and_no_other_does_better(target, level, rows):
    malignant, scores = np.array([m for m, _ in rows]), np.array([s / 20 for _, s in rows])
    threshold = threshold_for(malignant, scores, target, level)
    relevant = malignant if target == "sensitivity" else ~malignant
    if threshold is None:
        assert not relevant.any() or (scores[relevant] == 1).mean() > 1 - level
        return
    assert 0 <= threshold <= 1
    if malignant.all() or not malignant.any():
        return
    got, reverse = rates(malignant, scores, threshold), {"sensitivity", "specificity"} - {target}
    other = reverse.pop()
    assert got[target] >= level - 1e-9
    for candidate in np.linspace(0, 1, 81):
        found = rates(malignant, scores, candidate)
        assert found[target] < level - 1e-9 or found[other] <= got[other]


def test_threshold_lies_halfway_between_scores():
    malignant, scores = np.array([False, False, True, True]), np.array([0.1, 0.2, 0.6, 0.8])
    assert threshold_for(malignant, scores, "specificity", 0.9) == pytest.approx(0.4)
    assert threshold_for(malignant, scores, "sensitivity", 0.5) == pytest.approx(0.7)
    assert threshold_for(malignant, scores, "sensitivity", 1.0) == pytest.approx(0.4)


def test_threshold_is_none_where_benign_images_have_the_highest_score_possible():
    malignant, scores = np.array([False, False, True]), np.array([1.0, 1.0, 0.5])
    assert threshold_for(malignant, scores, "specificity", 0.9) is None


def test_threshold_lies_above_all_scores_where_only_that_is_specific_enough():
    malignant, scores = np.array([False, False, True]), np.array([0.6, 0.6, 0.5])
    assert threshold_for(malignant, scores, "specificity", 0.9) == pytest.approx(0.8)


@pytest.mark.parametrize("level", [0.8, 0.9, 0.95, 7 * 0.1])
def test_an_operating_point_has_the_threshold_that_training_chooses_for_its_specificity(level):
    scores, malignant = np.arange(21) / 21, np.arange(21) == 20
    trained = choose_threshold(scores, malignant, specificity=level).threshold
    assert trained == threshold_for(malignant, scores, "specificity", level)


def test_operating_points_are_of_thresholds_chosen_on_validation():
    table, validation = scored_table(seed=0), scored_table(seed=1)
    points = evaluate(table, THRESHOLD, validation=validation, resamples=100).operating_points
    assert [(each.target, each.level) for each in points] == [
        (target, level) for target in ("specificity", "sensitivity") for level in LEVELS
    ]
    for point in points:
        of_validation = validation["p_malignant"].to_numpy()
        chosen = threshold_for(is_malignant(validation), of_validation, point.target, point.level)
        expected = rates(is_malignant(table), table["p_malignant"].to_numpy(), chosen)
        assert point.threshold == chosen
        got = {"sensitivity": point.sensitivity.value, "specificity": point.specificity.value}
        assert got == pytest.approx(expected, abs=1e-6)
        assert point.sensitivity.low < point.sensitivity.high


def test_operating_points_do_not_depend_on_test_scores_for_their_thresholds():
    validation = scored_table(seed=1)
    thresholds = [
        [point.threshold for point in evaluation.operating_points]
        for evaluation in (
            evaluate(scored_table(seed=seed), THRESHOLD, validation=validation, resamples=2)
            for seed in (0, 5)
        )
    ]
    assert thresholds[0] == thresholds[1]


def test_operating_points_without_validation_have_no_threshold():
    evaluation = evaluate(scored_table(), THRESHOLD, resamples=2)
    assert len(evaluation.operating_points) == 6
    for point in evaluation.operating_points:
        assert (point.threshold, point.sensitivity) == (None, Estimate())
    assert figure(evaluation, "operating_points.specificity_90.sensitivity") is None


def test_operating_points_follow_the_taxonomy_on_validation():
    validation, only = scored_table(seed=1), Taxonomy(malignant=("mel",))
    points = evaluate(
        scored_table(), THRESHOLD, validation=validation, taxonomy=only, resamples=2
    ).operating_points
    melanoma = (validation["lesion_class"] == "mel").to_numpy()
    scores = validation["p_malignant"].to_numpy()
    assert points[0].threshold == threshold_for(melanoma, scores, "specificity", 0.8)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [({"p_malignant": 2.0}, "0 to 1"), ({"lesion_class": "wart"}, "wart")],
)
def test_unusable_validation_is_refused(change, complaint):
    validation = scored_table(seed=1).assign(**change)
    with pytest.raises(InputError, match=complaint):
        evaluate(scored_table(), THRESHOLD, validation=validation)


def test_certainty_is_the_share_of_the_way_from_the_threshold():
    scores = np.array([0.0, 0.1, 0.2, 0.6, 1.0])
    assert certainty(scores, 0.2) == pytest.approx([1, 0.5, 0, 0.5, 1])
    assert certainty(np.array([0.0, 0.5, 1.0]), 0.0) == pytest.approx([0, 0.5, 1])
    assert certainty(np.array([0.5, 1.0]), 1.0) == pytest.approx([0.5, 0])


def test_coverage_drops_the_least_certain_first():
    # Certainties at threshold 0.5: 0.8, 0.6, 0.4, 0.2; the last two are wrong.
    table = binary_table([True, False, True, False], [0.9, 0.2, 0.3, 0.6])
    points = {each.coverage: each for each in evaluate(table, 0.5, resamples=2).coverage}
    assert (points[0.5].images, points[0.5].error) == (2, 0)
    assert (points[0.75].images, points[0.75].error) == (3, pytest.approx(1 / 3, abs=1e-6))
    assert (points[1.0].error, points[1.0].sensitivity, points[1.0].specificity) == (0.5, 0.5, 0.5)
    assert points[0.25].specificity is None


def test_full_coverage_is_the_whole_test_set():
    evaluation = evaluate(scored_table(), THRESHOLD, resamples=2)
    full = evaluation.coverage[-1]
    assert (full.coverage, full.images) == (1, 300)
    assert full.error == pytest.approx(1 - evaluation.malignant.accuracy.value, abs=1e-6)
    assert full.sensitivity == evaluation.malignant.sensitivity.value


def test_area_under_risk_coverage_averages_the_error_over_all_coverages():
    table = scored_table(120, seed=4)
    score, malignant = table["p_malignant"].to_numpy(), is_malignant(table)
    order = np.argsort(-certainty(score, THRESHOLD))
    wrong = ((score >= THRESHOLD) != malignant)[order]
    expected = np.mean([wrong[: count + 1].mean() for count in range(len(wrong))])
    got = evaluate(table, THRESHOLD).area_under_risk_coverage
    assert got.value == pytest.approx(expected, abs=1e-6)
    assert got.low < got.value < got.high


def test_area_under_risk_coverage_of_equally_certain_images_is_their_error():
    table = binary_table([True, False, False, False], [0.4] * 4)
    assert evaluate(table, 0.4, resamples=2).area_under_risk_coverage.value == 0.75


def test_decision_curve_weighs_false_positives_by_the_odds_of_the_threshold():
    table = binary_table([True, True, False, False, False], [0.9, 0.3, 0.6, 0.2, 0.1])
    points = {each.threshold: each for each in evaluate(table, 0.5, resamples=2).decision_curve}
    assert points[0.25].model == pytest.approx((2 - 1 / 3) / 5, abs=1e-6)
    assert points[0.25].treat_all == pytest.approx((2 - 3 / 3) / 5, abs=1e-6)
    assert points[0.5].model == pytest.approx(0, abs=1e-6)
    assert points[0.4].treat_all == pytest.approx(0, abs=1e-6)


def test_decision_curve_of_a_perfect_model_is_the_prevalence():
    table = binary_table([True, False, False, False], [1.0, 0.0, 0.0, 0.0])
    assert {each.model for each in evaluate(table, 0.5, resamples=2).decision_curve} == {0.25}
