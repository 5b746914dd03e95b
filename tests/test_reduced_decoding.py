import cv2
import numpy as np
import pytest
from hostile import EXPECTED, encoded, hostile_images, photograph
from PIL import Image

from dermascan.imaging import (
    DecodeLimits,
    ImageRefusedError,
    ImageSize,
    Preprocessing,
    decode,
    decode_for,
    prepare,
    prepare_decoded,
)
from dermascan.inference.scoring import examine

WHOLE = Preprocessing(ImageSize(192, 256), decoding="full")
REDUCED = Preprocessing(ImageSize(192, 256), decoding="reduced")


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize(
    ("size", "divisor"),
    [
        ((200, 150), 1),
        ((511, 383), 1),
        ((512, 383), 1),
        ((512, 384), 2),
        ((384, 512), 2),
        ((1024, 683), 2),
        ((1024, 768), 4),
        ((2048, 1536), 8),
        ((3000, 400), 2),
    ],
)
def test_reduced_decoding_takes_the_smallest_scale_that_covers_the_network(size, divisor):
    width, height = size
    decoded = decode_for(encoded(photograph(width, height), "JPEG"), REDUCED)

    assert decoded.pixels.shape == (-(-height // divisor), -(-width // divisor), 3)
    assert (decoded.height, decoded.width) == (height, width)
    assert decoded.reduced == (divisor > 1)


def test_reduced_decoding_when_the_network_is_small_keeps_what_is_measured():
    small = Preprocessing(ImageSize(48, 64), decoding="reduced")

    assert decode_for(encoded(photograph(1024, 768), "JPEG"), small).pixels.shape[1] == 256


@pytest.mark.parametrize("name", ["small", "png", "progressive"])
def test_reduced_decoding_when_it_does_not_apply_gives_the_very_pixels_of_full(name: str):
    data = {
        "small": encoded(photograph(500, 380), "JPEG"),
        "png": encoded(photograph(1024, 768), "PNG"),
        "progressive": encoded(photograph(1024, 768), "JPEG", progressive=True),
    }[name]

    np.testing.assert_array_equal(
        prepare_decoded(decode_for(data, REDUCED), REDUCED), prepare(decode(data), WHOLE)
    )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_reduced_decoding_is_upright_and_near_full_decoding(orientation: int):
    picture = photograph(1024, 768).resize((1024, 768))
    data = encoded(picture, "JPEG", quality=92, exif=exif(orientation))
    decoded = decode_for(data, REDUCED)
    expected = prepare(decode(data), WHOLE).astype(int)

    assert (decoded.height, decoded.width) == decode(data).shape[:2]
    difference = np.abs(prepare_decoded(decoded, REDUCED) - expected)
    assert difference.mean() < 4
    assert np.corrcoef(prepare_decoded(decoded, REDUCED).ravel(), expected.ravel())[0, 1] > 0.97


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_reduced_decoding_when_bytes_are_hostile_refuses_as_full_decoding_does(name: str):
    with pytest.raises(ImageRefusedError) as refused:
        decode_for(hostile_images()[name], REDUCED)
    assert refused.value.reason == EXPECTED[name]


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("side", [1000, 1024, 2050])
def test_reduced_decoding_when_data_ends_early_and_an_end_marker_follows_refuses(kept, side):
    whole = encoded(photograph(side, side), "JPEG", quality=85)
    cut = whole[: int(len(whole) * kept)].rstrip(b"\xff") + b"\xff\xd9"

    with pytest.raises(ImageRefusedError, match="truncated"):
        decode_for(cut, REDUCED)


def test_reduced_decoding_keeps_the_limits():
    limited = Preprocessing(limits=DecodeLimits(max_pixels=1_000_000), decoding="reduced")

    with pytest.raises(ImageRefusedError, match="too_large"):
        decode_for(encoded(photograph(1024, 1024), "JPEG"), limited)


def test_examined_image_tells_the_size_of_the_file_and_nearly_the_same_facts():
    data = encoded(photograph(1600, 1200), "JPEG", quality=90)
    whole, reduced = (examine("k", data, how).facts for how in (WHOLE, REDUCED))

    assert (reduced.width, reduced.height) == (1600, 1200)
    assert reduced.brightness == pytest.approx(whole.brightness, abs=1)
    assert reduced.sharpness == pytest.approx(whole.sharpness, rel=0.35)


def test_preprocessing_of_a_version_that_names_no_decoding_decodes_in_full():
    plain = Preprocessing().as_plain()
    assert plain.pop("decoding") == "reduced"

    assert Preprocessing.from_plain(plain).decoding == "full"


def test_cv2_still_reads_a_scale_and_rgb_from_one_number():
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[..., 0] = 200
    data = cv2.imencode(".png", picture[..., ::-1])[1].tobytes()
    jpeg = encoded(Image.fromarray(picture).resize((2048, 1536)), "JPEG")

    assert decode(data)[0, 0].tolist() == [200, 0, 0]
    assert decode_for(jpeg, REDUCED).pixels[10, 10] == pytest.approx([200, 0, 0], abs=3)
