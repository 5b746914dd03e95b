"""Charts as inline SVG that takes its colours from the page around it, light or dark."""

import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from dermascan.evaluation import Flags, Floats, Ranking, ReliabilityBin

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SCORE_BINS = 25
MAX_POINTS = 400
WIDTH_INCHES, HEIGHT_INCHES = 4.9, 4.1

# Drawn in these colours, then replaced by the page's CSS variables.
_INK, _MUTED, _LINE = "#010101", "#020202", "#030303"
_MALIGNANT, _BENIGN, _SURFACE = "#040404", "#050505", "#060606"
_CSS_VARIABLES = {
    _INK: "var(--ink)",
    _MUTED: "var(--muted)",
    _LINE: "var(--line)",
    _MALIGNANT: "var(--malignant)",
    _BENIGN: "var(--benign)",
    _SURFACE: "var(--surface)",
}
_FONT = "DejaVu Sans"
_STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": [_FONT],
    "font.size": 10.5,
    "text.color": _INK,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 1.0,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.7,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
    "legend.frameon": False,
    "lines.solid_capstyle": "round",
}


def roc(positive: Flags, scores: Floats, threshold: float) -> str | None:
    """Draw the ROC curve and the operating point.

    Args:
        positive: malignant or not, bool [images].
        scores: `p_malignant`, 0 to 1 [images].
        threshold: an image is called malignant from this score on.

    Returns:
        SVG text; None without both malignant and benign images.
    """
    if positive.all() or not positive.any():
        return None
    rates = Ranking(positive, scores).roc(np.ones((1, len(scores))))
    false_rate, true_rate = _corners(rates[0][0], rates[1][0])
    called = scores >= threshold
    point = (called[~positive].mean(), called[positive].mean())

    def draw(axes: "Axes") -> None:
        axes.plot([0, 1], [0, 1], color=_MUTED, linewidth=1, linestyle=(0, (2, 3)))
        axes.fill_between(false_rate, true_rate, color=_BENIGN, alpha=0.10, linewidth=0)
        axes.plot(false_rate, true_rate, color=_BENIGN, linewidth=2.2)
        _mark(axes, point, f"threshold {threshold:.2f}", below=True)
        axes.set(xlabel="1 - specificity", ylabel="sensitivity")
        _unit_square(axes)

    return _svg(draw, "ROC curve with the operating point")


def precision_recall(positive: Flags, scores: Floats, threshold: float) -> str | None:
    """Draw precision against recall, the prevalence as baseline; see `roc`."""
    if not positive.any():
        return None
    rates = Ranking(positive, scores).precision_recall(np.ones((1, len(scores))))
    precision, recall = _corners(rates[0][0, 1:], rates[1][0, 1:])
    called = scores >= threshold

    def draw(axes: "Axes") -> None:
        axes.axhline(positive.mean(), color=_MUTED, linewidth=1, linestyle=(0, (2, 3)))
        axes.step(recall, precision, where="pre", color=_MALIGNANT, linewidth=2.2)
        if called.any():
            point = (called[positive].mean(), positive[called].mean())
            _mark(axes, point, f"threshold {threshold:.2f}", below=True)
        axes.set(xlabel="recall (sensitivity)", ylabel="precision (PPV)")
        _unit_square(axes)

    return _svg(draw, "Precision against recall with the operating point")


def reliability(bins: Sequence[ReliabilityBin]) -> str | None:
    """Draw observed rates against mean scores; dots grow with the images they stand for."""
    filled = [
        (each.mean_score, each.observed_rate, each.images)
        for each in bins
        if each.mean_score is not None and each.observed_rate is not None
    ]
    if not filled:
        return None
    score, rate, images = np.array(filled, dtype=float).T

    def draw(axes: "Axes") -> None:
        axes.plot([0, 1], [0, 1], color=_MUTED, linewidth=1, linestyle=(0, (2, 3)))
        axes.plot(score, rate, color=_MALIGNANT, linewidth=1.6)
        area = 18 + 240 * images / images.max()
        dots = axes.scatter(score, rate, s=area, color=_MALIGNANT, edgecolor=_SURFACE, zorder=3)
        dots.set_clip_on(False)
        axes.set(xlabel="mean score in the bin", ylabel="share that is malignant")
        _unit_square(axes)

    return _svg(draw, "Reliability diagram: observed rates against scores")


def score_distribution(positive: Flags, scores: Floats, threshold: float) -> str | None:
    """Draw how scores of malignant and of benign images spread; see `roc`."""
    if not len(scores):
        return None

    def draw(axes: "Axes") -> None:
        for members, colour, name in (
            (~positive, _BENIGN, "benign"),
            (positive, _MALIGNANT, "malignant"),
        ):
            if members.any():
                share = np.full(int(members.sum()), 100 / members.sum())
                _histogram(axes, scores[members], colour, share, f"{name} ({members.sum():,})")
        axes.set(xlabel="p_malignant", ylabel="% of the images of each kind")
        _threshold_line(axes, threshold)
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)

    return _svg(draw, "Distribution of scores for malignant and benign images")


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
        for members, colour in ((~called, _BENIGN), (called, _MALIGNANT)):
            _histogram(axes, scores[members], colour, np.ones(int(members.sum())), None)
        axes.set(xlabel="p_malignant", ylabel="images")
        axes.yaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]  # MaxNLocator's
        _threshold_line(axes, threshold)

    return _svg(draw, "Distribution of the predicted risk")


def _svg(draw: Callable[["Axes"], None], label: str) -> str:
    import matplotlib as mpl  # noqa: PLC0415  # slow, and only reports need it
    from matplotlib.figure import Figure  # noqa: PLC0415  # likewise

    with mpl.rc_context(cast("Any", _STYLE | {"svg.hashsalt": label})):
        figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES), layout="constrained")
        axes = figure.subplots()
        axes.tick_params(length=0)
        draw(axes)
        return _inline(figure, label)


def _inline(figure: "Figure", label: str) -> str:
    """Turn a figure into SVG that stands in a page: no prolog, colours from CSS variables."""
    sink = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(sink, format="svg", transparent=True, metadata=nothing)
    text = sink.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", text)  # nothing refers to these
    text = re.sub(r"<!--.*?-->", "", text)
    text = re.sub(r"<style.*?</style>", "", text, count=1, flags=re.DOTALL)  # is for the whole page
    for colour, variable in _CSS_VARIABLES.items():
        text = text.replace(colour, variable)
    text = text.replace(f"'{_FONT}'", "system-ui").replace(f"'{_FONT}', ", "")
    text = re.sub(r"(<svg[^>]*?) width=\"[^\"]*\"", r"\1", text, count=1)
    text = re.sub(r"(<svg[^>]*?) height=\"[^\"]*\"", r"\1", text, count=1)
    text = re.sub(r"\n\s*", "\n", text)
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def _corners(first: Floats, second: Floats) -> tuple[Floats, Floats]:
    """Drop points of a curve that lie on a line between others, and thin out what is left."""
    turns = np.ones(len(first), dtype=bool)
    steps = np.diff(first), np.diff(second)
    turns[1:-1] = np.abs(steps[0][:-1] * steps[1][1:] - steps[0][1:] * steps[1][:-1]) > 1e-12
    kept = np.flatnonzero(turns)
    if len(kept) > MAX_POINTS:
        kept = kept[np.linspace(0, len(kept) - 1, MAX_POINTS).round().astype(int)]
    return first[kept], second[kept]


def _unit_square(axes: "Axes") -> None:
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    ticks = [0, 0.25, 0.5, 0.75, 1]
    labels = ["0", "0.25", "0.5", "0.75", "1"]
    axes.set_xticks(ticks, labels)
    axes.set_yticks(ticks, labels)


def _mark(axes: "Axes", point: tuple[float, float], text: str, *, below: bool) -> None:
    axes.plot(*point, marker="o", markersize=9, color=_INK, markeredgecolor=_SURFACE)
    left = point[0] > 0.6
    axes.annotate(
        text,
        point,
        xytext=(-9 if left else 9, -9 if below else 9),
        textcoords="offset points",
        ha="right" if left else "left",
        va="top" if below else "bottom",
    )


def _threshold_line(axes: "Axes", threshold: float) -> None:
    axes.axvline(threshold, color=_INK, linewidth=1.2, linestyle=(0, (4, 3)))
    left = threshold > 0.7
    axes.annotate(
        f"threshold {threshold:.2f}",
        (threshold, 1),
        xycoords=("data", "axes fraction"),
        xytext=(-5 if left else 5, -2),
        textcoords="offset points",
        ha="right" if left else "left",
        va="top",
    )
    axes.set_xlim(-0.02, 1.02)


def _histogram(
    axes: "Axes", scores: Floats, colour: str, weights: NDArray[np.float64], label: str | None
) -> None:
    edges = np.linspace(0, 1, SCORE_BINS + 1).tolist()
    axes.hist(scores, edges, weights=weights, color=colour, alpha=0.22, label=label)
    axes.hist(scores, edges, weights=weights, color=colour, histtype="step", linewidth=1.6)
