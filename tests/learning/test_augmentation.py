import dataclasses

import numpy as np
import pytest

from dermascan.learning.augmentation import Augmentation, augment

STILL = Augmentation(
    rotation=False, zoom=0, shift=0, brightness=0, contrast=0, saturation=0, tint=0, blur=0,
    noise=0, discs=0,
)  # fmt: skip


def only(**strengths):
    return dataclasses.replace(STILL, **strengths)


def images_of(count, height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)


def low_in_contrast(count, height, width, middle):
    return (images_of(count, height, width) * 0.3 + middle).astype(np.uint8)


def grey(count, height=32, width=48):
    return np.full((count, height, width, 3), 100, np.uint8)


def test_augment_without_strengths_mirrors_only():
    image = images_of(1, 8, 12)[0]
    views = [image, image[::-1], image[:, ::-1], image[::-1, ::-1]]

    changed = augment(np.stack([image] * 100), STILL, (1, 2))

    found = {
        next(i for i, view in enumerate(views) if np.allclose(view, one, atol=0)) for one in changed
    }
    assert found == {0, 1, 2, 3}


def test_augment_with_rotation_turns_by_all_angles_about_the_middle():
    image = np.zeros((33, 33, 3), np.uint8)
    image[16, 22] = 255

    changed = augment(np.stack([image] * 300), only(rotation=True), (1, 2))

    mass = changed[..., 0] / changed[..., 0].sum(axis=(1, 2), keepdims=True)
    y, x = np.mgrid[-16:17, -16:17]
    angles = np.arctan2((mass * y).sum(axis=(1, 2)), (mass * x).sum(axis=(1, 2)))
    assert (np.histogram(angles, 8, (-np.pi, np.pi))[0] > 15).all()
    distances = np.hypot((mass * y).sum(axis=(1, 2)), (mass * x).sum(axis=(1, 2)))
    np.testing.assert_allclose(distances, 6, atol=0.5)


def test_augment_with_zoom_changes_the_size_within_its_range():
    image = np.zeros((64, 64, 3), np.uint8)
    image[22:42, 22:42] = 255

    changed = augment(np.stack([image] * 200), only(zoom=0.5), (3, 4))

    sides = np.sqrt(changed[..., 0].sum(axis=(1, 2)) / 255)
    assert 20 / 1.55 < sides.min() < 14.5
    assert 28 < sides.max() < 20 * 1.55


def test_augment_changes_each_image_within_the_range_of_pixels_and_equally_for_a_seed():
    images = images_of(16, 12, 16)

    changed = augment(images, Augmentation(), (4, 5))

    assert changed.shape == images.shape
    assert changed.min() >= 0
    assert changed.max() <= 255
    assert not (changed == images).all(axis=(1, 2, 3)).any()
    np.testing.assert_array_equal(changed, augment(images, Augmentation(), (4, 5)))
    assert not np.array_equal(changed, augment(images, Augmentation(), (4, 6)))


def test_augment_when_the_result_replaces_the_images_is_the_same():
    images = images_of(4, 12, 16)
    settings = Augmentation(blur=0.5, noise=4.0, discs=0.5)
    expected = augment(images, settings, (4, 5))

    changed = augment(images, settings, (4, 5), out=images)

    assert changed is images
    np.testing.assert_array_equal(images, expected)


def test_augment_of_brightness_alone_multiplies_the_image_by_one_factor_in_its_range():
    changed = augment(grey(50), only(brightness=0.3), (0, 0))

    assert np.ptp(changed, axis=(1, 2, 3)).max() == 0
    assert 70 <= changed.min() < 80
    assert 120 < changed.max() <= 130


def test_augment_of_contrast_alone_keeps_the_mean_and_scales_the_rest():
    images = low_in_contrast(40, 16, 16, middle=90)

    changed = augment(images, only(contrast=0.4), (0, 0))

    np.testing.assert_allclose(changed.mean(axis=(1, 2, 3)), images.mean(axis=(1, 2, 3)), atol=5)
    factors = changed.std(axis=(1, 2, 3)) / images.std(axis=(1, 2, 3))
    assert 0.55 < factors.min() < 0.7
    assert 1.3 < factors.max() < 1.45


def test_augment_of_saturation_alone_leaves_grey_as_it_is():
    np.testing.assert_allclose(augment(grey(9), only(saturation=0.9), (0, 0)), grey(9), atol=1)


def test_augment_of_tint_alone_gives_each_image_its_own_colour():
    changed = augment(grey(50), only(tint=0.2), (0, 0))

    assert np.ptp(changed, axis=(1, 2)).max() == 0
    assert (np.ptp(changed[:, 0, 0], axis=1) > 1).mean() > 0.8
    assert changed.min() >= 80
    assert changed.max() <= 120


def test_augment_with_blur_softens_some_images_and_sharpens_others():
    images = low_in_contrast(40, 16, 16, middle=80)

    changed = augment(images, only(blur=1.0), (0, 0))

    ratio = changed.std(axis=(1, 2, 3)) / images.std(axis=(1, 2, 3))
    assert ratio.min() < 0.6
    assert ratio.max() > 1.2


def test_augment_with_noise_adds_at_most_its_strength():
    spread = augment(grey(40), only(noise=8.0), (0, 0)).std(axis=(1, 2, 3))

    assert spread.min() < 1.5
    assert 6 < spread.max() < 8.5


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_augment_with_discs_covers_the_edge_of_that_share_and_never_the_middle(share):
    changed = augment(grey(300), only(discs=share), (5, 6))

    touched = (changed != 100).any(axis=3)
    assert touched.any(axis=(1, 2)).mean() == pytest.approx(share, abs=0.08)
    assert not touched[:, 14:18, 20:28].any()
    assert touched.mean(axis=(1, 2)).max() < 0.3
