"""Scores against what happened."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dermascan.evaluation import Floats, ReliabilityBin
from dermascan.figures.canvas import MALIGNANT, SURFACE, diagonal, draw_svg, unit_square

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_Z_95 = 1.959964


def reliability(bins: Sequence[ReliabilityBin], when: str) -> str | None:
    """Draw observed rates against mean scores; dots grow with the images they stand for.

    Args:
        bins: of the scores.
        when: "before calibration" or the like, for the figure's label.

    Returns:
        SVG text; None if every bin is empty.
    """
    filled = [
        (each.mean_score, each.observed_rate, each.images)
        for each in bins
        if each.mean_score is not None and each.observed_rate is not None
    ]
    if not filled:
        return None
    score, rate, images = np.array(filled, dtype=float).T
    low, high = wilson_interval(rate, images)

    def draw(axes: "Axes") -> None:
        diagonal(axes)
        axes.vlines(score, low, high, color=MALIGNANT, linewidth=1.2, alpha=0.55)
        axes.plot(score, rate, color=MALIGNANT, linewidth=1.6)
        area = 18 + 240 * images / images.max()
        dots = axes.scatter(score, rate, s=area, color=MALIGNANT, edgecolor=SURFACE, zorder=3)
        dots.set_clip_on(False)
        axes.set(xlabel="mean score in the bin", ylabel="share that is malignant")
        unit_square(axes)

    return draw_svg(draw, f"Reliability diagram {when}: observed rates against scores")


def wilson_interval(rate: Floats, images: Floats) -> tuple[Floats, Floats]:
    """Return the 95 % interval of a share of independent images.

    Args:
        rate: observed shares, 0 to 1 [bins].
        images: how many images each is of, 1 or more [bins].

    Source: Wilson, Probable inference, the law of succession, and statistical inference (1927).
    """
    square = _Z_95**2 / images
    centre = (rate + square / 2) / (1 + square)
    half = np.sqrt(square * (rate * (1 - rate) + square / 4)) / (1 + square)
    return centre - half, centre + half
