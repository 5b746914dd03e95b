"""From what a model says of uploads to the results that clients get."""

import base64
from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from dermascan.evaluation.explanation import heat_layer, heatmap
from dermascan.inference.scoring import Examined
from dermascan.model.metadata import ModelMetadata
from dermascan.quality import ImageFacts, quality_warnings
from dermascan.serving.contract import Explanation, Quality, Result, Warned
from dermascan.serving.scoring import Scored


def results(
    examined: Sequence[Examined], scored: Scored | None, metadata: ModelMetadata
) -> Iterator[Result]:
    """Yield a result for each upload, in order.

    Args:
        examined: the uploads, with the names that the client gave them as keys.
        scored: one row for each that was not refused, in order; None if all were.
        metadata: of the model that scored them.
    """
    row = 0
    for each in examined:
        if each.facts is None or scored is None:
            reason = each.reason or "not scored"
            yield Result(filename=each.key, sha256=each.sha256, status="rejected", reason=reason)
        else:
            yield _scored_result(each, each.facts, scored, row, metadata)
            row += 1


def _scored_result(
    examined: Examined, facts: ImageFacts, scored: Scored, row: int, metadata: ModelMetadata
) -> Result:
    scores = scored.scores
    # In float32, as batch inference compares them.
    malignant = bool(scores.p_malignant[row : row + 1] >= metadata.threshold)
    probabilities = scores.probabilities[row]
    return Result(
        filename=examined.key,
        sha256=examined.sha256,
        status="ok",
        p_malignant=_share(scores.p_malignant[row]),
        label="malignant" if malignant else "benign",
        probabilities={
            name: _share(value) for name, value in zip(metadata.classes, probabilities, strict=True)
        },
        quality=_quality(facts),
        explanation=_explanation(scored, row, metadata),
    )


def _share(value: np.float32) -> float:
    """Return a probability, without what rounding put beyond 0 or 1."""
    return min(1.0, max(0.0, float(value)))


def _quality(facts: ImageFacts) -> Quality:
    return Quality(
        width=facts.width,
        height=facts.height,
        format=facts.format,
        sharpness=facts.sharpness,
        brightness=facts.brightness,
        clipped_fraction=facts.clipped_fraction,
        warnings=tuple(
            Warned(code=found.code, message=found.message) for found in quality_warnings(facts)
        ),
    )


def _explanation(scored: Scored, row: int, metadata: ModelMetadata) -> Explanation | None:
    if scored.activations is None:
        return None
    likeliest = int(scored.scores.probabilities[row].argmax())
    size = metadata.preprocessing.image_size
    layer = heat_layer(heatmap(scored.activations[row], likeliest, size))
    _, png = cv2.imencode(".png", cv2.cvtColor(layer, cv2.COLOR_RGBA2BGRA))
    return Explanation(
        png=base64.b64encode(png.tobytes()).decode(), image_class=metadata.classes[likeliest]
    )
