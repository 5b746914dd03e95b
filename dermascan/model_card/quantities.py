"""The figures of an evaluation as tables and sentences of a model card."""

from dermascan.evaluation import Estimate, Evaluation
from dermascan.model_card import wording
from dermascan.model_card.document import Block, Facts, Paragraph, Table
from dermascan.reporting.page import decimal, interval, share
from dermascan.reporting.words import corruption_title, group_title
from dermascan.taxonomy import CLASS_NAMES

NOT_MEASURED = Paragraph("Not measured in this evaluation.")


def headline(evaluation: Evaluation) -> tuple[Block, ...]:
    """Return the figures that describe the model as a whole, beside what guessing would give."""
    risk = evaluation.malignant
    rows = (
        ("ROC AUC, malignant against benign", _figure(risk.roc_auc), "0.5"),
        ("Average precision, malignant", _figure(risk.average_precision), decimal(risk.prevalence)),
        ("Partial AUC above 80 % sensitivity", _figure(risk.partial_auc), "0.02 of 0.2"),
        ("Sensitivity at the threshold", _share(risk.sensitivity), ""),
        ("Specificity at the threshold", _share(risk.specificity), ""),
        ("PPV at this prevalence", _share(risk.ppv), share(risk.prevalence)),
        ("NPV at this prevalence", _share(risk.npv), _complement(risk.prevalence)),
        ("Accuracy, malignant or benign", _share(risk.accuracy), share(risk.majority_rate)),
        ("Sensitivity at 80 % specificity", _share(risk.sensitivity_at_80_specificity), "20.0 %"),
        ("Sensitivity at 90 % specificity", _share(risk.sensitivity_at_90_specificity), "10.0 %"),
        ("Sensitivity at 95 % specificity", _share(risk.sensitivity_at_95_specificity), "5.0 %"),
        ("Specificity at 80 % sensitivity", _share(risk.specificity_at_80_sensitivity), "20.0 %"),
        ("Specificity at 90 % sensitivity", _share(risk.specificity_at_90_sensitivity), "10.0 %"),
        ("Specificity at 95 % sensitivity", _share(risk.specificity_at_95_sensitivity), "5.0 %"),
        ("Balanced accuracy, seven classes", _share(evaluation.balanced_accuracy), "14.3 %"),
        ("Accuracy, seven classes", _share(evaluation.accuracy), share(evaluation.majority_rate)),
    )
    head = ("Figure", "Value (95 % interval)", "Guessing, or the commonest answer")
    return (Table("Figures on the test images", head, rows),)


def operating_points(evaluation: Evaluation) -> tuple[Block, ...]:
    """Return what thresholds fixed on validation images do on the test images."""
    if all(point.threshold is None for point in evaluation.operating_points):
        return (NOT_MEASURED,)
    rows = tuple(
        (
            f"{100 * point.level:.0f} % {point.target}",
            decimal(point.threshold),
            _share(point.sensitivity),
            _share(point.specificity),
        )
        for point in evaluation.operating_points
    )
    head = ("Target on validation", "Threshold", "Sensitivity on test", "Specificity on test")
    return (Table("Operating points", head, rows),)


def classes(evaluation: Evaluation) -> tuple[Block, ...]:
    """Return each class against the rest."""
    rows = tuple(
        (
            f"{each.name} ({CLASS_NAMES.get(each.name, each.name)})",
            f"{each.images:,}",
            _figure(each.roc_auc),
            _figure(each.average_precision),
            _share(each.recall),
            _share(each.precision),
        )
        for each in evaluation.classes
    )
    head = ("Class", "Images", "ROC AUC", "Average precision", "Recall", "Precision")
    return (Table("Each class against the rest", head, rows),)


def slices(evaluation: Evaluation) -> tuple[Block, ...]:
    """Return malignant against benign in every part of the test set, the worst one named."""
    worst, tables = evaluation.worst_slice, []
    for group in evaluation.slices:
        rows = tuple(
            (
                each.name,
                f"{each.images:,} ({each.malignant:,})",
                _figure(each.roc_auc),
                _share(each.sensitivity),
                _share(each.specificity),
                _share(each.balanced_accuracy),
            )
            for each in group.slices
        )
        if rows:
            columns = ("Images (malignant)", "ROC AUC", "Sensitivity", "Specificity")
            title = group_title(group.name)
            tables.append(Table(f"By {title}", (title, *columns, "Mean of both"), rows))
    if worst is None:
        text = "No slice has enough malignant and benign images to name a worst one."
    else:
        text = (
            f"The worst slice of those large enough is {group_title(worst.group)}: {worst.name}, "
            f"with a ROC AUC of {_figure(worst.roc_auc)} on {worst.images:,} images, "
            f"{worst.malignant:,} of them malignant; all images have "
            f"{decimal(evaluation.malignant.roc_auc.value)}. Intervals are not corrected for the "
            "number of slices."
        )
    return (Paragraph(text), *tables)


def calibration(evaluation: Evaluation) -> tuple[Block, ...]:
    """Return how far scores are from observed rates, before and after calibration."""
    before, after = evaluation.uncalibrated, evaluation.calibrated
    rows = (
        ("Calibration error (ECE, ten bins)", _figure(before.ece), _figure(after.ece)),
        ("Brier score, malignant", _figure(before.brier), _figure(after.brier)),
        (
            "Cross-entropy, seven classes",
            _figure(before.cross_entropy),
            _figure(after.cross_entropy),
        ),
        ("Brier skill over the prevalence", "", _figure(evaluation.malignant.brier_skill)),
    )
    text = (
        f"Fitted on validation images: the temperature, which is {evaluation.temperature:.3f}, and "
        "the slopes and offset of p_malignant that the model's details give."
    )
    head = ("Figure", "Before", "After")
    table = Table("Calibration on the test images", head, rows)
    return (Paragraph(text), Paragraph(wording.CALIBRATION), table)


def robustness(evaluation: Evaluation) -> tuple[Block, ...]:
    """Return the ROC AUC on corrupted images."""
    found = evaluation.robustness
    if found is None:
        return (NOT_MEASURED,)
    strengths = sorted({each.strength for each in found.corruptions})
    by_place = {(each.name, each.strength): each for each in found.corruptions}
    rows = tuple(
        (
            corruption_title(name),
            *(
                decimal(by_place[name, strength].roc_auc.value)
                if (name, strength) in by_place
                else decimal(None)
                for strength in strengths
            ),
        )
        for name in dict.fromkeys(each.name for each in found.corruptions)
    )
    text = (
        f"ROC AUC, malignant against benign, on {found.images:,} test images corrupted in "
        f"increasing strength. Mean loss at strength 3: {_figure(found.mean_auc_lost_at_3)}, "
        f"on {found.images_at_3:,} test images, {found.malignant_at_3:,} of them malignant."
    )
    head = ("Corruption", *(f"Strength {strength}" for strength in strengths))
    table = Table("ROC AUC on corrupted images", head, rows)
    return (Paragraph(text), Paragraph(wording.ROBUSTNESS), table)


def explanation(evaluation: Evaluation) -> tuple[Block, ...]:
    """Return whether class activation maps may be read as reasons."""
    found = evaluation.explanation
    if found is None:
        return (NOT_MEASURED,)
    verdict = {True: "passed", False: "failed", None: "not defined on these images"}
    pairs = (
        ("Images", f"{found.images:,}"),
        ("Rank correlation with maps of randomised weights (near 0 is right)",
         decimal(found.similarity_randomised)),
        ("Rank correlation with maps of mirrored images (near 1 is right)",
         decimal(found.similarity_repeated)),
        ("Check", verdict[found.passed]),
    )  # fmt: skip
    text = (
        "Class activation maps show where the network found its evidence. They are checked as "
        "Adebayo et al. (2018) propose: with randomised weights they must change."
    )
    return (Paragraph(text), Facts(pairs))


def efficiency(evaluation: Evaluation) -> tuple[Block, ...]:
    """Return size and speed."""
    found = evaluation.efficiency
    if found is None:
        return (NOT_MEASURED,)
    cores = f"{found.cores} {'core' if found.cores == 1 else 'cores'}"
    pairs = (
        ("Size of the exported files", f"{found.bytes / 1e6:.1f} MB"),
        ("One image at a time", f"{found.milliseconds_single:.1f} ms, median, {cores}"),
        ("In batches of 32", f"{found.milliseconds_per_image:.1f} ms an image, median, {cores}"),
    )
    return (Facts(pairs),)


def group_shares(evaluation: Evaluation, group: str) -> tuple[Block, ...]:
    """Return how the test images spread over the values of one property; nothing if unknown."""
    rows = tuple(
        (each.name, f"{each.images:,}", share(each.images / evaluation.images))
        for found in evaluation.slices
        if found.name == group
        for each in found.slices
    )
    head = (group_title(group), "Test images", "Share")
    return (Table(f"Test images by {group_title(group)}", head, rows),) if rows else ()


def _figure(estimate: Estimate) -> str:
    ends = interval(estimate)
    return f"{decimal(estimate.value)} ({ends})" if ends else decimal(estimate.value)


def _share(estimate: Estimate) -> str:
    ends = interval(estimate, is_share=True)
    return f"{share(estimate.value)} ({ends})" if ends else share(estimate.value)


def _complement(value: float | None) -> str:
    return share(None if value is None else 1 - value)
