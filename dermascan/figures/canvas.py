"""One set of axes, drawn by matplotlib, as SVG for a page that brings its own colours."""

import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from dermascan.evaluation import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_POINTS = 400
WIDTH_INCHES, HEIGHT_INCHES = 4.9, 4.1

# Drawn in these colours, then replaced by the page's CSS variables.
INK, MUTED, LINE = "#010101", "#020202", "#030303"
MALIGNANT, BENIGN, SURFACE = "#040404", "#050505", "#060606"
SERIES = ("#010102", "#010103", "#010104", "#010105", "#010106", "#010201", "#010202", "#010203")
_CSS_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    MALIGNANT: "var(--malignant)",
    BENIGN: "var(--benign)",
    SURFACE: "var(--surface)",
} | {colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, start=1)}
# As `base.html.j2` has them for light pages.
_PAPER = {
    "ink": "#15202c", "muted": "#56657a", "line": "#dbe1e9", "surface": "#ffffff",
    "malignant": "#bf4514", "benign": "#1f5fa8",
    "series-1": "#1f5fa8", "series-2": "#bf4514", "series-3": "#1b7048", "series-4": "#8a3f9e",
    "series-5": "#8a6a00", "series-6": "#0f7a8a", "series-7": "#a8326b", "series-8": "#56657a",
}  # fmt: skip
DOTTED = (0, (2, 3))
DASHED = (0, (4, 3))
_FONT = "DejaVu Sans"
_STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": [_FONT],
    "font.size": 10.5,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 1.0,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "legend.frameon": False,
    "lines.solid_capstyle": "round",
}


def draw_svg(draw: Callable[["Axes"], None], label: str) -> str:
    """Let `draw` fill a pair of axes, in the colours above, and return them as SVG.

    Args:
        draw: does the drawing.
        label: what the figure shows, for those who cannot see it; one page has each label once.
    """
    import matplotlib as mpl  # noqa: PLC0415  # slow, and only reports need it
    from matplotlib.figure import Figure  # noqa: PLC0415  # likewise

    with mpl.rc_context(cast("Any", _STYLE | {"svg.hashsalt": label})):
        figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.subplots()
        axes.patch.set_alpha(0)
        axes.tick_params(length=0)
        draw(axes)
        return _inline(figure, label)


def standalone(svg: str) -> str:
    """Return a figure as a file of its own, which brings the colours that its page would.

    Args:
        svg: from `draw_svg`.
    """
    colours = "".join(f"--{name}:{colour};" for name, colour in _PAPER.items())
    style = f"<style>:root{{{colours}background:#ffffff}}</style>"
    head, end, rest = svg.partition(">")
    return f"{head}{end}{style}{rest}"


def corners(first: Floats, second: Floats) -> tuple[Floats, Floats]:
    """Drop points of a curve that lie on a line between others, and thin out what is left."""
    turns = np.ones(len(first), dtype=bool)
    steps = np.diff(first), np.diff(second)
    turns[1:-1] = np.abs(steps[0][:-1] * steps[1][1:] - steps[0][1:] * steps[1][:-1]) > 1e-12
    kept = np.flatnonzero(turns)
    if len(kept) > MAX_POINTS:
        kept = kept[np.linspace(0, len(kept) - 1, MAX_POINTS).round().astype(int)]
    return first[kept], second[kept]


def unit_square(axes: "Axes") -> None:
    """Let both axes run from 0 to 1."""
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    ticks = [0, 0.25, 0.5, 0.75, 1]
    labels = ["0", "0.25", "0.5", "0.75", "1"]
    axes.set_xticks(ticks, labels)
    axes.set_yticks(ticks, labels)


def diagonal(axes: "Axes") -> None:
    """Draw the line on which both axes are equal."""
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=DOTTED)


def dot(axes: "Axes", point: tuple[float, float]) -> None:
    """Put a dot on a curve."""
    axes.plot(*point, marker="o", markersize=9, color=INK, markeredgecolor=SURFACE, zorder=5)


def mark(axes: "Axes", point: tuple[float, float], text: str) -> None:
    """Put a named dot on a curve, its name below."""
    dot(axes, point)
    left = point[0] > 0.6
    axes.annotate(
        text,
        point,
        xytext=(-9 if left else 9, -9),
        textcoords="offset points",
        ha="right" if left else "left",
        va="top",
    )


def threshold_line(axes: "Axes", threshold: float) -> None:
    """Draw where malignant begins on a horizontal axis of scores, 0 to 1."""
    axes.axvline(threshold, color=INK, linewidth=1.2, linestyle=DASHED)
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


def legend_above(axes: "Axes", columns: int) -> None:
    """Put the legend over the axes, where it hides nothing."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 1),
        ncols=columns,
        handlelength=1.4,
        columnspacing=1.2,
        borderaxespad=0.2,
    )


def spread_apart(values: Sequence[float], gap: float) -> list[float]:
    """Move values as little as their order allows until they are `gap` or more apart.

    Labels at the ends of lines that nearly meet stay legible so.
    """
    order = np.argsort(values, kind="stable")
    offsets = gap * np.arange(len(values))
    # Isotonic regression of the values less their offsets, by pooling adjacent violators.
    pools: list[tuple[float, int]] = []
    for value in np.asarray(values, dtype=float)[order] - offsets:
        pools.append((float(value), 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (above, many), (below, more) = pools.pop(), pools.pop()
            pools.append(((above * many + below * more) / (many + more), many + more))
    level = np.repeat([value for value, _ in pools], [count for _, count in pools])
    moved = np.empty(len(values))
    moved[order] = level + offsets
    return [float(value) for value in moved]


def _inline(figure: "Figure", label: str) -> str:
    """Turn a figure into SVG that stands in a page: no prolog, colours from CSS variables."""
    sink = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(sink, format="svg", metadata=nothing)
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
