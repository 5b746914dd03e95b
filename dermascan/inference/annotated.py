"""A picture of scored images: as the model saw them, their heat map, and the risk as a bar."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dermascan import DISCLAIMER
from dermascan.errors import InputError
from dermascan.taxonomy import LESION_CLASSES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from dermascan.inference.local import Prediction
    from dermascan.inference.pictures import Kept

MOST_IMAGES = 24
SUFFIXES = (".png", ".jpg", ".jpeg", ".pdf")
_ROW_INCHES, _WIDTH_INCHES, _DPI = 2.0, 8.0, 120
_ABOVE, _BELOW, _TRACK, _INK = "#bf4514", "#1f5fa8", "#dbe1e9", "#15202c"
_NAME_LENGTH = 60


def require_drawable(path: Path) -> None:
    """Refuse a name whose ending says no kind of picture that can be drawn.

    Raises:
        InputError: it does.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path} is no picture: let its name end in {', '.join(SUFFIXES)}")


def write_picture(prediction: "Prediction", path: Path) -> None:
    """Draw the images of highest risk, one in a row.

    Raises:
        InputError: no image was scored, or the name of the file has another ending.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415  # slow, and only pictures need it

    require_drawable(path)
    kept = prediction.pictures.kept
    if not kept:
        raise InputError(f"no image was scored: there is nothing to draw in {path}")
    overlays = prediction.pictures.overlays(prediction.scorer)
    height = _ROW_INCHES * len(kept) + 0.5
    figure = Figure(figsize=(_WIDTH_INCHES, height), facecolor="white", layout="constrained")
    grid = figure.subplots(len(kept), 3, squeeze=False, width_ratios=(1, 1, 1.6))
    threshold = prediction.scorer.metadata.threshold
    for axes, each, overlaid in zip(grid, kept, overlays, strict=True):
        _draw_row(axes, each, overlaid, threshold)
    figure.supxlabel(f"{prediction.model}. {DISCLAIMER}", fontsize=7, color=_INK, wrap=True)
    figure.savefig(path, dpi=_DPI)


def _draw_row(
    axes: "Sequence[Axes] | NDArray[np.object_]",
    kept: "Kept",
    overlaid: NDArray[np.uint8] | None,
    threshold: float,
) -> None:
    shown = (kept.image, kept.image if overlaid is None else overlaid)
    for place, image in zip(axes[:2], shown, strict=True):
        place.imshow(image)
        place.set_axis_off()
    if overlaid is None:
        axes[1].clear()
        axes[1].set_axis_off()
    _draw_bar(axes[2], kept, threshold)


def _draw_bar(axes: "Axes", kept: "Kept", threshold: float) -> None:
    is_above = kept.risk >= threshold
    axes.barh(0, 1, height=0.3, color=_TRACK)
    axes.barh(0, kept.risk, height=0.3, color=_ABOVE if is_above else _BELOW)
    axes.plot([threshold, threshold], [-0.3, 0.3], color=_INK, linewidth=2)
    axes.set(xlim=(-0.02, 1.02), ylim=(-1, 1.2))
    axes.set_axis_off()
    relation = "at or above" if is_above else "below"
    lines = (
        (0.85, f"{kept.risk:.1%}", 13, "bold"),
        (0.5, f"{relation} the threshold of {threshold:.1%}", 8, "normal"),
        (-0.55, f"likeliest class: {LESION_CLASSES[kept.likeliest]}", 8, "normal"),
        (-0.85, _shown_name(kept.key), 7, "normal"),
    )
    for height, text, size, weight in lines:
        axes.text(0, height, text, fontsize=size, weight=weight, color=_INK, parse_math=False)


def _shown_name(key: str) -> str:
    name = key.rstrip("/").rsplit("/", 1)[-1]
    plain = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in name)
    return plain if len(plain) <= _NAME_LENGTH else f"{plain[:_NAME_LENGTH]}…"
