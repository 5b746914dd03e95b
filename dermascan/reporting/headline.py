"""What matters most of an evaluation: in tiles, and in words."""

from collections.abc import Iterator
from dataclasses import dataclass

from dermascan.evaluation import Estimate, Evaluation
from dermascan.reporting.page import decimal, interval, share
from dermascan.reporting.words import group_title


@dataclass(frozen=True)
class Tile:
    """A headline figure, 0 to `most`; shares are shown in per cent."""

    name: str
    estimate: Estimate
    note: str
    is_share: bool = True
    most: float = 1.0


@dataclass(frozen=True)
class Tiles:
    """Tiles that share a heading."""

    title: str
    tiles: tuple[Tile, ...]


def tiles(evaluation: Evaluation) -> tuple[Tiles, ...]:
    """Return the headline figures in groups."""
    return (
        Tiles("Malignant against benign, whatever the threshold", _ranking_tiles(evaluation)),
        Tiles(
            f"Malignant against benign at the threshold {evaluation.threshold:.3f}",
            _decision_tiles(evaluation),
        ),
        Tiles("Seven classes", _class_tiles(evaluation)),
        Tiles("Can the scores be trusted?", _trust_tiles(evaluation)),
    )


def plain_words(evaluation: Evaluation) -> tuple[str, ...]:
    """Say the essentials in sentences; what is not defined is left out."""
    makers = (_found, _left_alone, _ranked, _calibrated, _weakest, _corrupted)
    return tuple(sentence for make in makers for sentence in make(evaluation))


def _ranking_tiles(evaluation: Evaluation) -> tuple[Tile, ...]:
    risk = evaluation.malignant
    return (
        Tile("ROC AUC", risk.roc_auc, "chance is 0.5", is_share=False),
        Tile(
            "Average precision",
            risk.average_precision,
            f"chance is {decimal(risk.prevalence)}, the prevalence",
            is_share=False,
        ),
        Tile(
            "Sensitivity at 90 % specificity",
            risk.sensitivity_at_90_specificity,
            "best threshold on this test set",
        ),
        Tile(
            "Partial AUC",
            risk.partial_auc,
            "area above 80 % sensitivity: 0.2 is perfect, chance is 0.02",
            is_share=False,
            most=0.2,
        ),
    )


def _decision_tiles(evaluation: Evaluation) -> tuple[Tile, ...]:
    risk = evaluation.malignant
    majority = f"always the commoner answer: {share(risk.majority_rate)}"
    return (
        Tile("Accuracy", risk.accuracy, majority),
        Tile("Sensitivity", risk.sensitivity, "malignant images found"),
        Tile("Specificity", risk.specificity, "benign images left alone"),
        Tile("PPV", risk.ppv, "malignant among those called so, at this prevalence"),
        Tile("NPV", risk.npv, "benign among those called so, at this prevalence"),
    )


def _class_tiles(evaluation: Evaluation) -> tuple[Tile, ...]:
    melanoma = next((each for each in evaluation.classes if each.name == "mel"), None)
    majority = f"always the commonest class: {share(evaluation.majority_rate)}"
    return (
        Tile("Balanced accuracy", evaluation.balanced_accuracy, "mean recall of the classes"),
        Tile("Accuracy", evaluation.accuracy, majority),
        Tile(
            "Melanoma against the rest",
            melanoma.roc_auc if melanoma else Estimate(),
            "ROC AUC",
            is_share=False,
        ),
    )


def _trust_tiles(evaluation: Evaluation) -> tuple[Tile, ...]:
    risk, robustness, worst = evaluation.malignant, evaluation.robustness, evaluation.worst_slice
    lost = robustness.mean_auc_lost_at_3 if robustness else Estimate()
    where = f"{group_title(worst.group)}: {worst.name}" if worst else "no slice is large enough"
    return (
        Tile("Calibration error", risk.ece, "ECE over ten bins; 0 is perfect", is_share=False),
        Tile("Brier score", risk.brier, "mean squared error; 0 is perfect", is_share=False),
        Tile("Worst slice, ROC AUC", worst.roc_auc if worst else Estimate(), where, is_share=False),
        Tile(
            "AUC lost to corruption",
            lost,
            "mean at strength 3 of 5" if robustness else "not measured",
            is_share=False,
        ),
    )


def _found(evaluation: Evaluation) -> Iterator[str]:
    sensitivity = evaluation.malignant.sensitivity
    if sensitivity.value is not None:
        yield (
            f"At its threshold, which was fixed on other images, the model finds "
            f"{_of_hundred(sensitivity)} of 100 malignant images and misses the others."
        )


def _left_alone(evaluation: Evaluation) -> Iterator[str]:
    specificity = evaluation.malignant.specificity
    if specificity.value is not None:
        yield (
            f"Of 100 benign images it leaves {_of_hundred(specificity)} alone; the others are "
            "false alarms."
        )


def _ranked(evaluation: Evaluation) -> Iterator[str]:
    auc = evaluation.malignant.roc_auc
    if auc.value is not None:
        yield (
            f"Of a malignant and a benign image it scores the malignant one higher in "
            f"{_of_hundred(auc)} of 100 pairs."
        )


def _calibrated(evaluation: Evaluation) -> Iterator[str]:
    ece = evaluation.calibrated.ece.value
    if ece is not None:
        yield (
            f"Its scores differ from the observed share of malignant images by "
            f"{100 * ece:.1f} percentage points on average."
        )


def _weakest(evaluation: Evaluation) -> Iterator[str]:
    worst = evaluation.worst_slice
    if worst is not None:
        yield (
            f"It is weakest where “{group_title(worst.group)}” is “{worst.name}”: ROC AUC "
            f"{_with_interval(worst.roc_auc)} on {worst.images:,} images, {worst.malignant:,} "
            f"of them malignant, {_below(worst.loss)} that of all images."
        )


def _below(loss: float) -> str:
    """Put a loss in words; only the slices large enough are compared, and all may be above."""
    shown = decimal(abs(loss))
    if shown == decimal(0.0):
        return "the same as"
    return f"{shown} {'below' if loss > 0 else 'above'}"


def _corrupted(evaluation: Evaluation) -> Iterator[str]:
    robustness = evaluation.robustness
    if robustness is not None and robustness.mean_auc_lost_at_3.value is not None:
        yield (
            f"Corruptions such as blur or noise of medium strength cost it "
            f"{_with_interval(robustness.mean_auc_lost_at_3)} of ROC AUC on average."
        )


def _of_hundred(estimate: Estimate) -> str:
    value = 0.0 if estimate.value is None else estimate.value
    if estimate.low is None or estimate.high is None:
        return f"{100 * value:.0f}"
    return (
        f"{100 * value:.0f} (95 % interval {100 * estimate.low:.0f} to {100 * estimate.high:.0f})"
    )


def _with_interval(estimate: Estimate) -> str:
    ends = interval(estimate)
    return f"{decimal(estimate.value)} ({ends})" if ends else decimal(estimate.value)
