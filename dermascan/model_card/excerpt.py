"""What the card of a model says in a few lines, for reports on its predictions."""

from collections.abc import Iterator

from pydantic import ValidationError

from dermascan.evaluation import Estimate, Evaluation
from dermascan.model.metadata import ModelMetadata
from dermascan.model_card import wording
from dermascan.reporting.page import interval
from dermascan.reporting.predictions import ModelExcerpt


def model_excerpt(metadata: bytes, evaluation: bytes | None) -> ModelExcerpt | None:
    """Make an excerpt of the files of a model version.

    Args:
        metadata: its `metadata.json`.
        evaluation: its `evaluation.json`, None if it has none.

    Returns:
        None if another release of DermaScan wrote the metadata and they cannot be read.
    """
    try:
        described = ModelMetadata.model_validate_json(metadata)
    except ValidationError:
        return None
    facts = (*_training(described), *_results(evaluation))
    return ModelExcerpt(facts, (described.intended_use, *wording.OUT_OF_SCOPE))


def _training(metadata: ModelMetadata) -> Iterator[tuple[str, str]]:
    images = sum(metadata.class_counts.values())
    count = f", {images:,} images" if images else ""
    yield "Trained on", f"{metadata.dataset or 'a data set without a name'}{count}"
    yield "Malignant classes", ", ".join(metadata.malignant_classes)
    yield "Threshold", f"{metadata.threshold:.3f}: {metadata.threshold_choice}"


def _results(evaluation: bytes | None) -> Iterator[tuple[str, str]]:
    if evaluation is None:
        yield "Measured", "no evaluation was published with this version"
        return
    try:
        found = Evaluation.model_validate_json(evaluation)
    except ValidationError:
        yield "Measured", "by another release of DermaScan: see the version's evaluation.json"
        return
    figures = found.malignant
    yield "Measured on", f"{found.images:,} held-out images of {found.lesions:,} lesions"
    yield "ROC AUC", _estimate(figures.roc_auc)
    yield "Sensitivity at the threshold", _estimate(figures.sensitivity)
    yield "Specificity at the threshold", _estimate(figures.specificity)


def _estimate(estimate: Estimate) -> str:
    if estimate.value is None:
        return "n/a"
    ends = interval(estimate)
    return f"{estimate.value:.3f}" + (f" (95 % interval {ends})" if ends else "")
