import io
import pickle
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from hostile import EXPECTED, encoded, hostile_images, photograph, png_chunk
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from dermascan.errors import InputError, PermanentError
from dermascan.imaging import (
    DecodeLimits,
    ImageRefusedError,
    ImageSize,
    Preprocessing,
    decode,
    prepare,
    thumbnail,
)

SMALL_TARGET = Preprocessing(ImageSize(48, 64))
TRUNCATABLE = {
    "baseline": encoded(photograph(), "JPEG", quality=85),
    "progressive": encoded(photograph(), "JPEG", quality=85, progressive=True),
    "gray": encoded(photograph().convert("L"), "JPEG"),
    "restarts": encoded(photograph(), "JPEG", restart_marker_rows=1),
    "png": encoded(photograph(), "PNG"),
    "palette": encoded(photograph().quantize(16), "PNG"),
}


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def decoded_or_reason(data: bytes) -> np.ndarray | str:
    try:
        return decode(data)
    except ImageRefusedError as refusal:
        return refusal.reason


def pillow_pixels(data: bytes) -> np.ndarray:
    """Decode independently of the code under test."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


# What is refused


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_decode_when_bytes_are_hostile_refuses_with_the_true_reason(name: str):
    with pytest.raises(ImageRefusedError) as refusal:
        decode(hostile_images()[name])
    assert refusal.value.reason == EXPECTED[name]
    assert refusal.value.detail


def test_hostile_images_when_listed_all_have_an_expected_reason():
    assert set(hostile_images()) == set(EXPECTED)


@pytest.mark.parametrize("form", sorted(TRUNCATABLE))
@settings(max_examples=60, deadline=None)
@given(fraction=st.floats(0, 1, exclude_max=True))
def test_decode_when_cut_anywhere_refuses_or_gives_the_same_pixels(form: str, fraction: float):
    whole = TRUNCATABLE[form]
    outcome = decoded_or_reason(whole[: int(len(whole) * fraction)])
    if isinstance(outcome, str):
        assert outcome in {"truncated", "empty"}
    else:
        np.testing.assert_array_equal(outcome, decode(whole))


@pytest.mark.parametrize("form", ["baseline", "progressive", "gray", "restarts"])
def test_decode_when_cut_in_the_last_scan_and_ended_refuses_or_keeps_all_but_a_block(form: str):
    whole = TRUNCATABLE[form]
    image = decode(whole)
    for cut in range(whole.rindex(b"\xff\xda") + 14, len(whole) - 1):
        outcome = decoded_or_reason(whole[:cut] + b"\xff\xd9")
        if isinstance(outcome, str):
            assert outcome == "truncated", cut
        else:
            differing = (outcome != image).any(axis=2)
            assert not differing[:-16].any(), cut
            assert not differing[:, :-32].any(), cut


@pytest.mark.parametrize("form", sorted(TRUNCATABLE))
@settings(max_examples=60, deadline=None)
@given(
    flips=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=5
    )
)
def test_decode_when_bytes_are_flipped_refuses_or_gives_an_image(form: str, flips):
    data = bytearray(TRUNCATABLE[form])
    for where, mask in flips:
        data[int(where * len(data))] ^= mask
    outcome = decoded_or_reason(bytes(data))
    assert isinstance(outcome, str) or (outcome.dtype, outcome.shape[2]) == (np.uint8, 3)


@settings(max_examples=100, deadline=None)
@given(
    data=st.binary(max_size=200),
    start=st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"]),
)
def test_decode_when_bytes_are_arbitrary_only_refuses(data: bytes, start: bytes):
    with pytest.raises(ImageRefusedError):
        decode(start + data)


def test_decode_when_png_data_is_damaged_under_a_right_checksum_refuses():
    whole = TRUNCATABLE["png"]
    at = whole.index(b"IDAT")
    length = struct.unpack(">I", whole[at - 4 : at])[0]
    payload = bytearray(whole[at + 4 : at + 4 + length])
    payload[len(payload) // 2] ^= 0xFF
    damaged = whole[: at - 4] + png_chunk(b"IDAT", bytes(payload)) + whole[at + length + 8 :]
    with pytest.raises(ImageRefusedError) as refusal:
        decode(damaged)
    assert refusal.value.reason == "damaged"


def test_decode_when_jpeg_is_a_run_of_fill_bytes_refuses_in_linear_time():
    with pytest.raises(ImageRefusedError, match="truncated"):
        decode(b"\xff\xd8" + b"\xff" * 5_000_000)


def test_decode_when_jpeg_is_a_million_empty_segments_refuses():
    with pytest.raises(ImageRefusedError, match="segments"):
        decode(b"\xff\xd8" + b"\xff\xfe\x00\x02" * 1_000_000)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (DecodeLimits(max_bytes=1000), "too_large"),
        (DecodeLimits(max_pixels=120 * 90 - 1), "too_large"),
        (DecodeLimits(min_side=91), "too_small"),
        (DecodeLimits(max_aspect=1.3), "extreme_aspect"),
    ],
)
def test_decode_when_just_past_a_limit_refuses(limits: DecodeLimits, reason: str):
    with pytest.raises(ImageRefusedError) as refusal:
        decode(TRUNCATABLE["baseline"], limits)
    assert refusal.value.reason == reason


def test_decode_when_just_within_all_limits_accepts():
    data = TRUNCATABLE["baseline"]
    limits = DecodeLimits(len(data), 120 * 90, 90, 120 / 90)
    assert decode(data, limits).shape == (90, 120, 3)


def test_refusal_when_pickled_keeps_reason_and_detail():
    copy = pickle.loads(pickle.dumps(ImageRefusedError("empty", "there are no bytes")))  # noqa: S301  # just made
    assert isinstance(copy, PermanentError)
    assert (copy.reason, copy.detail) == ("empty", "there are no bytes")


# What is accepted


@pytest.mark.parametrize("form", sorted(TRUNCATABLE))
def test_decode_when_acceptable_gives_the_pixels_of_an_independent_decoder(form: str):
    data = TRUNCATABLE[form]
    np.testing.assert_array_equal(decode(data), pillow_pixels(data))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
@pytest.mark.parametrize("interlaced", [False, True])
def test_decode_when_png_of_any_opaque_mode_gives_rgb(mode: str, interlaced: bool):
    image = photograph().convert(mode)
    data = encoded(image, "PNG")
    if interlaced:
        _, written = cv2.imencode(".png", np.asarray(image.convert("RGB"))[..., ::-1])
        data = bytes(written)
    np.testing.assert_array_equal(decode(data), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_decode_when_alpha_is_opaque_drops_it(mode: str):
    image = photograph().convert(mode)
    np.testing.assert_array_equal(decode(encoded(image, "PNG")), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_decode_when_exif_has_an_orientation_applies_it_once(form: str, orientation: int):
    data = encoded(photograph(), form, exif=exif(orientation))
    np.testing.assert_array_equal(decode(data), pillow_pixels(data))


@pytest.mark.parametrize("tail", [b"\0" * 16, b"MotionPhoto" * 9, TRUNCATABLE["gray"]])
@pytest.mark.parametrize("form", ["baseline", "png"])
def test_decode_when_bytes_follow_the_end_ignores_them(form: str, tail: bytes):
    data = TRUNCATABLE[form]
    np.testing.assert_array_equal(decode(data + tail), decode(data))


def test_decode_when_metadata_is_broken_ignores_it():
    data = TRUNCATABLE["baseline"]
    broken = b"Exif\0\0II*\0\xff\xff\xff\xff"
    segment = b"\xff\xe1" + struct.pack(">H", len(broken) + 2) + broken
    np.testing.assert_array_equal(decode(data[:2] + segment + data[2:]), decode(data))


@pytest.mark.parametrize("progressive", [False, True])
def test_decode_when_image_really_is_middle_gray_accepts_it(progressive: bool):
    data = encoded(Image.new("RGB", (90, 70), (128, 128, 128)), "JPEG", progressive=progressive)
    assert (decode(data) == 128).all()


def test_decode_when_acceptable_writes_nothing_to_standard_error(capfd: pytest.CaptureFixture[str]):
    profile = b"profile\0\0" + zlib.compress(b"no colour profile at all")
    png = TRUNCATABLE["png"]
    decode(png[:33] + png_chunk(b"iCCP", profile) + png[33:])
    for data in TRUNCATABLE.values():
        decode(data)
    assert capfd.readouterr().err == ""


def test_decode_when_called_from_many_threads_gives_the_same_pixels():
    files = [encoded(photograph(seed=seed), "JPEG") for seed in range(20)] * 5
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(decode, files))
    for data, image in zip(files, together, strict=True):
        np.testing.assert_array_equal(image, decode(data))


# Preparation


@settings(max_examples=80, deadline=None)
@given(
    height=st.integers(32, 400),
    width=st.integers(32, 400),
    target=st.builds(ImageSize, st.integers(16, 200), st.integers(16, 200)),
    colour_constancy=st.booleans(),
    hair_removal=st.booleans(),
)
def test_prepare_when_any_size_gives_the_target_shape_and_keeps_a_flat_gray(
    height: int, width: int, target: ImageSize, colour_constancy: bool, hair_removal: bool
):
    image = np.full((height, width, 3), 130, np.uint8)
    prepared = prepare(image, Preprocessing(target, colour_constancy, hair_removal))
    assert prepared.dtype == np.uint8
    assert prepared.shape == (target.height, target.width, 3)
    assert prepared.flags["C_CONTIGUOUS"]
    assert (prepared == 130).all()


def test_prepare_when_portrait_turns_it_clockwise():
    landscape = np.asarray(photograph(64, 48))
    portrait = np.rot90(landscape, 1).copy()  # counter-clockwise
    np.testing.assert_array_equal(prepare(portrait, SMALL_TARGET), prepare(landscape, SMALL_TARGET))


def test_prepare_when_target_is_square_turns_nothing():
    portrait = np.zeros((60, 40, 3), np.uint8)
    portrait[:30] = 200
    prepared = prepare(portrait, Preprocessing(ImageSize(40, 40)))
    assert (prepared[0] == 200).all()
    assert (prepared[-1] == 0).all()


def test_prepare_when_a_circle_is_wide_keeps_it_round_and_centred():
    image = np.full((300, 700, 3), 220, np.uint8)
    cv2.circle(image, (350, 150), 90, (60, 30, 20), -1)
    dark = prepare(image, Preprocessing(ImageSize(144, 192)))[..., 0] < 140
    rows, columns = np.flatnonzero(dark.any(axis=1)), np.flatnonzero(dark.any(axis=0))
    assert abs(len(rows) - len(columns)) <= 1
    assert abs(len(rows) - 180 * 144 / 300) <= 2
    assert abs((rows[0] + rows[-1]) / 2 - 71.5) <= 1
    assert abs((columns[0] + columns[-1]) / 2 - 95.5) <= 1


def test_prepare_when_shrinking_averages_all_pixels():
    checks = (np.indices((480, 640)).sum(axis=0) % 2 * 255).astype(np.uint8)
    prepared = prepare(np.dstack([checks] * 3), SMALL_TARGET)
    assert np.abs(prepared.astype(int) - 127).max() <= 1


def test_prepare_when_repeated_gives_equal_bytes():
    image = np.asarray(photograph(300, 200))
    everything = Preprocessing(ImageSize(48, 64), colour_constancy=True, hair_removal=True)
    assert prepare(image, everything).tobytes() == prepare(image, everything).tobytes()


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((40, 40, 3), np.float32),
        np.zeros((40, 40), np.uint8),
        np.zeros((40, 40, 4), np.uint8),
        np.zeros((0, 40, 3), np.uint8),
    ],
)
def test_prepare_when_array_is_no_rgb_image_raises(image: np.ndarray):
    with pytest.raises(InputError, match="height, width, 3"):
        prepare(image, SMALL_TARGET)


# Settings


@given(st.builds(ImageSize, st.integers(16, 4096), st.integers(16, 4096)))
def test_image_size_when_written_and_parsed_is_the_same(size: ImageSize):
    assert ImageSize.parse(str(size)) == size


def test_image_size_when_parsed_puts_height_first():
    assert ImageSize.parse("144x192") == ImageSize(height=144, width=192)


@pytest.mark.parametrize("text", ["", "144", "144x", "x192", "144X192", "8x8", "9999x10", "1e2x50"])
def test_image_size_when_malformed_or_out_of_range_raises(text: str):
    with pytest.raises(InputError):
        ImageSize.parse(text)


@given(
    st.builds(
        Preprocessing,
        st.builds(ImageSize, st.integers(16, 4096), st.integers(16, 4096)),
        st.booleans(),
        st.booleans(),
        st.builds(DecodeLimits, min_side=st.integers(1, 99), max_aspect=st.floats(1, 20)),
    )
)
def test_preprocessing_when_written_and_read_is_the_same(preprocessing: Preprocessing):
    assert Preprocessing.from_plain(preprocessing.as_plain()) == preprocessing


@pytest.mark.parametrize(
    "change",
    [
        {"colour_constancy": "yes"},
        {"image_size": [144, 192]},
        {"image_size": "big"},
        {"limits": None},
        {"limits": {"max_bytes": "many"}},
        {"sharpen": True},
    ],
)
def test_preprocessing_when_plain_value_is_wrong_raises(change):
    with pytest.raises(InputError):
        Preprocessing.from_plain(Preprocessing().as_plain() | change)


# Thumbnails


def test_thumbnail_when_image_is_large_is_a_small_jpeg_at_true_aspect():
    with Image.open(io.BytesIO(thumbnail(encoded(photograph(900, 600), "JPEG"), 150))) as small:
        assert (small.format, small.size) == ("JPEG", (150, 100))
        np.testing.assert_allclose(
            np.asarray(small.resize((3, 2), Image.Resampling.BOX), int),
            np.asarray(photograph(900, 600).resize((3, 2), Image.Resampling.BOX), int),
            atol=8,
        )


def test_thumbnail_when_image_is_small_keeps_its_size():
    with Image.open(io.BytesIO(thumbnail(encoded(photograph(100, 60), "PNG")))) as small:
        assert small.size == (100, 60)
