from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from dermascan.errors import InputError
from dermascan.evaluation.corruption import (
    CORRUPTIONS,
    STRENGTHS,
    corrupt,
    measure_robustness,
    stratified_subset,
)
from dermascan.evaluation.schema import Estimate, Robustness

HEIGHT, WIDTH = 72, 96
SEEDS = range(6)


def lesion(height=HEIGHT, width=WIDTH):
    """Draw a mottled lesion with a pigment network on bright skin."""
    image = np.full((height, width, 3), (225, 180, 165), np.uint8)
    centre, axes = (width // 2, height // 2), (width // 5, height // 5)
    cv2.ellipse(image, centre, axes, 20, 0, 360, (120, 75, 60), -1)
    y, x = np.mgrid[:height, :width] / height
    net = (14 * np.sin(40 * x) * np.sin(40 * y)).round()
    return (image + net[..., None]).clip(0, 255).astype(np.uint8)


def change(image, name, strength, seed):
    corrupted = corrupt(image, name, strength, seed)
    return np.abs(corrupted.astype(int) - image).mean()


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corrupt_leaves_shape_dtype_and_the_image_it_was_given(name):
    image = lesion()
    before = image.copy()

    corrupted = corrupt(image, name, 3, seed=1)

    assert (corrupted.shape, corrupted.dtype) == (image.shape, np.uint8)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("seed", SEEDS)
def test_corrupt_when_stronger_changes_more(name, seed):
    changes = [change(lesion(), name, strength, seed) for strength in STRENGTHS]

    assert changes[0] > 0
    assert (np.diff(changes) > 0).all()


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corrupt_when_repeated_gives_the_same(name):
    np.testing.assert_array_equal(*(corrupt(lesion(), name, 4, seed=7) for _ in range(2)))


@pytest.mark.parametrize("name", ["noise", "colour", "brightness"])
def test_corrupt_when_the_seed_is_another_gives_another_image(name):
    assert (corrupt(lesion(), name, 3, 0) != corrupt(lesion(), name, 3, 1)).any()


@pytest.mark.parametrize("name", ["blur", "jpeg", "colour", "brightness"])
def test_corrupt_when_the_image_is_larger_changes_it_alike(name):
    small, large = lesion(144, 192), lesion(216, 288)

    ratio = change(large, name, 3, seed=0) / change(small, name, 3, seed=0)

    assert 0.8 < ratio < 1.25


def test_noise_when_the_image_is_shrunk_is_that_of_the_smaller_size():
    grey = [np.full((height, height, 3), 128, np.uint8) for height in (144, 288)]
    small, large = (corrupt(image, "noise", 3, seed=0).astype(np.float32) for image in grey)

    shrunk = cv2.resize(large, (144, 144), interpolation=cv2.INTER_AREA)

    assert shrunk.std() == pytest.approx(small.std(), rel=0.05)
    assert small.std() == pytest.approx(0.06 * 255, rel=0.05)


def test_brightness_alternates_between_darker_and_brighter():
    means = [corrupt(lesion(), "brightness", 2, seed).mean() for seed in SEEDS]

    assert [mean > lesion().mean() for mean in means] == [False, True] * 3


def test_colour_shifts_the_balance_and_hardly_the_luma():
    grey = np.full((HEIGHT, WIDTH, 3), 120, np.uint8)

    shifted = corrupt(grey, "colour", 3, seed=0)[0, 0].astype(int)

    assert np.ptp(shifted) > 10
    assert abs(shifted.mean() - 120) < 5


@pytest.mark.parametrize(
    ("image", "name", "strength", "said"),
    [
        (lesion(), "fog", 3, "use one of blur, noise, jpeg"),
        (lesion(), "blur", 0, r"strength 0 of blur"),
        (lesion(), "blur", 6, r"strength 6 of blur"),
        (lesion().astype(np.float32), "blur", 3, "float32"),
        (lesion()[..., 0], "blur", 3, r"\(72, 96\)"),
    ],
)
def test_corrupt_when_asked_for_something_else_says_what_there_is(image, name, strength, said):
    with pytest.raises(InputError, match=said):
        corrupt(image, name, strength, seed=0)


class BrightScorer:
    """Call dark images malignant, and count what it is given."""

    def __init__(self):
        self.largest, self.scored = 0, 0

    def score(self, images):
        self.largest, self.scored = max(self.largest, len(images)), self.scored + len(images)
        score = 1 - images.mean(axis=(1, 2, 3), dtype=np.float64) / 255
        return SimpleNamespace(p_malignant=score)


def dataset(images=90, seed=0):
    """Return a table, two images a lesion, and images: melanomas darker on average."""
    random = np.random.default_rng(seed)
    classes = np.repeat(random.choice(["mel", "nv", "bkl"], images // 2, p=[0.2, 0.6, 0.2]), 2)
    table = pd.DataFrame(
        {
            "isic_id": [f"ISIC_{number:07d}" for number in range(images)],
            "lesion_id": [f"IL_{number // 2}" for number in range(images)],
            "lesion_class": classes,
        }
    )
    levels = np.where(classes == "mel", 130, 150) + random.normal(0, 12, images)
    pixels = [np.full((16, 20, 3), level.round(), np.uint8) for level in levels]
    return table, dict(zip(table["isic_id"], pixels, strict=True))


def lost(robustness, name, strength):
    found = [c for c in robustness.corruptions if (c.name, c.strength) == (name, strength)]
    return found[0].auc_lost


@pytest.fixture(scope="module")
def robustness():
    table, images = dataset()
    return measure_robustness(images.items(), BrightScorer(), table, resamples=200)


def test_robustness_has_every_corruption_and_strength_and_survives_json(robustness):
    kinds = [(each.name, each.strength) for each in robustness.corruptions]

    assert kinds == [(name, strength) for name in CORRUPTIONS for strength in STRENGTHS]
    assert robustness.images == robustness.images_at_3 == 90
    assert Robustness.model_validate_json(robustness.model_dump_json()) == robustness


def test_robustness_of_a_score_by_brightness_suffers_from_brightness_and_not_from_blur(robustness):
    assert lost(robustness, "blur", 5) == 0
    assert abs(lost(robustness, "noise", 3)) < 0.02
    assert lost(robustness, "brightness", 5) > 0.05


def test_robustness_loss_is_the_clean_auc_of_the_same_images_minus_the_corrupted(robustness):
    table, images = dataset()
    malignant = table["lesion_class"] == "mel"
    clean = roc_auc_score(malignant, [-images[name].mean() for name in table["isic_id"]])

    for each in robustness.corruptions:
        assert each.auc_lost == pytest.approx(clean - each.roc_auc.value, abs=2e-6)
        assert each.roc_auc.low < each.roc_auc.value < each.roc_auc.high


def test_robustness_mean_is_over_the_corruptions_at_strength_3(robustness):
    losses = [lost(robustness, name, 3) for name in CORRUPTIONS]

    assert robustness.mean_auc_lost_at_3.value == pytest.approx(np.mean(losses), abs=2e-6)


def test_robustness_interval_is_of_the_loss_on_the_same_resamples(robustness):
    mean = robustness.mean_auc_lost_at_3
    widest = max(c.roc_auc.high - c.roc_auc.low for c in robustness.corruptions)

    assert mean.low < mean.value < mean.high
    assert mean.high - mean.low < widest / 2


def test_robustness_when_images_come_in_another_order_is_the_same(robustness):
    table, images = dataset()
    backwards = reversed(list(images.items()))

    again = measure_robustness(backwards, BrightScorer(), table[::-1], resamples=200)

    assert again == robustness


def test_robustness_of_a_subset_scores_other_images_at_strength_3_only_in_batches():
    table, images = dataset(400)
    scorer = BrightScorer()

    robustness = measure_robustness(images.items(), scorer, table, subset=100, resamples=10)

    assert abs(robustness.images - 100) <= 3
    assert robustness.images_at_3 == 400
    assert robustness.malignant_at_3 == (table["lesion_class"] == "mel").sum()
    assert scorer.scored == 26 * robustness.images + 6 * (400 - robustness.images)
    assert scorer.largest == 32


def test_robustness_mean_of_a_larger_set_is_that_of_corrupting_all_of_it():
    table, images = dataset(120)
    whole, part = (
        measure_robustness(images.items(), BrightScorer(), table, subset=subset, resamples=50)
        for subset in (120, 40)
    )

    assert part.mean_auc_lost_at_3 == whole.mean_auc_lost_at_3
    assert part.corruptions != whole.corruptions


def test_robustness_figures_of_a_subset_are_those_of_its_images_alone():
    table, images = dataset(120)
    alone = stratified_subset(table, 40, seed=0)
    settings = {"subset": 40, "resamples": 50}
    measured, expected = (
        measure_robustness(images.items(), BrightScorer(), rows, **settings)
        for rows in (table, alone)
    )

    assert measured.corruptions == expected.corruptions


def test_robustness_at_strength_3_of_a_large_test_set_draws_from_it():
    table, images = dataset(400)

    robustness = measure_robustness(
        images.items(), BrightScorer(), table, subset=50, images_at_3=200, resamples=10
    )

    assert abs(robustness.images_at_3 - 200) <= 3


def test_robustness_when_only_benign_is_undefined():
    table, images = dataset(20)
    table = table.assign(lesion_class="nv")

    robustness = measure_robustness(images.items(), BrightScorer(), table, resamples=10)

    assert robustness.mean_auc_lost_at_3 == Estimate()
    assert {each.auc_lost for each in robustness.corruptions} == {None}


def test_robustness_when_an_image_is_missing_names_it():
    table, images = dataset(20)
    del images["ISIC_0000007"]

    with pytest.raises(InputError, match=r"1 test images .* ISIC_0000007"):
        measure_robustness(images.items(), BrightScorer(), table, resamples=10)


def test_subset_keeps_lesions_whole_and_shares_of_classes():
    table, _ = dataset(1000)

    subset = stratified_subset(table, 200, seed=0)

    assert abs(len(subset) - 200) <= 6
    assert (subset.groupby("lesion_id").size() == 2).all()
    shares = subset["lesion_class"].value_counts(normalize=True)
    expected = table["lesion_class"].value_counts(normalize=True)
    assert (shares - expected).abs().max() < 0.01
    assert list(subset.columns) == list(table.columns)


def test_subset_is_the_same_in_any_row_order_and_another_for_another_seed():
    table, _ = dataset(300)
    table.loc[::6, "lesion_class"] = "bcc"  # lesions whose images have different classes

    drawn = [
        set(stratified_subset(rows, 60, seed)["isic_id"])
        for rows, seed in ((table, 0), (table.sample(frac=1, random_state=1), 0), (table, 1))
    ]

    assert drawn[0] == drawn[1] != drawn[2]


def test_subset_has_a_lesion_of_the_rarest_class():
    table, _ = dataset(300)
    table.loc[[10, 11], "lesion_class"] = "vasc"

    assert "vasc" in set(stratified_subset(table, 20, seed=0)["lesion_class"])


def test_subset_of_images_without_lesion_takes_each_as_its_own():
    table = dataset(300)[0].assign(lesion_id=None)

    assert abs(len(stratified_subset(table, 61, seed=0)) - 61) <= 2
