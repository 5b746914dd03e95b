"""What decisions made by a score would come to."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dermascan.evaluation import CoveragePoint, DecisionPoint
from dermascan.figures.canvas import (
    BENIGN,
    DOTTED,
    INK,
    MALIGNANT,
    MUTED,
    draw_svg,
    legend_above,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def risk_coverage(points: Sequence[CoveragePoint]) -> str | None:
    """Draw the errors that are left when the least certain images go to a person.

    Returns:
        SVG text; None without a point that is defined.
    """
    coverage = np.array([100 * each.coverage for each in points])
    lines = [
        ("all errors", INK, [each.error for each in points]),
        ("missed malignant", MALIGNANT, [_complement(each.sensitivity) for each in points]),
        ("false alarms", BENIGN, [_complement(each.specificity) for each in points]),
    ]
    curves = [
        (name, colour, _percent(values))
        for name, colour, values in lines
        if any(value is not None for value in values)
    ]
    if not curves:
        return None

    def draw(axes: "Axes") -> None:
        for name, colour, values in curves:
            axes.plot(coverage, values, color=colour, linewidth=2, label=name)
        axes.set(xlabel="% of images decided, most certain first", ylabel="% of those wrong")
        axes.set_xlim(-2, 102)
        axes.set_ylim(bottom=0)
        legend_above(axes, 3)

    return draw_svg(draw, "Errors against the share of images decided")


def decision_curve(points: Sequence[DecisionPoint]) -> str | None:
    """Draw net benefit against the threshold probability, with both trivial strategies.

    Returns:
        SVG text; None without points.
    """
    if not points:
        return None
    threshold, model, everybody = np.array(
        [(each.threshold, each.model, each.treat_all) for each in points]
    ).T
    top = max(float(model.max()), float(everybody.max()), 0.01)

    def draw(axes: "Axes") -> None:
        axes.fill_between(
            threshold, model, np.maximum(everybody, 0), where=model > np.maximum(everybody, 0),
            color=MALIGNANT, alpha=0.12, linewidth=0,
        )  # fmt: skip
        axes.plot(threshold, model, color=MALIGNANT, linewidth=2.2, label="this model")
        axes.plot(threshold, everybody, color=BENIGN, linewidth=1.6, label="treat all")
        axes.axhline(0, color=MUTED, linewidth=1.4, linestyle=DOTTED, label="treat none")
        axes.set(xlabel="threshold probability", ylabel="net benefit per image")
        axes.set_ylim(-0.25 * top, 1.1 * top)
        legend_above(axes, 3)

    return draw_svg(draw, "Decision curve: net benefit against threshold probability")


def _complement(share: float | None) -> float | None:
    return None if share is None else 1 - share


def _percent(values: Sequence[float | None]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([np.nan if value is None else 100 * value for value in values])
