"""How training went, epoch by epoch."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING

from dermascan.figures.canvas import BENIGN, INK, MALIGNANT, SERIES, draw_svg, legend_above

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class LearningCurve:
    """What one training did; the members of an ensemble have one each.

    Attributes:
        name: of the member, such as "seed 0".
        epochs: their numbers.
        losses: mean training loss of each epoch, None where there was no training step.
        val_losses: mean loss on validation of each epoch.
        val_aucs: ROC AUC, malignant against benign, on validation; None where undefined.
        chosen: the epoch whose weights were kept, None if that is not known.
    """

    name: str
    epochs: tuple[int, ...]
    losses: tuple[float | None, ...]
    val_losses: tuple[float | None, ...]
    val_aucs: tuple[float | None, ...]
    chosen: int | None = None


def learning_losses(curves: Sequence[LearningCurve]) -> str | None:
    """Draw training and validation loss by epoch.

    Returns:
        SVG text; None without a loss.
    """
    drawn = [(c, _defined(c.epochs, c.losses), _defined(c.epochs, c.val_losses)) for c in curves]
    if not any(train or val for _, train, val in drawn):
        return None

    def draw(axes: "Axes") -> None:
        for index, (_, train, val) in enumerate(drawn):
            first = index == 0
            axes.plot(
                *_columns(train), color=BENIGN, label="training" if first else None, linewidth=1.8
            )
            axes.plot(
                *_columns(val), color=MALIGNANT, label="validation" if first else None,
                linewidth=1.8,
            )  # fmt: skip
        axes.set(xlabel="epoch", ylabel="loss, nats")
        _whole_epochs(axes)
        legend_above(axes, 2)

    return draw_svg(draw, "Training and validation loss by epoch")


def learning_scores(curves: Sequence[LearningCurve]) -> str | None:
    """Draw the ROC AUC on validation by epoch, the epoch that was kept marked.

    Returns:
        SVG text; None without an AUC that is defined.
    """
    drawn = [(curve, _defined(curve.epochs, curve.val_aucs)) for curve in curves]
    drawn = [(curve, points) for curve, points in drawn if points]
    if not drawn:
        return None

    def draw(axes: "Axes") -> None:
        for (curve, points), colour in zip(drawn, cycle(SERIES), strict=False):
            axes.plot(*_columns(points), color=colour, linewidth=1.9, label=curve.name)
            kept = [point for point in points if point[0] == curve.chosen]
            axes.plot(*_columns(kept), color=INK, marker="o", markersize=7, linestyle="none")
        axes.set(xlabel="epoch", ylabel="ROC AUC on validation")
        _whole_epochs(axes)
        legend_above(axes, min(len(drawn), 4))

    return draw_svg(draw, "ROC AUC on validation by epoch")


def _defined(epochs: Sequence[int], values: Sequence[float | None]) -> list[tuple[int, float]]:
    pairs = zip(epochs, values, strict=True)
    return [(epoch, value) for epoch, value in pairs if value is not None]


def _columns(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [epoch for epoch, _ in points], [value for _, value in points]


def _whole_epochs(axes: "Axes") -> None:
    axes.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]  # MaxNLocator's
