"""How good a photograph is and what it looks like: sharpness, exposure, perceptual hash."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from dermascan.image_container import ImageFormat, image_format

MEASURED_SIDE = 256
DARK_LUMA, BRIGHT_LUMA = 2, 253
HASH_SIDE, HASHED_FREQUENCIES = 32, 8

# What an image may be before people are warned. Sharpness, brightness and clipping are set
# where HAM10000 (200 x 150 pixels, 4,000 images drawn at random) has almost nothing: below
# sharpness 10 are 0.6 % of its images, and 98 % of their copies that
# `evaluation.corruption` blurs at strength 3; 0.03 % are darker than 80, 0.15 % brighter than
# 220, and 0.03 % have more than 5 % of their pixels without detail. The limit for darkness is
# far below the darkest ordinary photograph, so that dark skin is not taken for a fault.
# A network here looks at no fewer than 144 lines; a smaller image has nothing to fill them with.
BLURRED_BELOW = 10.0
DARK_BELOW, BRIGHT_ABOVE = 80.0, 220.0
CLIPPED_ABOVE = 0.05
SMALL_BELOW = 144
# What the codes stand for, for people.
WARNINGS: Final = {
    "blurred": "out of focus or moved",
    "dark": "underexposed",
    "bright": "overexposed",
    "clipped": "glare or a black frame",
    "small": "fewer pixels than the network looks at",
}


@dataclass(frozen=True)
class ImageFacts:
    """What is measured of an image when it enters.

    Attributes:
        format: "JPEG" or "PNG".
        width: pixels, upright.
        height: pixels, upright.
        sharpness: variance of the Laplacian, 0 and up; a blurred image is near 0.
        brightness: mean luma, 0 to 255.
        clipped_fraction: share of pixels without detail, black or white, 0 to 1.
        perceptual_hash: 16 hexadecimal digits; near-duplicates differ in few bits.
    """

    format: ImageFormat
    width: int
    height: int
    sharpness: float
    brightness: float
    clipped_fraction: float
    perceptual_hash: str


@dataclass(frozen=True)
class QualityWarning:
    """A reason to distrust an image's score.

    Attributes:
        code: `blurred`, `dark`, `bright`, `clipped` or `small`.
        message: what was found, and what to do about it.
    """

    code: str
    message: str


def quality_warnings(facts: ImageFacts) -> tuple[QualityWarning, ...]:
    """Say what is wrong with a photograph; nothing if it is like those of HAM10000.

    A warning does not change the score. No warning does not make a score right.
    """
    return tuple(_warnings(facts))


def _warnings(facts: ImageFacts) -> Iterator[QualityWarning]:
    if facts.sharpness < BLURRED_BELOW:
        yield QualityWarning("blurred", "out of focus or moved: take the photograph again")
    if facts.brightness < DARK_BELOW:
        yield QualityWarning("dark", "underexposed: take the photograph with more light")
    if facts.brightness > BRIGHT_ABOVE:
        yield QualityWarning("bright", "overexposed: take the photograph with less light")
    if facts.clipped_fraction > CLIPPED_ABOVE:
        detail = f"{facts.clipped_fraction:.0%} of the pixels are plain black or white"
        yield QualityWarning("clipped", f"{detail}: avoid glare, and crop a black frame")
    if min(facts.width, facts.height) < SMALL_BELOW:
        detail = f"only {facts.width} x {facts.height} pixels"
        yield QualityWarning("small", f"{detail}: use the original rather than a thumbnail")


def measure(
    data: bytes, image: NDArray[np.uint8], size: tuple[int, int] | None = None
) -> ImageFacts:
    """Measure an image on a copy whose long side is at most `MEASURED_SIDE` pixels.

    The copy makes the figures comparable between cameras, and is nearer to what the network
    sees than the original. A dark vignette counts as clipped where it is black.

    Args:
        data: the file that `image` was decoded from.
        image: uint8 RGB, (height, width, 3), upright.
        size: height and width of the file's image, where `image` is a reduced copy of it.

    Source:
        Sharpness: Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy: a
        comparative study", ICPR 2000. Luma: ITU-R BT.601.
    """
    height, width = size or image.shape[:2]
    luma = _small_luma(image)
    clipped = np.count_nonzero((luma <= DARK_LUMA) | (luma >= BRIGHT_LUMA))
    return ImageFacts(
        format=image_format(data),
        width=width,
        height=height,
        sharpness=_sharpness(luma),
        brightness=_mean(luma),
        clipped_fraction=float(clipped / luma.size),
        perceptual_hash=_perceptual_hash(luma),
    )


def hash_distance(a: str, b: str) -> int:
    """Count the bits in which two perceptual hashes differ (0 to 64).

    Unrelated photographs differ in about 32 bits; copies that were resized, compressed or
    slightly re-exposed in fewer than ten.

    Args:
        a: 16 hexadecimal digits.
        b: 16 hexadecimal digits.
    """
    return (int(a, 16) ^ int(b, 16)).bit_count()


def _small_luma(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    scale = MEASURED_SIDE / max(height, width)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    luma: NDArray[np.uint8] = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return luma


def _sharpness(luma: NDArray[np.uint8]) -> float:
    """Return the variance of the Laplacian, whose values are whole numbers of 11 bits."""
    edges = cv2.Laplacian(luma, cv2.CV_16S)
    deviations = edges - _mean(edges)
    deviations *= deviations
    return float(deviations.mean())


def _mean(whole_numbers: NDArray[np.integer]) -> float:
    """Return what NumPy's `mean` does; OpenCV adds whole numbers as exactly, and faster."""
    return cv2.sumElems(whole_numbers)[0] / whole_numbers.size


def _perceptual_hash(luma: NDArray[np.uint8]) -> str:
    """Hash the signs of low frequencies against their median.

    Source:
        Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010:
        DCT of 32 x 32 pixels, of which rows and columns 1 to 8 (no mean) give 64 bits.
    """
    small = cv2.resize(luma, (HASH_SIDE, HASH_SIDE), interpolation=cv2.INTER_AREA)
    frequencies = cv2.dct(small.astype(np.float32))
    low = frequencies[1 : HASHED_FREQUENCIES + 1, 1 : HASHED_FREQUENCIES + 1]
    middle = np.sort(low, axis=None)[low.size // 2 - 1 : low.size // 2 + 1]
    bits: NDArray[np.uint8] = np.packbits(low > middle.mean())  # the median, without its checks
    return bits.tobytes().hex()
