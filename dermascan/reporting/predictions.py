"""The report on a batch of predictions: what was scored, what was rejected, highest risk first."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import cast

import pandas as pd

from dermascan import figures
from dermascan.drift.comparison import LARGE, Drift
from dermascan.drift.wording import ASPECT_NAMES, TITLES, advice, what_moved
from dermascan.inference.digest import BatchDigest, warning_codes
from dermascan.inference.pictures import Picture
from dermascan.layout import image_anchor
from dermascan.quality import WARNINGS
from dermascan.reporting.page import ReportContext, jpeg_uri, render
from dermascan.scores import class_shares, likeliest_classes
from dermascan.taxonomy import CLASS_NAMES

GALLERY_LIMIT = 200
PICTURE_BYTES_LIMIT = 2 * 1024 * 1024
SHOWN_NAME_LENGTH = 96
NO_REFERENCE = (
    "Not known: this model version was published without a sample of its test images, or "
    "with one too small to compare with, or none of these images was scored."
)


@dataclass(frozen=True)
class ModelExcerpt:
    """The model card in a few lines.

    Attributes:
        facts: pairs of name and value.
        cautions: what the model is for, and what it is not for.
    """

    facts: tuple[tuple[str, str], ...]
    cautions: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class BatchReport:
    """What a report on a batch is made of.

    Attributes:
        predictions: digest of the batch.
        context: title and provenance.
        pictures: by `image_key`, best of those of highest risk; images without one are shown
            without, as are all once `PICTURE_BYTES_LIMIT` is used up.
        made: when (UTC), None to leave it out.
        drift: how far the batch lies from the training data, None if that is not known.
        drift_unknown: why it is not.
        model: excerpt of the model card, None if there is none.
    """

    predictions: BatchDigest
    context: ReportContext
    pictures: Mapping[str, Picture] = field(default_factory=dict)
    made: datetime | None = None
    drift: Drift | None = None
    drift_unknown: str = NO_REFERENCE
    model: ModelExcerpt | None = None


@dataclass(frozen=True)
class _Row:
    """A scored image as gallery and table show it; risk, threshold and share 0 to 1."""

    number: int
    anchor: str
    key: str
    name: str
    risk: float
    threshold: float
    label: str
    likeliest: str
    likeliest_share: float
    warnings: tuple[str, ...]
    picture: str | None
    overlay: str | None


@dataclass(frozen=True)
class _Bar:
    """One bar of a small chart; `length` relative to the longest."""

    name: str
    detail: str
    images: int
    length: float


@dataclass(frozen=True)
class _Aspect:
    """One line of the comparison with the training data; `position` on a scale to 1."""

    name: str
    verdict: str
    difference: float
    position: float
    moved: str


def predictions_report(report: BatchReport) -> str:
    """Render the predictions of one run for people, in a few MiB however many there are.

    Returns:
        A complete HTML document.
    """
    predictions = report.predictions
    rows = _rows(predictions.shown, report.pictures)
    return render(
        "predictions.html.j2",
        context=report.context,
        made=report.made,
        images=predictions.images,
        scored=predictions.scored,
        malignant=predictions.malignant,
        rejected=predictions.rejected,
        thresholds=_listed(predictions.thresholds),
        model_versions=_listed(predictions.model_versions),
        chart=_risk_chart(predictions),
        classes=_bars(predictions.likeliest, dict(CLASS_NAMES)),
        reasons=_bars(predictions.reasons, {}),
        warned=predictions.warned if predictions.measured else None,
        warning_bars=_bars(predictions.warnings, dict(WARNINGS)),
        **_drift(report),
        model=report.model,
        gallery=rows[:GALLERY_LIMIT],
        rows=rows,
        rejections=[
            (image_anchor(str(row["image_key"])), *_texts(row, "image_key", "reason"))
            for row in _records(predictions.refused)
        ],
    )


def _texts(row: Mapping[str, object], *columns: str) -> Iterator[str]:
    return (_short(str(row[column])) for column in columns)


def _drift(report: BatchReport) -> dict[str, object]:
    drift = report.drift
    if drift is None:
        return {"drift": None, "drift_unknown": report.drift_unknown}
    aspects = [
        _Aspect(
            ASPECT_NAMES[aspect.name],
            aspect.verdict,
            max(aspect.difference, 0.0),
            max(aspect.difference, 0.0) / (4 * LARGE),
            what_moved(aspect),
        )
        for aspect in drift.aspects
    ]
    return {
        "drift": drift,
        "drift_title": TITLES[drift.verdict],
        "drift_advice": advice(drift),
        "aspects": aspects,
    }


def _records(table: pd.DataFrame) -> list[dict[str, object]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _rows(shown: pd.DataFrame, pictures: Mapping[str, Picture]) -> list[_Row]:
    keys = [str(key) for key in shown["image_key"].head(GALLERY_LIMIT)]
    encoded = _data_uris([pictures.get(key) for key in keys])
    shown = shown.assign(
        likeliest=likeliest_classes(shown), likeliest_share=class_shares(shown).max(axis=1)
    )
    return [
        _row(number, row, encoded.get(number, (None, None)))
        for number, row in enumerate(_records(shown), start=1)
    ]


def _row(number: int, row: Mapping[str, object], shown: tuple[str | None, str | None]) -> _Row:
    key = str(row["image_key"])
    return _Row(
        number=number,
        anchor=image_anchor(key),
        key=_short(key),
        name=_short(key.rsplit("/", 1)[-1] or key),
        risk=_float(row, "p_malignant"),
        threshold=_float(row, "threshold"),
        label=str(row["label"]),
        likeliest=str(row["likeliest"]),
        likeliest_share=_float(row, "likeliest_share"),
        warnings=warning_codes(row.get("warnings")),
        picture=shown[0],
        overlay=shown[1],
    )


def _float(row: Mapping[str, object], column: str) -> float:
    return cast("float", row[column])


def _data_uris(
    pictures: Iterable[Picture | None],
) -> dict[int, tuple[str | None, str | None]]:
    """Encode pictures by their number, from 1, until they exceed what a report may weigh."""
    encoded: dict[int, tuple[str | None, str | None]] = {}
    left = PICTURE_BYTES_LIMIT
    for number, picture in enumerate(pictures, start=1):
        if picture is None:
            continue
        left -= len(picture.jpeg) + len(picture.overlay or b"")
        if left < 0:
            break
        overlay = picture.overlay and jpeg_uri(picture.overlay)
        encoded[number] = (jpeg_uri(picture.jpeg), overlay or None)
    return encoded


def _risk_chart(predictions: BatchDigest) -> str | None:
    if not predictions.scored:
        return None
    return figures.risk_distribution(predictions.risks, float(predictions.thresholds[0]))


def _bars(counts: Mapping[str, int], details: Mapping[str, str]) -> list[_Bar]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [
        _Bar(_short(name), details.get(name, ""), count, count / ordered[0][1])
        for name, count in ordered
    ]


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" if value % 1 else f"{value:.0f}" for value in values)


def _short(name: str) -> str:
    """Cut a name in the middle so that hostile keys cannot blow up the page."""
    if len(name) <= SHOWN_NAME_LENGTH:
        return name
    half = SHOWN_NAME_LENGTH // 2
    return f"{name[:half]}…{name[-half:]}"
