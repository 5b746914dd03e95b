"""The report on one evaluation: all its figures, as pictures where a picture says more."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from dermascan import figures
from dermascan.errors import InputError
from dermascan.evaluation import (
    CorruptionFigures,
    Estimate,
    Evaluation,
    Robustness,
    test_set_fingerprint,
)
from dermascan.figures import LearningCurve
from dermascan.gate import ChampionComparison, GateResult, Outcome
from dermascan.reporting.gallery import GalleryItem, Wall, walls
from dermascan.reporting.headline import plain_words, tiles
from dermascan.reporting.page import ReportContext, render
from dermascan.reporting.words import corruption_title, group_title
from dermascan.taxonomy import LESION_CLASSES, Taxonomy

_SMALLEST_DIFFERENCE_AXIS = 0.02
_LATEST_TENTH = 9  # axes of shares begin at 0.9 at the latest
_MIX_UPS = 10


@dataclass(frozen=True)
class _Chart:
    """A figure with its caption; `svg` None where there is nothing to draw."""

    title: str
    caption: str
    svg: str | None


@dataclass(frozen=True)
class _MixUp:
    """Images of one class taken for another; `share` of those of the class, 0 to 1."""

    truth: str
    answer: str
    images: int
    share: float
    is_crossed: bool


@dataclass(frozen=True)
class _Grid:
    """ROC AUC by corruption (rows) and strength (columns), with what is lost by each."""

    strengths: tuple[int, ...]
    rows: tuple[tuple[str, tuple[CorruptionFigures | None, ...]], ...]
    clean: float | None


@dataclass(frozen=True)
class _Difference:
    """A figure of this model less that of the champion."""

    name: str
    estimate: Estimate


def evaluation_report(  # noqa: PLR0913  # four subjects, and options that callers name
    evaluation: Evaluation,
    table: pd.DataFrame,
    gate: GateResult | None,
    context: ReportContext,
    *,
    taxonomy: Taxonomy | None = None,
    gallery: Sequence[GalleryItem] = (),
    comparison: ChampionComparison | None = None,
    history: Sequence[LearningCurve] = (),
) -> str:
    """Render an evaluation for people.

    Args:
        evaluation: what `evaluate` made of `table`.
        table: the scored test set, as `evaluate` takes it.
        gate: the gate's verdict, None if it was not asked.
        context: title and provenance.
        taxonomy: which classes are malignant, as given to `evaluate`.
        gallery: images to show, best those of `choose_gallery`.
        comparison: with the champion on the same images, None if there was none.
        history: how training went, one curve for each member of an ensemble.

    Returns:
        A complete HTML document, below 3 MB with small pictures.

    Raises:
        InputError: the evaluation is of other images than the table.
    """
    if evaluation.test_set != test_set_fingerprint(table):
        raise InputError("the evaluation is of other images than the table: evaluate the table")
    malignant = (taxonomy or Taxonomy()).malignant
    pictures = walls(gallery, evaluation.threshold, malignant)
    learning = _learning_charts(history)
    return render(
        "evaluation.html.j2",
        context=context,
        evaluation=evaluation,
        gate=gate,
        unmet=[r.name for r in gate.results if r.outcome is Outcome.FAILED] if gate else [],
        contents=_contents(pictures, gate, comparison, learning),
        mix_ups=_mix_ups(evaluation, malignant),
        sentences=plain_words(evaluation),
        tiles=tiles(evaluation),
        discrimination=_discrimination_charts(evaluation, table, malignant),
        calibration=_calibration_charts(evaluation),
        decisions=_decision_charts(evaluation),
        grid=_grid(evaluation.robustness),
        corruption_chart=_corruption_chart(evaluation.robustness),
        learning=learning,
        walls=pictures,
        group_title=group_title,
        malignant_classes=malignant,
        axes=_slice_axes(evaluation),
        differences=_differences(comparison),
        difference_axis=_difference_axis(comparison),
        comparison=comparison,
    )


def _contents(
    pictures: Sequence[Wall],
    gate: GateResult | None,
    comparison: ChampionComparison | None,
    learning: Sequence[_Chart],
) -> list[tuple[str, str]]:
    """Return anchor and name of every section that the page has."""
    sections = (
        ("discrimination", "Malignant against benign", True),
        ("classes", "Seven classes", True),
        ("calibration", "Calibration", True),
        ("slices", "Slices", True),
        ("decisions", "Decisions", True),
        ("robustness", "Robustness", True),
        ("explanation", "Explanations", True),
        ("gallery", "Images", bool(pictures)),
        ("comparison", "Champion", comparison is not None),
        ("gate", "Gate", gate is not None),
        ("learning", "Training", bool(learning)),
        ("efficiency", "Cost", True),
        ("method", "Method", True),
    )
    return [(anchor, name) for anchor, name, present in sections if present]


def _discrimination_charts(
    evaluation: Evaluation, table: pd.DataFrame, malignant: tuple[str, ...]
) -> list[_Chart]:
    positive = table["lesion_class"].isin(malignant).to_numpy(dtype=bool)
    scores, threshold = table["p_malignant"].to_numpy(dtype=float), evaluation.threshold
    return [
        _Chart(
            "Sensitivity against false alarms",
            "ROC curve, its upper left corner enlarged. The dot is the threshold in use; numbered "
            "rings are those of the table below, with 95 % intervals. The dotted line is chance.",
            figures.roc(positive, scores, threshold, evaluation.operating_points),
        ),
        _Chart(
            "Precision against recall",
            "How many alarms are right, as more malignant lesions are found. "
            "The dotted line is the prevalence.",
            figures.precision_recall(positive, scores, threshold),
        ),
        _Chart(
            "Scores",
            "The less the two overlap, the better they are told apart.",
            figures.score_distribution(positive, scores, threshold),
        ),
    ]


def _calibration_charts(evaluation: Evaluation) -> list[_Chart]:
    return [
        _Chart(title, caption, figures.reliability(calibration.reliability, title.lower()))
        for title, caption, calibration in (
            (
                "Before calibration",
                "The network's own scores, temperature 1.",
                evaluation.uncalibrated,
            ),
            (
                "After calibration",
                (
                    "The model's scores. Fitted on validation images: temperature "
                    f"{evaluation.temperature:.3f}, slopes and offset of the score's log-odds."
                ),
                evaluation.calibrated,
            ),
        )
    ]


def _decision_charts(evaluation: Evaluation) -> list[_Chart]:
    return [
        _Chart(
            "Leaving doubtful images to a person",
            "Errors among the images that the model decides, when it abstains from those whose "
            "score is nearest to the threshold.",
            figures.risk_coverage(evaluation.coverage),
        ),
        _Chart(
            "Is acting on the score of use?",
            "Net benefit: malignant lesions treated, less benign ones treated, weighed by the "
            "odds of the threshold probability. Of use where above both treating all and none.",
            figures.decision_curve(evaluation.decision_curve),
        ),
    ]


def _corruption_chart(robustness: Robustness | None) -> _Chart:
    svg = None
    if robustness is not None:
        named = [
            each.model_copy(update={"name": corruption_title(each.name)})
            for each in robustness.corruptions
        ]
        svg = figures.corruption_lines(named, _clean_auc(robustness))
    return _Chart(
        "ROC AUC by strength of the corruption",
        "Each line is one corruption; strength 0 is the same images as they were.",
        svg,
    )


def _clean_auc(robustness: Robustness) -> float | None:
    """Return the ROC AUC of the uncorrupted images, which the figures hold as a difference."""
    sums = (
        each.roc_auc.value + each.auc_lost
        for each in robustness.corruptions
        if each.roc_auc.value is not None and each.auc_lost is not None
    )
    return next(sums, None)


def _grid(robustness: Robustness | None) -> _Grid | None:
    if robustness is None:
        return None
    found = {(each.name, each.strength): each for each in robustness.corruptions}
    strengths = tuple(sorted({strength for _, strength in found}))
    names = dict.fromkeys(name for name, _ in found)
    rows = tuple(
        (corruption_title(name), tuple(found.get((name, strength)) for strength in strengths))
        for name in names
    )
    return _Grid(strengths, rows, _clean_auc(robustness))


def _learning_charts(history: Sequence[LearningCurve]) -> list[_Chart]:
    charts = [
        _Chart(
            "Loss",
            "Training loss has augmentation, smoothing and class weights, if any, in it, which "
            "validation loss has not: compare their courses, not their heights.",
            figures.learning_losses(history),
        ),
        _Chart(
            "Separation on validation",
            "ROC AUC, malignant against benign, of the validation images that a network is judged "
            "by, which it does not learn from. The dot is the epoch that was kept.",
            figures.learning_scores(history),
        ),
    ]
    return [chart for chart in charts if chart.svg is not None]


def _slice_axes(evaluation: Evaluation) -> dict[str, tuple[float, ...]]:
    """Return the ticks of the forest plot's columns by figure."""
    slices = [each for group in evaluation.slices for each in group.slices]
    risk = evaluation.malignant
    return {
        "roc_auc": _ticks([risk.roc_auc, *(each.roc_auc for each in slices)]),
        "sensitivity": _ticks([risk.sensitivity, *(each.sensitivity for each in slices)]),
        "specificity": _ticks([risk.specificity, *(each.specificity for each in slices)]),
    }


def _ticks(estimates: Sequence[Estimate]) -> tuple[float, float, float]:
    """Begin an axis that ends at 1 with the tenth below everything that it must show."""
    ends = [end for each in estimates for end in (each.low, each.value) if end is not None]
    start = max(0, min([_LATEST_TENTH, *(math.floor(10 * end) for end in ends)])) / 10
    return start, (start + 1) / 2, 1.0


def _mix_ups(evaluation: Evaluation, malignant: tuple[str, ...]) -> list[_MixUp]:
    """Return the commonest confusions of two classes, the most images first."""
    found = [
        _MixUp(
            truth=truth,
            answer=answer,
            images=images,
            share=images / sum(row),
            is_crossed=(truth in malignant) != (answer in malignant),
        )
        for truth, row in zip(LESION_CLASSES, evaluation.confusion, strict=True)
        for answer, images in zip(LESION_CLASSES, row, strict=True)
        if images and truth != answer
    ]
    return sorted(found, key=lambda each: -each.images)[:_MIX_UPS]


def _differences(comparison: ChampionComparison | None) -> list[_Difference]:
    if comparison is None:
        return []
    risk = comparison.malignant
    matched = risk.sensitivity_at_90_specificity_difference
    return [
        _Difference("ROC AUC", risk.difference),
        _Difference("ROC AUC, melanoma against the rest", comparison.melanoma.difference),
        _Difference("Sensitivity at 90 % specificity", matched),
        _Difference("Sensitivity, each at its own threshold", risk.sensitivity_difference),
        _Difference("Specificity, each at its own threshold", risk.specificity_difference),
        _Difference("Balanced accuracy, seven classes", risk.balanced_accuracy_difference),
    ]


def _difference_axis(comparison: ChampionComparison | None) -> float:
    """Return how far from 0 the axis of differences reaches on either side."""
    ends = [
        abs(end)
        for each in _differences(comparison)
        for end in (each.estimate.low, each.estimate.value, each.estimate.high)
        if end is not None
    ]
    return math.ceil(100 * max([_SMALLEST_DIFFERENCE_AXIS, *ends])) / 100
