import numpy as np
import pytest
from calibrations import BENIGN, MALIGNANT, calibrations, logits_of_images
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from dermascan.errors import InputError
from dermascan.model.calibration import (
    Calibration,
    apply,
    choose_threshold,
    class_offsets,
    cross_entropy,
    fit_beta,
    fit_calibration,
    fit_platt,
    fit_temperature,
    malignant_logit,
    roc_auc,
    softmax,
    uncalibrated,
)

scored = st.lists(
    st.tuples(st.integers(0, 20).map(lambda n: n / 20), st.booleans()), min_size=1, max_size=60
).map(lambda rows: tuple(np.array(column) for column in zip(*rows, strict=True)))


def drawn(temperature, images=20_000):
    """Draw logits, and labels that are as likely as the logits over `temperature` say."""
    random = np.random.default_rng(5)
    logits = random.normal(0, 2, (images, 7)).astype(np.float32)
    gumbel = random.gumbel(size=logits.shape)
    return logits, (logits / temperature + gumbel).argmax(axis=1)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_fit_temperature_when_labels_follow_a_temperature_finds_it(temperature):
    assert fit_temperature(*drawn(temperature)) == pytest.approx(temperature, rel=0.05)


def test_cross_entropy_equals_that_of_scikit_learn():
    logits, labels = drawn(1.0, images=50)

    expected = log_loss(labels, softmax(logits, 1.7), labels=range(7))
    assert cross_entropy(logits, labels, 1.7) == pytest.approx(expected)


def test_softmax_of_huge_logits_stays_a_distribution():
    assert softmax(np.array([[1e4, 0.0, -1e4]])).tolist() == [[1.0, 0.0, 0.0]]


@given(scored)
def test_roc_auc_equals_that_of_scikit_learn_or_is_undefined(rows):
    scores, positive = rows

    expected = roc_auc_score(positive, scores) if 0 < positive.sum() < len(positive) else None
    assert roc_auc(scores, positive) == (None if expected is None else pytest.approx(expected))


@given(scored)
def test_choose_threshold_never_does_worse_than_any_score_as_threshold(rows):
    scores, malignant = rows

    point = choose_threshold(scores, malignant)

    if malignant.all() or not malignant.any():
        assert point.threshold == 0.5
        return
    indices = [
        (scores[malignant] >= t).mean() + (scores[~malignant] < t).mean()
        for t in (point.threshold, *scores)
    ]
    assert indices[0] == pytest.approx(max(indices))
    assert point.sensitivity + point.specificity == pytest.approx(indices[0])
    assert 0 <= point.threshold <= 1


def test_choose_threshold_when_groups_are_apart_lies_halfway():
    scores, malignant = np.array([0.1, 0.2, 0.6, 0.9]), np.array([False, False, True, True])

    assert choose_threshold(scores, malignant).threshold == pytest.approx(0.4)


@given(scored, st.sampled_from([0.0, 0.5, 0.8, 0.9, 1.0]))
def test_choose_threshold_for_a_specificity_is_the_lowest_that_reaches_it(rows, wanted):
    scores, malignant = rows

    point = choose_threshold(scores, malignant, specificity=wanted)

    if malignant.all() or not malignant.any():
        assert point.threshold == 0.5
        return
    reached = (scores[~malignant] < point.threshold).mean()
    assert point.specificity == pytest.approx(reached)
    assert point.sensitivity == pytest.approx((scores[malignant] >= point.threshold).mean())
    assert reached >= wanted or scores[~malignant].max() == 1
    lower = scores[scores < point.threshold]
    assert all((scores[~malignant] < score).mean() < wanted for score in lower)


def test_choose_threshold_for_full_specificity_when_a_benign_image_is_on_top_passes_it():
    scores, malignant = np.array([0.1, 0.2, 0.6]), np.array([False, True, False])

    point = choose_threshold(scores, malignant, specificity=1.0)

    assert 0.6 < point.threshold <= 1
    assert (point.sensitivity, point.specificity) == (0, 1)


@given(logits_of_images)
def test_apply_when_nothing_was_fitted_is_the_softmax(logits):
    np.testing.assert_allclose(apply(logits, Calibration(), MALIGNANT), softmax(logits), atol=1e-12)


@given(logits_of_images, calibrations)
def test_apply_gives_distributions_whose_malignant_share_is_the_sigmoid(logits, calibration):
    probabilities = apply(logits, calibration, MALIGNANT)

    odds = malignant_logit(logits, MALIGNANT, calibration.temperature)
    share = 1 / (1 + np.exp(-odds))
    benign_slope = calibration.benign_slope or calibration.malignant_slope
    odds = calibration.malignant_slope * np.log(share) + benign_slope * np.log1p(np.exp(odds))
    odds += calibration.malignant_offset
    risk = probabilities[:, MALIGNANT].sum(axis=1)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(risk, 1 / (1 + np.exp(-odds)), atol=1e-12)


@given(logits_of_images, st.tuples(*[st.floats(-4, 4)] * 7))
def test_apply_with_class_offsets_moves_probability_only_within_the_groups(logits, offsets):
    plain = softmax(logits)

    probabilities = apply(logits, Calibration(class_offsets=offsets), MALIGNANT)

    for group in (MALIGNANT, BENIGN):
        before, after = plain[:, group], probabilities[:, group]
        np.testing.assert_allclose(after.sum(axis=1), before.sum(axis=1), atol=1e-12)
        weighted = before * np.exp(np.array(offsets)[list(group)])
        shares = weighted / weighted.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(after / after.sum(axis=1, keepdims=True), shares, atol=1e-9)


@given(logits_of_images, calibrations)
def test_uncalibrated_undoes_apply(logits, calibration):
    probabilities = apply(logits, calibration, MALIGNANT).astype(np.float32)

    plain = uncalibrated(probabilities, calibration, MALIGNANT)

    np.testing.assert_allclose(plain, softmax(logits), atol=1e-4)


@pytest.mark.parametrize("malignant", [(), range(7)])
def test_apply_when_a_group_is_empty_refuses(malignant):
    with pytest.raises(InputError, match="both malignant and benign"):
        apply(np.zeros((1, 7)), Calibration(), malignant)


def test_apply_when_offsets_do_not_fit_the_classes_refuses():
    with pytest.raises(InputError, match="2 class offsets for 7 classes"):
        apply(np.zeros((1, 7)), Calibration(class_offsets=(1.0, 2.0)), MALIGNANT)


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": 0},
        {"malignant_slope": -1},
        {"benign_slope": 0},
        {"malignant_offset": np.nan},
        {"t": 1},
    ],
)
def test_calibration_when_a_part_makes_no_sense_refuses(wrong):
    with pytest.raises(ValidationError):
        Calibration.model_validate(wrong)


def test_fit_platt_when_labels_follow_a_line_finds_it():
    random = np.random.default_rng(3)
    log_odds = random.normal(0, 3, 50_000)
    malignant = random.random(50_000) < 1 / (1 + np.exp(-(0.6 * log_odds - 1.2)))

    assert fit_platt(log_odds, malignant) == pytest.approx((0.6, -1.2), rel=0.05)


def test_fit_platt_equals_logistic_regression_on_the_drawn_in_targets():
    random = np.random.default_rng(4)
    log_odds, malignant = random.normal(0, 30, 40), random.random(40) < 0.3
    positives, negatives = malignant.sum(), (~malignant).sum()
    targets = np.where(malignant, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    log_odds[malignant] += 20

    expected = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(
        np.tile(log_odds, 2)[:, None],
        np.repeat([1, 0], 40),
        sample_weight=np.concatenate([targets, 1 - targets]),
    )

    fitted = fit_platt(log_odds, malignant)
    assert fitted == pytest.approx((expected.coef_[0, 0], expected.intercept_[0]), rel=1e-4)


def test_fit_platt_when_groups_are_apart_stays_finite():
    log_odds, malignant = np.array([-900.0, -800.0, 800.0, 900.0]), np.array([0, 0, 1, 1], bool)

    slope, offset = fit_platt(log_odds, malignant)

    assert 0 < slope < 1
    assert abs(offset) < 10


@pytest.mark.parametrize(
    "malignant", [[False, False, False], [True, True, True], [True, False, False]]
)
def test_fit_platt_when_there_is_nothing_to_learn_from_is_the_identity(malignant):
    assert fit_platt(np.array([-1.0, 0.0, 1.0]), np.array(malignant)) == (1.0, 0.0)


def drawn_by(curve, images):
    random = np.random.default_rng(5)
    log_odds = random.normal(-1, 2.5, images)
    return log_odds, random.random(images) < 1 / (1 + np.exp(-curve(log_odds)))


def test_fit_beta_when_labels_follow_a_bent_curve_finds_both_slopes():
    def curve(odds):
        return 1.4 * -np.log1p(np.exp(-odds)) + 0.6 * np.log1p(np.exp(odds)) + 0.3

    assert fit_beta(*drawn_by(curve, 200_000)) == pytest.approx((1.4, 0.6, 0.3), abs=0.05)


def test_fit_beta_when_labels_follow_a_line_keeps_platts():
    log_odds, malignant = drawn_by(lambda odds: 0.8 * odds - 0.5, 2_000)

    slope, benign_slope, offset = fit_beta(log_odds, malignant)

    assert slope == benign_slope
    assert (slope, offset) == fit_platt(log_odds, malignant)


def test_fit_beta_of_few_images_does_not_bend():
    log_odds, malignant = np.array([-2.0, -1.0, 0.0, 1.0]), np.array([0, 1, 0, 1], bool)

    slope, benign_slope, _ = fit_beta(log_odds, malignant)

    assert slope == benign_slope > 0


@pytest.mark.parametrize(
    "malignant", [[False, False, False], [True, True, True], [True, False, False]]
)
def test_fit_beta_when_there_is_nothing_to_learn_from_is_the_identity(malignant):
    assert fit_beta(np.array([-1.0, 0.0, 1.0]), np.array(malignant)) == (1.0, 1.0, 0.0)


def test_class_offsets_are_powers_of_the_prior_within_the_group():
    offsets = class_offsets((10, 20, 40, 5, 80, 400, 0), 0.5, MALIGNANT)

    expected = [0.5 * np.log(r) for r in (8, 4, 10, 80, 1, 1)]
    assert offsets == pytest.approx([*expected, 0.0])


def test_fit_calibration_fits_temperature_first_and_the_line_on_top():
    logits, labels = drawn(2.5)

    plain = fit_calibration(logits, labels, MALIGNANT)
    fitted = fit_calibration(logits, labels, MALIGNANT, class_offsets=(1.0,) * 7, malignant=True)

    assert plain == Calibration(temperature=fit_temperature(logits, labels))
    assert fitted.temperature == plain.temperature
    assert fitted.class_offsets == (1.0,) * 7
    assert fitted.slopes == pytest.approx((1, 1), abs=0.05)
    assert fitted.malignant_offset == pytest.approx(0, abs=0.05)
