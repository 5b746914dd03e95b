import math

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermascan.skin_tone import TONE_BANDS, individual_typology_angle, tone_band

LIGHT, MEDIUM, DARK = (228, 200, 180), (200, 160, 130), (90, 60, 45)
LESION = (70, 45, 40)


def angle_by_formula(colour: tuple[int, int, int]) -> float:
    """Convert by IEC 61966-2-1 and CIE 15, independently of OpenCV."""
    rgb = np.array(colour) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    _, y, z = (
        np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
        @ linear
        / np.array([0.95047, 1.0, 1.08883])
    )
    lightness, yellowness = 116 * np.cbrt(y) - 16, 200 * (np.cbrt(y) - np.cbrt(z))
    return math.degrees(math.atan2(lightness - 50, yellowness))


def skin(colour, width=200, height=150, noise=3):
    random = np.random.default_rng(0)
    image = np.array(colour) + random.normal(0, noise, (height, width, 3))
    return image.clip(0, 255).astype(np.uint8)


def with_lesion(image, radius=40, centre=None, colour=LESION):
    height, width = image.shape[:2]
    return cv2.circle(image.copy(), centre or (width // 2, height // 2), radius, colour, -1)


def with_vignette(image):
    height, width = image.shape[:2]
    inside = cv2.circle(np.zeros((height, width), np.uint8), (width // 2, height // 2), 95, 1, -1)
    return image * inside[..., None]


@pytest.mark.parametrize("colour", [LIGHT, MEDIUM, DARK])
def test_angle_of_bare_skin_is_that_of_its_colour(colour):
    got = individual_typology_angle(skin(colour))
    assert got == pytest.approx(angle_by_formula(colour), abs=1)


@pytest.mark.parametrize("colour", [LIGHT, MEDIUM, DARK])
@pytest.mark.parametrize(
    "change",
    [
        with_lesion,
        lambda image: with_lesion(image, radius=70),
        lambda image: with_lesion(image, radius=50, centre=(20, 20)),
        with_vignette,
        lambda image: with_vignette(with_lesion(image)),
        lambda image: cv2.line(image.copy(), (0, 30), (199, 10), (20, 20, 20), 5),
        lambda image: cv2.circle(image.copy(), (15, 75), 12, (255, 255, 255), -1),
        lambda image: cv2.resize(image, (1024, 768)),
    ],
)
def test_angle_hardly_changes_with_what_is_no_skin(colour, change):
    image = skin(colour)
    plain = individual_typology_angle(image)
    assert individual_typology_angle(change(image)) == pytest.approx(plain, abs=4)


def test_angle_falls_with_darker_skin():
    angles = [individual_typology_angle(skin(colour)) for colour in (LIGHT, MEDIUM, DARK)]
    assert angles == sorted(angles, reverse=True)
    assert [tone_band(angle) for angle in angles] == ["very light", "light", "dark"]


@pytest.mark.parametrize("level", [0, 255])
def test_angle_of_an_image_without_skin_is_not_a_number(level):
    assert math.isnan(individual_typology_angle(np.full((30, 40, 3), level, np.uint8)))


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (2, 3)])
def test_angle_of_the_smallest_images_is_no_error(size):
    image = np.full((*size, 3), MEDIUM, np.uint8)
    assert isinstance(individual_typology_angle(image), float)


@pytest.mark.parametrize(
    ("angle", "band"),
    [
        (90, "very light"),
        (55.1, "very light"),
        (55, "light"),
        (41, "intermediate"),
        (28, "tan"),
        (10, "brown"),
        (-29.9, "brown"),
        (-30, "dark"),
        (-170, "dark"),
        (math.nan, None),
    ],
)
def test_bands_are_those_of_chardon(angle, band):
    assert tone_band(angle) == band


@given(st.floats(-180, 180), st.floats(-180, 180))
def test_a_larger_angle_is_never_a_darker_band(one, other):
    low, high = sorted((one, other))
    assert TONE_BANDS.index(tone_band(high)) <= TONE_BANDS.index(tone_band(low))
