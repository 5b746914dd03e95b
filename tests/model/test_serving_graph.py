import cv2
import numpy as np
import pytest
from calibrations import MALIGNANT, calibrations, logits_of_images
from hypothesis import given

from dermascan.imaging import ImageSize, Preprocessing, prepare
from dermascan.model.calibration import apply
from dermascan.model.serving_graph import calibrated, fitted

SIZE = ImageSize(24, 32)


def picture(height, width):
    """Draw something with slow and fast changes."""
    random = np.random.default_rng(height * width)
    coarse = random.integers(0, 256, (4, 5, 3)).astype(np.uint8)
    noise = random.normal(0, 20, (height, width, 3))
    return np.clip(cv2.resize(coarse, (width, height)) + noise, 0, 255).astype(np.uint8)


@given(logits_of_images, calibrations)
def test_calibrated_equals_apply(logits, calibration):
    logits = logits.astype(np.float32)

    probabilities, p_malignant = calibrated(logits, calibration, MALIGNANT)

    expected = apply(logits, calibration, MALIGNANT)
    np.testing.assert_allclose(probabilities.numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(p_malignant.numpy(), expected[:, MALIGNANT].sum(axis=1), atol=1e-6)
    np.testing.assert_allclose(probabilities.numpy().sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("height", "width"),
    [(48, 64), (100, 133), (25, 32), (97, 41), (24, 300), (450, 600), (24, 33), (600, 450)],
)
def test_fitted_when_an_image_is_larger_is_within_a_level_of_prepare(height, width):
    image = picture(height, width)

    graph = fitted(image[np.newaxis], (24, 32)).numpy()[0]

    difference = np.abs(graph - prepare(image, Preprocessing(image_size=SIZE)))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.02


@pytest.mark.parametrize(("height", "width"), [(12, 16), (9, 17), (20, 10), (1, 1), (23, 32)])
def test_fitted_when_an_image_is_smaller_is_within_a_level_of_prepare(height, width):
    image = picture(height, width)

    graph = fitted(image[np.newaxis], (24, 32)).numpy()[0]

    assert np.abs(graph - prepare(image, Preprocessing(image_size=SIZE))).max() <= 1


@pytest.mark.parametrize("height", [24, 48])
def test_fitted_gives_the_same_for_bytes_and_for_floats(height):
    images = np.stack([picture(height, 64), picture(height, 64)[::-1]])

    floats = fitted(images.astype(np.float32), (24, 32)).numpy()

    np.testing.assert_array_equal(fitted(images, (24, 32)).numpy(), floats)


def test_fitted_when_the_size_is_right_changes_no_bit():
    images = np.random.default_rng(0).random((3, 24, 32, 3), np.float32) * 255

    np.testing.assert_array_equal(fitted(images, (24, 32)).numpy(), images)


def test_fitted_for_a_square_network_turns_nothing():
    image = picture(60, 30)

    graph = fitted(image[np.newaxis], (20, 20)).numpy()[0]

    expected = prepare(image, Preprocessing(image_size=ImageSize(20, 20)))
    assert np.abs(graph - expected).max() <= 1
