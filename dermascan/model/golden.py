"""Golden images: a few drawings and what a model said of them, by which its copies are proven.

They are drawn, so that a model can be passed on without anybody's image, and travel beside the
SavedModel: a copy that was read back from object storage must say of them what the model said
before it was stored.
"""

import io
import logging
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dermascan.errors import IntegrityError
from dermascan.imaging import ImageSize

logger = logging.getLogger(__name__)

GOLDEN_FILE = "golden.npz"
TOLERANCE = 1e-4  # of a probability; other processors and batch sizes differ by some 1e-6
_MOST_IMAGES, _LEAST_IMAGES, _PIXELS = 8, 2, 2_000_000  # fewer of large ones: memory
_SEED = 20_180_161
_SKIN = ((236, 188, 180), (205, 150, 125), (141, 85, 58))  # RGB
_PIGMENT = ((92, 51, 31), (38, 24, 24), (190, 30, 50), (70, 78, 110))


class Probabilities(Protocol):
    """What is compared of a model's scores; `dermascan.model.savedmodel.Scores` is one."""

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """float32 (N, 7), rows add up to 1."""

    @property
    def p_malignant(self) -> NDArray[np.float32]:
        """float32 (N,), 0..1."""


@dataclass(frozen=True, eq=False)
class GoldenImages:
    """Drawn images with a model's scores.

    Attributes:
        images: uint8 (N, H, W, 3) RGB, 0..255, of the model's own size.
        probabilities: float32 (N, 7), rows add up to 1.
        p_malignant: float32 (N,), 0..1.
    """

    images: NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    p_malignant: NDArray[np.float32]

    def largest_difference(self, scores: Probabilities) -> float:
        """Return by how much a probability differs at most; NaN if one is not a number."""
        pairs = (
            (self.probabilities, scores.probabilities),
            (self.p_malignant, scores.p_malignant),
        )
        return float(np.max([np.abs(mine - theirs).max() for mine, theirs in pairs]))


def draw_images(size: ImageSize) -> NDArray[np.uint8]:
    """Draw spots on skin: uint8 (2 to 8, height, width, 3) RGB, 0..255, the same each time."""
    count = min(_MOST_IMAGES, max(_LEAST_IMAGES, _PIXELS // (size.height * size.width)))
    rng = np.random.default_rng(_SEED)
    y, x = np.mgrid[0 : size.height, 0 : size.width]
    images = np.empty((count, size.height, size.width, 3), np.uint8)
    for index in range(count):
        skin, pigment = _SKIN[index % len(_SKIN)], _PIGMENT[index % len(_PIGMENT)]
        centre = rng.uniform(0.35, 0.65, 2) * (size.height, size.width)
        radii = rng.uniform(0.12, 0.4, 2) * (size.height, size.width)
        distance = np.hypot((y - centre[0]) / radii[0], (x - centre[1]) / radii[1])
        share = np.clip((1.2 - distance) / 0.4, 0, 1)[..., None]
        images[index] = np.rint(share * pigment + (1 - share) * skin)
    return images


def write_golden(
    folder: Path, size: ImageSize, score: Callable[[NDArray[np.uint8]], Probabilities]
) -> None:
    """Draw the images, score them, and leave both beside the model.

    Args:
        folder: of the exported model.
        size: of the images that the model takes.
        score: the model, given uint8 (N, H, W, 3) RGB.
    """
    images = draw_images(size)
    scores = score(images)
    sink = io.BytesIO()
    np.savez_compressed(
        sink,
        images=images,
        probabilities=np.asarray(scores.probabilities, np.float32),
        p_malignant=np.asarray(scores.p_malignant, np.float32),
    )
    (folder / GOLDEN_FILE).write_bytes(sink.getvalue())


def read_golden(folder: Path) -> GoldenImages:
    """Read what `write_golden` left.

    Raises:
        IntegrityError: it is not there, or cannot be read.
    """
    path = folder / GOLDEN_FILE
    try:
        with np.load(path) as arrays:
            return GoldenImages(**{name: arrays[name] for name in GoldenImages.__annotations__})
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise IntegrityError(f"{path.name} cannot be read: {error}") from error


def require_golden(
    folder: Path, score: Callable[[NDArray[np.uint8]], Probabilities], subject: str
) -> None:
    """Let a copy of a model score its golden images, and compare.

    Args:
        folder: of the copy.
        score: the copy, loaded.
        subject: names the copy in messages.

    Raises:
        IntegrityError: there are no golden images, or the scores differ by more than `TOLERANCE`.
    """
    golden = read_golden(folder)
    difference = golden.largest_difference(score(golden.images))
    if not difference <= TOLERANCE:
        raise IntegrityError(
            f"{subject} scores its golden images differently than when it was exported, by up to "
            f"{difference:.2g} where {TOLERANCE:g} is allowed: it is not the model that was "
            "judged, or this installation computes wrongly. Train again"
        )
    logger.info("%s scores its golden images as it should, to %.1g", subject, difference)
