from types import SimpleNamespace

import numpy as np
import pytest

from dermascan.errors import IntegrityError
from dermascan.imaging import ImageSize
from dermascan.model.golden import (
    GOLDEN_FILE,
    TOLERANCE,
    draw_images,
    read_golden,
    require_golden,
    write_golden,
)

SIZE = ImageSize(48, 64)


def score(images, shift=0.0):
    """Say of each image how bright it is, in place of a network."""
    brightness = images.mean(axis=(1, 2, 3), dtype=np.float64) / 255 + shift
    rows = np.stack([brightness, *[(1 - brightness) / 6] * 6], axis=1)
    return SimpleNamespace(
        probabilities=rows.astype(np.float32), p_malignant=brightness.astype(np.float32)
    )


@pytest.fixture
def folder(tmp_path):
    write_golden(tmp_path, SIZE, score)
    return tmp_path


def test_draw_images_draws_the_same_each_time_and_no_two_alike():
    images = draw_images(SIZE)
    assert images.shape == (8, 48, 64, 3)
    assert np.array_equal(images, draw_images(SIZE))
    assert len({image.tobytes() for image in images}) == 8
    assert images.std(axis=(1, 2)).max(axis=1).min() > 10  # there is something to see


def test_draw_images_when_they_are_large_draws_fewer():
    assert len(draw_images(ImageSize(1024, 1024))) == 2


def test_write_golden_when_done_twice_writes_the_same_bytes(folder, tmp_path_factory):
    again = tmp_path_factory.mktemp("again")
    write_golden(again, SIZE, score)
    assert (again / GOLDEN_FILE).read_bytes() == (folder / GOLDEN_FILE).read_bytes()


def test_read_golden_returns_images_and_scores_as_written(folder):
    golden = read_golden(folder)
    assert np.array_equal(golden.images, draw_images(SIZE))
    assert golden.largest_difference(score(golden.images)) == 0


def test_require_golden_when_scores_differ_within_tolerance_accepts(folder):
    require_golden(folder, lambda images: score(images, TOLERANCE / 2), "m version 1")


@pytest.mark.parametrize("shift", [2 * TOLERANCE, -2 * TOLERANCE, 0.5, np.nan])
def test_require_golden_when_scores_differ_more_or_are_no_numbers_refuses(folder, shift):
    with pytest.raises(IntegrityError, match="m version 1 scores its golden images differently"):
        require_golden(folder, lambda images: score(images, shift), "m version 1")


@pytest.mark.parametrize("content", [None, b"", b"PK no archive", b"\x93NUMPY"])
def test_require_golden_when_there_are_none_that_can_be_read_refuses(folder, content):
    (folder / GOLDEN_FILE).unlink()
    if content is not None:
        (folder / GOLDEN_FILE).write_bytes(content)
    with pytest.raises(IntegrityError, match=GOLDEN_FILE):
        require_golden(folder, score, "m version 1")
