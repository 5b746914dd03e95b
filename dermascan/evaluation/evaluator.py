"""All figures of a scored test set, put together."""

import numpy as np
import pandas as pd

from dermascan.evaluation.bootstrap import DEFAULT_RESAMPLES
from dermascan.evaluation.calibration import (
    before_temperature,
    brier_skill,
    calibration_figures,
)
from dermascan.evaluation.decision import (
    area_under_risk_coverage,
    coverage_points,
    decision_curve,
    operating_points,
)
from dermascan.evaluation.ranking import Ranking
from dermascan.evaluation.schema import (
    EVALUATION_VERSION,
    CalibrationFigures,
    ClassFigures,
    Evaluation,
    MalignantFigures,
    OperatingFigures,
)
from dermascan.evaluation.scored import (
    Scored,
    malignant_scores,
    read_scored,
    test_set_fingerprint,
    with_scores_of,
)
from dermascan.evaluation.slices import slice_groups, worst_slice
from dermascan.evaluation.statistic import mean_recall, rounded
from dermascan.taxonomy import LESION_CLASSES, Taxonomy

PARTIAL_AUC_SENSITIVITY = 0.8


def evaluate(  # noqa: PLR0913  # two arguments, and options that callers name
    table: pd.DataFrame,
    threshold: float,
    *,
    dataset: str | None = None,
    uncalibrated: pd.DataFrame | None = None,
    temperature: float = 1.0,
    validation: pd.DataFrame | None = None,
    taxonomy: Taxonomy | None = None,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
) -> Evaluation:
    """Compute all figures of a scored test set; equal arguments give equal results.

    Args:
        table: one row an image: `isic_id`, `lesion_id` (empty: the image is its own lesion),
            `lesion_class`, `p_akiec` to `p_vasc` (sum 1), `p_malignant`, all 0 to 1; slices
            are made of those that exist of `sex`, `age_approx` (years), `anatom_site_general`,
            `diagnosis_confirm_type`, `skin_tone` (text) and, where that is not known, `ita`
            (degrees, an estimate if it is from the image), `sharpness` and `brightness`.
        threshold: an image is called malignant if `p_malignant >= threshold`; fixed
            beforehand on other images.
        dataset: name of the dataset, for comparing with other evaluations.
        uncalibrated: the scores of the same images before calibration; by default `temperature`
            is undone, which is exact for one network that nothing else calibrates.
        temperature: that the scores were calibrated with, above 0.
        validation: `lesion_class` and `p_malignant` of validation images, scored by the same
            model; the thresholds of the operating points are chosen on them. Without, these
            points have no threshold.
        taxonomy: which classes are malignant, by default those of `Taxonomy()`.
        resamples: bootstrap resamples of lesions for the intervals.
        seed: of the bootstrap.

    Raises:
        InputError: a table, the threshold or the temperature is not as described.
    """
    malignant = taxonomy or Taxonomy()
    scored = read_scored(table, threshold, malignant, resamples, seed)
    if uncalibrated is None:
        before = before_temperature(table, temperature, malignant)
    else:
        before = with_scores_of(table, uncalibrated)
    scored_before = read_scored(before, threshold, malignant, resamples, seed)
    calibrated = calibration_figures(scored)
    figures = _malignant_figures(scored, calibrated)
    slices = slice_groups(table, scored)
    return Evaluation(
        version=EVALUATION_VERSION,
        dataset=dataset,
        test_set=test_set_fingerprint(table),
        threshold=threshold,
        temperature=temperature,
        images=len(table),
        lesions=scored.lesions,
        resamples=resamples,
        seed=seed,
        majority_rate=_majority_rate(scored),
        accuracy=scored.share(scored.truth == scored.predicted, scored.everything),
        balanced_accuracy=scored.estimate(mean_recall(scored.truth, scored.predicted)),
        malignant=figures,
        classes=_all_class_figures(scored),
        slices=slices,
        worst_slice=worst_slice(slices, figures.roc_auc.value),
        operating_points=_operating_points(scored, validation, malignant),
        calibrated=calibrated,
        uncalibrated=calibration_figures(scored_before),
        coverage=coverage_points(scored, threshold),
        area_under_risk_coverage=area_under_risk_coverage(scored, threshold),
        decision_curve=decision_curve(scored),
        confusion=_confusion(scored),
    )


def _majority_rate(scored: Scored) -> float | None:
    counts = np.bincount(scored.truth, minlength=len(LESION_CLASSES))
    return rounded(counts.max() / len(scored.truth)) if len(scored.truth) else None


def _malignant_figures(scored: Scored, calibrated: CalibrationFigures) -> MalignantFigures:
    positive, called = scored.positive, scored.called
    ranking = Ranking(positive, scored.score)
    prevalence = float(positive.mean()) if len(positive) else None
    return MalignantFigures(
        images=int(positive.sum()),
        prevalence=None if prevalence is None else rounded(prevalence),
        majority_rate=None if prevalence is None else rounded(max(prevalence, 1 - prevalence)),
        accuracy=scored.share(called == positive, scored.everything),
        roc_auc=scored.estimate(ranking.roc_auc),
        average_precision=scored.estimate(ranking.average_precision),
        partial_auc=scored.estimate(ranking.partial_auc_above(PARTIAL_AUC_SENSITIVITY)),
        sensitivity=scored.share(called, positive),
        specificity=scored.share(~called, ~positive),
        ppv=scored.share(positive, called),
        npv=scored.share(~positive, ~called),
        sensitivity_at_80_specificity=scored.estimate(ranking.sensitivity_at(0.8)),
        sensitivity_at_90_specificity=scored.estimate(ranking.sensitivity_at(0.9)),
        sensitivity_at_95_specificity=scored.estimate(ranking.sensitivity_at(0.95)),
        specificity_at_80_sensitivity=scored.estimate(ranking.specificity_at(0.8)),
        specificity_at_90_sensitivity=scored.estimate(ranking.specificity_at(0.9)),
        specificity_at_95_sensitivity=scored.estimate(ranking.specificity_at(0.95)),
        brier=calibrated.brier,
        brier_skill=scored.estimate(brier_skill(scored)),
        ece=calibrated.ece,
    )


def _operating_points(
    scored: Scored, validation: pd.DataFrame | None, taxonomy: Taxonomy
) -> tuple[OperatingFigures, ...]:
    chosen_on = None if validation is None else malignant_scores(validation, taxonomy)
    return operating_points(scored, chosen_on)


def _all_class_figures(scored: Scored) -> tuple[ClassFigures, ...]:
    return tuple(_class_figures(scored, index) for index in range(len(LESION_CLASSES)))


def _class_figures(scored: Scored, index: int) -> ClassFigures:
    of_class, answered = scored.truth == index, scored.predicted == index
    ranking = Ranking(of_class, scored.probabilities[:, index])
    return ClassFigures(
        name=LESION_CLASSES[index],
        images=int(of_class.sum()),
        roc_auc=scored.estimate(ranking.roc_auc),
        average_precision=scored.estimate(ranking.average_precision),
        recall=scored.share(answered, of_class),
        precision=scored.share(of_class, answered),
    )


def _confusion(scored: Scored) -> tuple[tuple[int, ...], ...]:
    size = len(LESION_CLASSES)
    counts = np.zeros((size, size), dtype=np.intp)
    np.add.at(counts, (scored.truth, scored.predicted), 1)
    return tuple(tuple(int(count) for count in row) for row in counts)
