"""How well a score tells malignant from benign: curves and distributions."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dermascan.evaluation import Estimate, Flags, Floats, OperatingFigures, Ranking
from dermascan.figures.canvas import (
    BENIGN,
    DOTTED,
    INK,
    MALIGNANT,
    MUTED,
    SURFACE,
    corners,
    diagonal,
    dot,
    draw_svg,
    legend_above,
    mark,
    threshold_line,
    unit_square,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCORE_BINS = 25
CORNER = 0.4  # of both axes of the ROC figure is drawn enlarged


def roc(
    positive: Flags, scores: Floats, threshold: float, points: Sequence[OperatingFigures] = ()
) -> str | None:
    """Draw the ROC curve and the operating points.

    Args:
        positive: malignant or not, bool [images].
        scores: `p_malignant`, 0 to 1 [images].
        threshold: an image is called malignant from this score on.
        points: further operating points, drawn as numbered rings with their intervals.

    Returns:
        SVG text; None without both malignant and benign images.
    """
    if positive.all() or not positive.any():
        return None
    rates = Ranking(positive, scores).roc(np.ones((1, len(scores))))
    false_rate, true_rate = corners(rates[0][0], rates[1][0])
    called = scores >= threshold
    point = (float(called[~positive].mean()), float(called[positive].mean()))

    def curve(axes: "Axes") -> None:
        diagonal(axes)
        axes.fill_between(false_rate, true_rate, color=BENIGN, alpha=0.10, linewidth=0)
        axes.plot(false_rate, true_rate, color=BENIGN, linewidth=2.2)

    def draw(axes: "Axes") -> None:
        curve(axes)
        axes.set(xlabel="1 - specificity", ylabel="sensitivity")
        unit_square(axes)
        corner = _enlarged_corner(axes)
        curve(corner)
        for number, each in enumerate(points, start=1):
            _operating_point(corner, each, number)
        if point[0] <= CORNER and point[1] >= 1 - CORNER:
            dot(axes, point)
            dot(corner, point)
            text = f"● threshold {threshold:.2f}"
            corner.text(0.97, 0.06, text, ha="right", transform=corner.transAxes)
        else:
            mark(axes, point, f"threshold {threshold:.2f}")

    return draw_svg(draw, "ROC curve with the operating points")


def precision_recall(positive: Flags, scores: Floats, threshold: float) -> str | None:
    """Draw precision against recall, the prevalence as baseline; see `roc`."""
    if not positive.any():
        return None
    rates = Ranking(positive, scores).precision_recall(np.ones((1, len(scores))))
    precision, recall = corners(rates[0][0, 1:], rates[1][0, 1:])
    called = scores >= threshold

    def draw(axes: "Axes") -> None:
        axes.axhline(positive.mean(), color=MUTED, linewidth=1, linestyle=DOTTED)
        axes.step(recall, precision, where="pre", color=MALIGNANT, linewidth=2.2)
        if called.any():
            point = (float(called[positive].mean()), float(positive[called].mean()))
            mark(axes, point, f"threshold {threshold:.2f}")
        axes.set(xlabel="recall (sensitivity)", ylabel="precision (PPV)")
        unit_square(axes)

    return draw_svg(draw, "Precision against recall with the operating point")


def score_distribution(positive: Flags, scores: Floats, threshold: float) -> str | None:
    """Draw how scores of malignant and of benign images spread; see `roc`."""
    if not len(scores):
        return None

    def draw(axes: "Axes") -> None:
        for members, colour, name in (
            (~positive, BENIGN, "benign"),
            (positive, MALIGNANT, "malignant"),
        ):
            if members.any():
                share = np.full(int(members.sum()), 100 / members.sum())
                _histogram(axes, scores[members], colour, share, f"{name} ({members.sum():,})")
        axes.set(xlabel="p_malignant", ylabel="% of the images of each kind")
        threshold_line(axes, threshold)
        legend_above(axes, 2)

    return draw_svg(draw, "Distribution of scores for malignant and benign images")


def risk_distribution(scores: Floats, threshold: float) -> str | None:
    """Draw how many images there are at each risk, those at or above the threshold apart.

    Args:
        scores: `p_malignant`, 0 to 1 [images].
        threshold: where malignant begins.

    Returns:
        SVG text; None without images.
    """
    if not len(scores):
        return None

    def draw(axes: "Axes") -> None:
        called = scores >= threshold
        for members, colour in ((~called, BENIGN), (called, MALIGNANT)):
            _histogram(axes, scores[members], colour, np.ones(int(members.sum())), None)
        axes.set(xlabel="p_malignant", ylabel="images")
        axes.yaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]  # MaxNLocator's
        threshold_line(axes, threshold)

    return draw_svg(draw, "Distribution of the predicted risk")


def _enlarged_corner(axes: "Axes") -> "Axes":
    """Open a window over the empty lower right, in which good operating points lie apart."""
    window = axes.inset_axes((0.36, 0.08, 0.62, 0.62))
    window.set(xlim=(-0.008, CORNER), ylim=(1 - CORNER, 1.008))
    window.set_xticks([0, CORNER / 2, CORNER], ["0", f"{CORNER / 2:g}", f"{CORNER:g}"])
    window.set_yticks(
        [1 - CORNER, 1 - CORNER / 2, 1], [f"{1 - CORNER:g}", f"{1 - CORNER / 2:g}", "1"]
    )
    window.tick_params(length=0, labelsize=9)
    window.patch.set(facecolor=SURFACE, alpha=1)
    return window


def _operating_point(axes: "Axes", figures: OperatingFigures, number: int) -> None:
    """Draw a ring where sensitivity meets specificity, a cross of their intervals behind it."""
    sensitivity, specificity = figures.sensitivity.value, figures.specificity.value
    if sensitivity is None or specificity is None:
        return
    x, y = 1 - specificity, sensitivity
    vertical, horizontal = _interval(figures.sensitivity), _interval(figures.specificity)
    if vertical is not None:
        axes.plot([x, x], vertical, color=MUTED, linewidth=1.1)
    if horizontal is not None:
        axes.plot([1 - end for end in horizontal], [y, y], color=MUTED, linewidth=1.1)
    axes.plot(x, y, marker="o", markersize=6, color=SURFACE, markeredgecolor=INK, zorder=4)
    above = figures.target == "specificity"
    axes.annotate(
        str(number),
        (x, y),
        xytext=(-5, 3) if above else (5, -3),
        textcoords="offset points",
        ha="right" if above else "left",
        va="bottom" if above else "top",
        fontsize=9,
    )


def _interval(estimate: Estimate) -> tuple[float, float] | None:
    if estimate.low is None or estimate.high is None:
        return None
    return estimate.low, estimate.high


def _histogram(
    axes: "Axes", scores: Floats, colour: str, weights: NDArray[np.float64], label: str | None
) -> None:
    edges = np.linspace(0, 1, SCORE_BINS + 1).tolist()
    axes.hist(scores, edges, weights=weights, color=colour, alpha=0.22, label=label)
    axes.hist(scores, edges, weights=weights, color=colour, histtype="step", linewidth=1.6)
