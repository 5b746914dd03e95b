"""The report on a batch of predictions: what was scored, what was rejected, highest risk first."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

import pandas as pd

from dermascan import figures
from dermascan.reporting.page import ReportContext, jpeg_uri, render
from dermascan.reporting.scores import class_shares, likeliest_classes
from dermascan.taxonomy import CLASS_NAMES

GALLERY_LIMIT = 200
TABLE_LIMIT = 2_000
REJECTED_LIMIT = 500
THUMBNAIL_BYTES_LIMIT = 3 * 1024 * 1024
SHOWN_NAME_LENGTH = 96


@dataclass(frozen=True)
class _Row:
    """A scored image as gallery and table show it; risk, threshold and share 0 to 1."""

    number: int
    key: str
    name: str
    risk: float
    threshold: float
    label: str
    likeliest: str
    likeliest_share: float
    thumbnail: str | None


@dataclass(frozen=True)
class _Bar:
    """One bar of a small chart; `length` relative to the longest."""

    name: str
    detail: str
    images: int
    length: float


def predictions_report(
    predictions: pd.DataFrame, thumbnails: Mapping[str, bytes], context: ReportContext
) -> str:
    """Render the predictions of one run for people, in a few MiB however many there are.

    Args:
        predictions: one row an image: `image_key`, `isic_id`, `sha256`, `status` (`ok` or
            `rejected`), `reason` (`code` or `code: detail`), `p_malignant`, `label`,
            `threshold`, `p_akiec` to `p_vasc`, `model_version`.
        thumbnails: small JPEGs by `image_key`, best those of `gallery_keys`; images without
            one are shown without, as are all once 3 MiB are used up.
        context: title and provenance.

    Returns:
        A complete HTML document.
    """
    scored, rejected = _by_risk(predictions), _rejected(predictions)
    rows = _rows(scored.head(TABLE_LIMIT), thumbnails)
    return render(
        "predictions.html.j2",
        context=context,
        images=len(predictions),
        scored=len(scored),
        malignant=int((scored["label"] == "malignant").sum()),
        rejected=len(rejected),
        thresholds=_distinct(scored["threshold"]),
        model_versions=_distinct(predictions["model_version"]),
        chart=_risk_chart(scored),
        classes=_bars(likeliest_classes(scored), dict(CLASS_NAMES)),
        reasons=_bars(rejected["reason"].map(_reason_code), {}),
        gallery=rows[:GALLERY_LIMIT],
        rows=rows,
        rejections=[
            (_short(str(row["image_key"])), _short(str(row["reason"])))
            for row in _records(rejected.head(REJECTED_LIMIT))
        ],
    )


def gallery_keys(predictions: pd.DataFrame) -> list[str]:
    """Return the keys of the images that `predictions_report` shows with a thumbnail."""
    return [str(key) for key in _by_risk(predictions).head(GALLERY_LIMIT)["image_key"]]


def _by_risk(predictions: pd.DataFrame) -> pd.DataFrame:
    scored = predictions[predictions["status"] == "ok"]
    return scored.sort_values(["p_malignant", "image_key"], ascending=[False, True])


def _rejected(predictions: pd.DataFrame) -> pd.DataFrame:
    return predictions[predictions["status"] != "ok"].sort_values("image_key")


def _records(table: pd.DataFrame) -> list[dict[str, object]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _rows(shown: pd.DataFrame, thumbnails: Mapping[str, bytes]) -> list[_Row]:
    pictures = _data_uris(shown.head(GALLERY_LIMIT)["image_key"], thumbnails)
    shown = shown.assign(
        likeliest=likeliest_classes(shown), likeliest_share=class_shares(shown).max(axis=1)
    )
    return [
        _row(number, row, pictures.get(str(row["image_key"])))
        for number, row in enumerate(_records(shown), start=1)
    ]


def _row(number: int, row: Mapping[str, object], thumbnail: str | None) -> _Row:
    key = str(row["image_key"])
    return _Row(
        number=number,
        key=_short(key),
        name=_short(key.rsplit("/", 1)[-1] or key),
        risk=_float(row, "p_malignant"),
        threshold=_float(row, "threshold"),
        label=str(row["label"]),
        likeliest=str(row["likeliest"]),
        likeliest_share=_float(row, "likeliest_share"),
        thumbnail=thumbnail,
    )


def _float(row: Mapping[str, object], column: str) -> float:
    return cast("float", row[column])


def _data_uris(keys: Iterable[str], thumbnails: Mapping[str, bytes]) -> dict[str, str]:
    """Encode thumbnails in the order of the keys until they exceed what a report may weigh."""
    encoded: dict[str, str] = {}
    left = THUMBNAIL_BYTES_LIMIT
    for key in keys:
        left -= len(thumbnails.get(key, b""))
        if left >= 0 and thumbnails.get(key):
            encoded[key] = jpeg_uri(thumbnails[key])
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
