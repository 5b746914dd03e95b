"""The report on a batch of predictions: what was scored, what was rejected, highest risk first."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import cast

import pandas as pd

from dermascan import figures
from dermascan.drift.comparison import LARGE, Drift
from dermascan.drift.wording import ASPECT_NAMES, TITLES, advice, what_moved
from dermascan.inference.pictures import Picture
from dermascan.layout import image_anchor
from dermascan.quality import WARNINGS
from dermascan.reporting.page import ReportContext, jpeg_uri, render
from dermascan.reporting.scores import class_shares, likeliest_classes
from dermascan.taxonomy import CLASS_NAMES

GALLERY_LIMIT = 200
TABLE_LIMIT = 2_000
REJECTED_LIMIT = 500
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
        predictions: one row an image, with the columns of `PREDICTIONS_SCHEMA` in
            `dermascan.inference.scoring`, and `warnings` (codes with a space between them) if
            the images were measured.
        context: title and provenance.
        pictures: by `image_key`, best of those of highest risk; images without one are shown
            without, as are all once `PICTURE_BYTES_LIMIT` is used up.
        made: when (UTC), None to leave it out.
        drift: how far the batch lies from the training data, None if that is not known.
        drift_unknown: why it is not.
        model: excerpt of the model card, None if there is none.
    """

    predictions: pd.DataFrame
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
    scored, rejected = _by_risk(predictions), _rejected(predictions)
    rows = _rows(scored.head(TABLE_LIMIT), report.pictures)
    return render(
        "predictions.html.j2",
        context=report.context,
        made=report.made,
        images=len(predictions),
        scored=len(scored),
        malignant=int((scored["label"] == "malignant").sum()),
        rejected=len(rejected),
        thresholds=_distinct(scored["threshold"]),
        model_versions=_distinct(predictions["model_version"]),
        chart=_risk_chart(scored),
        classes=_bars(likeliest_classes(scored), dict(CLASS_NAMES)),
        reasons=_bars(rejected["reason"].map(_reason_code), {}),
        **_quality(scored),
        **_drift(report),
        model=report.model,
        gallery=rows[:GALLERY_LIMIT],
        rows=rows,
        rejections=[
            (image_anchor(str(row["image_key"])), *_texts(row, "image_key", "reason"))
            for row in _records(rejected.head(REJECTED_LIMIT))
        ],
    )


def _texts(row: Mapping[str, object], *columns: str) -> Iterator[str]:
    return (_short(str(row[column])) for column in columns)


def _quality(scored: pd.DataFrame) -> dict[str, object]:
    """Count the warnings; None where the images were not measured."""
    if "warnings" not in scored:
        return {"warned": None, "warning_bars": []}
    warned = [codes for value in scored["warnings"] if (codes := _codes(value))]
    each = pd.Series([code for codes in warned for code in codes], dtype=object)
    return {"warned": len(warned), "warning_bars": _bars(each, dict(WARNINGS))}


def _codes(value: object) -> tuple[str, ...]:
    return tuple(value.split()) if isinstance(value, str) else ()


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


def _by_risk(predictions: pd.DataFrame) -> pd.DataFrame:
    scored = predictions[predictions["status"] == "ok"]
    return scored.sort_values(["p_malignant", "image_key"], ascending=[False, True])


def _rejected(predictions: pd.DataFrame) -> pd.DataFrame:
    return predictions[predictions["status"] != "ok"].sort_values("image_key")


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
        warnings=_codes(row.get("warnings")),
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


def _risk_chart(scored: pd.DataFrame) -> str | None:
    if scored.empty:
        return None
    risks = scored["p_malignant"].to_numpy(dtype=float)
    return figures.risk_distribution(risks, float(scored["threshold"].iloc[0]))


def _bars(names: "pd.Series[str]", details: Mapping[str, str]) -> list[_Bar]:
    counts = sorted(names.value_counts().items(), key=lambda item: (-item[1], str(item[0])))
    return [
        _Bar(_short(str(name)), details.get(str(name), ""), int(count), count / counts[0][1])
        for name, count in counts
    ]


def _reason_code(reason: object) -> str:
    return str(reason).split(":", 1)[0].strip()


def _distinct(values: "pd.Series[float]") -> str:
    return ", ".join(f"{value:g}" if value % 1 else f"{value:.0f}" for value in values.unique())


def _short(name: str) -> str:
    """Cut a name in the middle so that hostile keys cannot blow up the page."""
    if len(name) <= SHOWN_NAME_LENGTH:
        return name
    half = SHOWN_NAME_LENGTH // 2
    return f"{name[:half]}…{name[-half:]}"
