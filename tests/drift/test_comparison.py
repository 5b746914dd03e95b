"""Batches of made-up features: what chance does, what shifts do, and how many images it takes.

`DERMASCAN_DRIFT_BATCHES` sets how many batches of each size the false alarms are counted in.
"""

import os

import numpy as np
import pytest
from scipy.stats import poisson

from dermascan.drift.comparison import LARGEST_BATCH, LEAST_SAMPLE, NOTICEABLE, compare
from dermascan.drift.features import APPEARANCE_FEATURES, FeatureFile, Reference
from dermascan.drift.wording import sentence, what_moved

COMPONENTS = 16
RESAMPLES = 300
BATCHES = int(os.environ.get("DERMASCAN_DRIFT_BATCHES", "60"))
# At the promised 1 in 100, so many or more false alarms have a probability below 0.5 %.
TOO_MANY = 1 + int(poisson.ppf(0.995, 0.01 * BATCHES))
FEATURES = len(APPEARANCE_FEATURES) + COMPONENTS + 1
# As embeddings are: some directions matter more, and tails are heavier than a normal's.
SPREAD = np.r_[np.ones(len(APPEARANCE_FEATURES)), np.linspace(3, 0.3, COMPONENTS), 1]


def draw(images: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (random.standard_t(5, size=(images, FEATURES)) * SPREAD).astype(np.float32)


def reference(images: int = 200, seed: int = 1_000_000) -> Reference:
    return Reference(np.zeros(1, np.float32), np.zeros((1, 1), np.float32), draw(images, seed))


def shifted(images: int, feature: str, deviations: float) -> np.ndarray:
    batch = draw(images, 7)
    batch[:, APPEARANCE_FEATURES.index(feature)] += deviations * np.sqrt(5 / 3)
    return batch


@pytest.mark.parametrize(
    ("images", "sample"), [(1, 200), (4, 200), (60, 200), (300, 200), (1, 30), (12, 30)]
)
def test_compare_when_batches_are_like_the_reference_raises_few_false_alarms(images, sample):
    alarms = 0
    for seed in range(BATCHES):
        drift = compare(reference(sample, seed + 10_000_000), draw(images, seed), RESAMPLES)
        assert drift
        alarms += drift.verdict != "like"
    assert alarms < TOO_MANY


@pytest.mark.parametrize(
    ("deviations", "verdict"), [(0.02, "like"), (0.35, "somewhat different"), (1.2, "different")]
)
def test_compare_when_sharpness_moves_says_by_how_much(deviations, verdict):
    drift = compare(reference(), shifted(900, "sharpness", deviations))
    assert drift
    assert drift.verdict == verdict
    assert {aspect.name: aspect.verdict for aspect in drift.aspects} == {
        "colour": "like",
        "sharpness": verdict,
        "content": "like",
    }


def test_compare_when_a_batch_is_huge_does_not_call_a_trifle_different():
    drift = compare(reference(1000), shifted(20_000, "sharpness", 0.1))
    assert drift
    assert drift.verdict == "like"
    assert (drift.images, drift.compared) == (20_000, LARGEST_BATCH)
    assert all(aspect.difference < NOTICEABLE for aspect in drift.aspects)


def test_compare_when_a_shift_is_large_needs_few_images_to_see_it():
    found = [compare(reference(), shifted(n, "sharpness", 3)) for n in (2, 4, 8, 16)]
    assert [drift is not None and drift.verdict for drift in found][-2:] == ["different"] * 2


def test_compare_when_only_the_content_moves_names_it():
    batch = draw(200, 3)
    batch[:, -1] += 2
    drift = compare(reference(), batch)
    assert drift
    assert sentence(drift) == "Different from the training data in content"


@pytest.mark.parametrize(
    ("feature", "deviations", "words"),
    [
        ("lightness", -1, "darker"),
        ("redness", 1, "redder"),
        ("yellowness", -1, "bluer"),
        ("sharpness", -1, "more blurred"),
    ],
)
def test_what_moved_names_the_direction(feature, deviations, words):
    drift = compare(reference(), shifted(200, feature, deviations))
    assert drift
    assert [what_moved(aspect) for aspect in drift.aspects if aspect.verdict != "like"] == [words]


def test_compare_when_called_again_gives_the_same():
    assert compare(reference(), draw(2000, 1)) == compare(reference(), draw(2000, 1))


@pytest.mark.parametrize("images", [40, 3 * LARGEST_BATCH])
def test_compare_when_features_are_in_a_file_says_the_same(images, tmp_path):
    batch = draw(images, 4)
    batch.tofile(tmp_path / "features")
    file = FeatureFile(tmp_path / "features", images, FEATURES)

    assert compare(reference(), file, RESAMPLES) == compare(reference(), batch, RESAMPLES)


def test_compare_without_images_or_with_too_small_a_reference_says_nothing():
    assert compare(reference(), draw(0, 0)) is None
    assert compare(reference(LEAST_SAMPLE - 1), draw(10, 0)) is None
