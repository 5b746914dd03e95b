"""What people want to know about the version that answers."""

import math

from dermascan.evaluation import Evaluation
from dermascan.evaluation.lookup import figure
from dermascan.serving.champion import ServedModel
from dermascan.serving.contract import CurrentModel, LesionClass, PixelSize

_SAME_THRESHOLD = 1e-5  # scored once more for the evaluation, in other batches
_FIGURES = {
    "images": "images",
    "roc_auc": "malignant.roc_auc",
    "sensitivity": "malignant.sensitivity",
    "specificity": "malignant.specificity",
    "accuracy": "malignant.accuracy",
    "balanced_accuracy": "balanced_accuracy",
    "brier": "malignant.brier",
    "ece": "malignant.ece",
}


def described(served: ServedModel) -> CurrentModel:
    """Describe a version: where it comes from, what it tells apart, how good it is."""
    metadata, champion = served.metadata, served.champion
    size = metadata.preprocessing.image_size
    return CurrentModel(
        name=champion.model,
        version=champion.version,
        since=champion.since,
        published_by=champion.by,
        classes=tuple(
            LesionClass(
                code=code,
                name=metadata.class_names.get(code, code),
                malignant=code in metadata.malignant_classes,
            )
            for code in metadata.classes
        ),
        threshold=metadata.threshold,
        threshold_choice=metadata.threshold_choice,
        operating_specificity=_operating_specificity(served.evaluation, metadata.threshold),
        image_size=PixelSize(height=size.height, width=size.width),
        runtime=served.scorer.runtime,
        metrics=_figures(served.evaluation),
    )


def _figures(evaluation: Evaluation | None) -> dict[str, float] | None:
    if evaluation is None:
        return None
    values = {name: figure(evaluation, path) for name, path in _FIGURES.items()}
    return {name: value for name, value in values.items() if value is not None}


def _operating_specificity(evaluation: Evaluation | None, threshold: float) -> float | None:
    if evaluation is None:
        return None
    levels = (
        point.level
        for point in evaluation.operating_points
        if point.target == "specificity"
        and point.threshold is not None
        and math.isclose(point.threshold, threshold, abs_tol=_SAME_THRESHOLD)
    )
    return next(levels, None)
