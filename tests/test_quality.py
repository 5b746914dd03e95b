from dataclasses import replace

import numpy as np
import pytest
from hostile import encoded, photograph
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageFilter

from dermascan.imaging import ImageFacts, decode, hash_distance, measure
from dermascan.quality import SMALL_BELOW, quality_warnings

HASHES = st.integers(0, 2**64 - 1).map(lambda number: f"{number:016x}")


def facts_of(image: Image.Image, form: str = "PNG", **options: object) -> ImageFacts:
    data = encoded(image, form, **options)
    return measure(data, decode(data))


def test_measure_when_format_differs_reports_it_and_the_upright_size():
    turned = Image.Exif()
    turned[0x0112] = 6
    facts = facts_of(photograph(120, 90), "JPEG", exif=turned)
    assert (facts.format, facts.width, facts.height) == ("JPEG", 90, 120)
    assert facts_of(photograph()).format == "PNG"


def test_sharpness_when_image_is_blurred_more_falls():
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    figures = [facts_of(image.filter(ImageFilter.GaussianBlur(r))).sharpness for r in (0, 1, 2, 4)]
    assert figures == sorted(figures, reverse=True)
    assert figures[0] > 10 * figures[-1]


def test_sharpness_when_the_same_view_has_more_pixels_stays_comparable():
    fine = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    at_limit, large = (
        facts_of(fine.resize((side, side), Image.Resampling.BICUBIC)).sharpness
        for side in (256, 1024)
    )
    assert large == pytest.approx(at_limit, rel=0.2)


def test_brightness_when_gray_is_flat_is_its_level():
    facts = facts_of(Image.new("RGB", (64, 48), (77, 77, 77)))
    assert facts.brightness == 77
    assert facts.sharpness == 0
    assert facts.clipped_fraction == 0


def test_brightness_when_colour_is_green_weighs_it_as_luma_does():
    assert facts_of(Image.new("RGB", (64, 48), (0, 255, 0))).brightness == pytest.approx(
        0.587 * 255, abs=0.5
    )


def test_clipped_fraction_when_parts_are_black_and_white_counts_both():
    pixels = np.full((100, 100, 3), 128, np.uint8)
    pixels[:20], pixels[90:] = 1, 254
    assert facts_of(Image.fromarray(pixels)).clipped_fraction == pytest.approx(0.3)


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image.resize((240, 180)),
        lambda image: image.resize((100, 75)),
        lambda image: ImageEnhance.Brightness(image).enhance(1.1),
        lambda image: image.filter(ImageFilter.GaussianBlur(1)),
    ],
)
def test_perceptual_hash_when_copy_is_altered_slightly_stays_near(change):
    image = photograph(400, 300)
    near = facts_of(change(image), "JPEG", quality=70).perceptual_hash
    assert hash_distance(facts_of(image).perceptual_hash, near) <= 8


def test_perceptual_hash_when_images_are_unrelated_is_far():
    hashes = [facts_of(photograph(seed=seed)).perceptual_hash for seed in range(12)]
    distances = [hash_distance(a, b) for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(distances) > 12
    assert all(len(text) == 16 for text in hashes)


@given(HASHES, HASHES)
def test_hash_distance_when_compared_counts_differing_digits(a: str, b: str):
    bits = [f"{int(text, 16):064b}" for text in (a, b)]
    assert hash_distance(a, b) == sum(x != y for x, y in zip(*bits, strict=True))


PLAIN_FACTS = ImageFacts("JPEG", 600, 450, 50.0, 157.0, 0.0, "0" * 16)


def codes_of(**changes: float) -> list[str]:
    return [warning.code for warning in quality_warnings(replace(PLAIN_FACTS, **changes))]


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("blurred", {"sharpness": 9.9}),
        ("dark", {"brightness": 79.9}),
        ("bright", {"brightness": 220.1}),
        ("clipped", {"clipped_fraction": 0.051}),
        ("small", {"height": SMALL_BELOW - 1}),
    ],
)
def test_quality_warnings_when_one_measure_is_out_of_range_name_it_alone(code, changes):
    assert codes_of(**changes) == [code]


def test_quality_warnings_when_measures_are_at_the_limits_are_none():
    assert not codes_of(sharpness=10.0, clipped_fraction=0.05, height=SMALL_BELOW)
    assert not codes_of(brightness=80.0)
    assert not codes_of(brightness=220.0)


def test_quality_warnings_when_several_things_are_wrong_name_each_with_advice():
    facts = replace(PLAIN_FACTS, sharpness=1.0, brightness=240.0, clipped_fraction=0.37, width=60)
    warnings = quality_warnings(facts)
    assert [warning.code for warning in warnings] == ["blurred", "bright", "clipped", "small"]
    assert "37%" in warnings[2].message
    assert "60 x 450 pixels" in warnings[3].message
