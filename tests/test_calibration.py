import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

from dermascan.calibration import (
    choose_threshold,
    cross_entropy,
    fit_temperature,
    roc_auc,
    softmax,
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
