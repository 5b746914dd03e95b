import cv2
import numpy as np

from dermascan.appearance import hair_mask, remove_hair, shades_of_gray

HEIGHT, WIDTH = 144, 192
HAIRS = (((10, 10), (180, 130)), ((150, 5), (40, 140)), ((5, 70), (185, 75)))


def lesion() -> np.ndarray:
    image = np.full((HEIGHT, WIDTH, 3), (220, 180, 165), np.uint8)
    cv2.ellipse(image, (96, 72), (40, 28), 20, 0, 360, (110, 70, 55), -1)
    return cv2.GaussianBlur(image, (0, 0), 4)


def hairy(image: np.ndarray) -> np.ndarray:
    result = image.copy()
    for begin, end in HAIRS:
        cv2.line(result, begin, end, (50, 35, 30), 2, cv2.LINE_AA)
    return result


def test_hair_mask_when_skin_is_bare_is_empty():
    assert not hair_mask(lesion()).any()


def test_remove_hair_when_skin_is_bare_changes_nothing():
    np.testing.assert_array_equal(remove_hair(lesion()), lesion())


def test_hair_mask_when_there_are_hairs_covers_them_and_little_else():
    drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
    for begin, end in HAIRS:
        cv2.line(drawn, begin, end, 255, 1)
    on_skin = (drawn > 0) & (lesion()[..., 0] > 200)
    found = hair_mask(hairy(lesion())) > 0
    assert (found & on_skin).sum() > 0.9 * on_skin.sum()
    assert found.mean() < 0.2


def test_remove_hair_when_there_are_hairs_comes_near_the_bare_lesion():
    bare, with_hair = lesion().astype(int), hairy(lesion())
    before = np.abs(with_hair - bare).mean()
    after = np.abs(remove_hair(with_hair) - bare).mean()
    assert after < before / 4


def test_hair_mask_when_there_are_only_dots_is_empty():
    dotted = lesion()
    for x in range(20, WIDTH, 30):
        cv2.circle(dotted, (x, 20), 3, (60, 40, 30), -1)
    assert not hair_mask(dotted).any()


def test_shades_of_gray_when_light_is_tinted_removes_the_tint():
    rng = np.random.default_rng(0)
    neutral = rng.integers(0, 200, (HEIGHT, WIDTH, 1)).repeat(3, axis=2)
    tinted = (neutral * (1.2, 0.9, 0.8)).astype(np.uint8)
    means = shades_of_gray(tinted).mean(axis=(0, 1))
    assert np.ptp(means) < 1.5
    assert np.ptp(tinted.mean(axis=(0, 1))) > 30


def test_shades_of_gray_when_a_channel_is_black_changes_nothing():
    image = lesion()
    image[..., 2] = 0
    np.testing.assert_array_equal(shades_of_gray(image), image)


def test_shades_of_gray_when_computed_by_the_formula_agrees():
    image = lesion()
    light = (image.astype(np.float64) ** 6).mean(axis=(0, 1)) ** (1 / 6)
    light /= np.linalg.norm(light)
    expected = np.rint(image / (light * np.sqrt(3))).clip(0, 255)
    assert np.abs(shades_of_gray(image) - expected).max() <= 1
