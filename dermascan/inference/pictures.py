"""The images of highest risk as people look at them, with the parts that spoke for a class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dermascan.errors import InputError
from dermascan.evaluation.explanation import overlays
from dermascan.imaging import small_jpeg

if TYPE_CHECKING:
    from dermascan.model.scorer import Scorer

PICTURE_SIDE = 192


@dataclass(frozen=True)
class Picture:
    """An image as the model saw it.

    Attributes:
        jpeg: a small JPEG.
        overlay: the same under its class activation map, None if the model cannot explain.
    """

    jpeg: bytes
    overlay: bytes | None = None


@dataclass(frozen=True, eq=False)
class Kept:
    """A prepared image (uint8 RGB) with its risk and its likeliest class, an index."""

    key: str
    risk: float
    likeliest: int
    image: NDArray[np.uint8]


class Pictures:
    """Keeps the images of highest risk while others pass by.

    Args:
        limit: how many are kept.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: list[Kept] = []

    def offer(
        self,
        keys: Sequence[str],
        risks: NDArray[np.float32],
        likeliest: NDArray[np.intp],
        images: NDArray[np.uint8],
    ) -> None:
        """Consider some images.

        Args:
            keys: N names.
            risks: (N,), 0..1.
            likeliest: (N,), indices into `LESION_CLASSES`.
            images: uint8 RGB (N, H, W, 3), prepared for the model.
        """
        columns = zip(keys, risks.tolist(), likeliest.tolist(), images, strict=True)
        found = [Kept(*values) for values in columns]
        ordered = sorted([*self._kept, *found], key=lambda each: (-each.risk, each.key))
        self._kept = [
            Kept(each.key, each.risk, each.likeliest, each.image.copy())
            for each in ordered[: self._limit]
        ]

    @property
    def kept(self) -> tuple[Kept, ...]:
        """Return what is kept, highest risk first."""
        return tuple(self._kept)

    def drawn(self, scorer: "Scorer") -> Mapping[str, Picture]:
        """Return small JPEGs by key."""
        laid_over = self.overlays(scorer)
        return {
            each.key: Picture(
                small_jpeg(each.image, PICTURE_SIDE),
                None if overlaid is None else small_jpeg(overlaid, PICTURE_SIDE),
            )
            for each, overlaid in zip(self._kept, laid_over, strict=True)
        }

    def overlays(self, scorer: "Scorer") -> "Sequence[NDArray[np.uint8] | None]":
        """Return each kept image under the activation map of its likeliest class.

        None for each if the model was exported before there were explanations.
        """
        if not self._kept:
            return ()
        images = np.stack([each.image for each in self._kept])
        classes = [each.likeliest for each in self._kept]
        try:
            return list(overlays(scorer.explain, images, classes))
        except InputError:
            return [None] * len(self._kept)
