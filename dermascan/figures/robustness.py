"""What is left of the separation on spoilt images."""

from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING

from dermascan.evaluation import CorruptionFigures
from dermascan.figures.canvas import DASHED, MUTED, SERIES, SURFACE, draw_svg, spread_apart

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = "os^Dvp<>"
_LABEL_GAP = 0.052  # of the height of the axes


def corruption_lines(figures: Sequence[CorruptionFigures], clean: float | None) -> str | None:
    """Draw ROC AUC against the strength of each corruption, beginning with the clean images.

    Args:
        figures: in any order.
        clean: ROC AUC of the same images as they were, drawn as a dashed line; None if undefined.

    Returns:
        SVG text; None without an AUC that is defined.
    """
    lines = _lines(figures, clean)
    if not lines:
        return None
    values = [value for _, _, line in lines for value in line] + ([clean] if clean else [])
    low, high = min(values), max(values)
    margin = max(0.06 * (high - low), 0.005)

    def draw(axes: "Axes") -> None:
        if clean is not None:
            axes.axhline(clean, color=MUTED, linewidth=1, linestyle=DASHED)
        gap = _LABEL_GAP * (high - low + 2 * margin)
        places = spread_apart([line[-1] for _, _, line in lines], gap)
        styles = zip(lines, places, cycle(SERIES), cycle(_MARKERS), strict=False)
        for (name, strengths, line), place, colour, marker in styles:
            axes.plot(
                strengths, line, color=colour, marker=marker, markersize=5.5,
                markeredgecolor=SURFACE, linewidth=1.9,
            )  # fmt: skip
            axes.text(strengths[-1] + 0.14, place, name, color=colour, va="center", fontsize=9.5)
        axes.set(xlabel="strength (0: clean)", ylabel="ROC AUC, malignant")
        last = max(strengths[-1] for _, strengths, _ in lines)
        longest = max(len(name) for name, _, _ in lines)
        axes.set(xlim=(-0.15, last + 0.3 + 0.12 * longest), ylim=(low - margin, high + margin))
        axes.set_xticks(range(last + 1))

    return draw_svg(draw, "ROC AUC against strength for each corruption")


def _lines(
    figures: Sequence[CorruptionFigures], clean: float | None
) -> list[tuple[str, list[int], list[float]]]:
    """Return name, strengths and AUCs of each corruption that has any."""
    lines = []
    for name in dict.fromkeys(each.name for each in figures):
        found = {
            each.strength: each.roc_auc.value
            for each in figures
            if each.name == name and each.roc_auc.value is not None
        }
        if found:
            points = sorted(({0: clean} if clean is not None else {}) | found)
            values = found if clean is None else {0: clean} | found
            lines.append((name, points, [values[point] for point in points]))
    return lines
