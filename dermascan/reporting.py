"""Evaluation and prediction reports: one HTML file each, which needs nothing but itself."""

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import cast

import numpy as np
import pandas as pd
from jinja2 import Environment, FunctionLoader, StrictUndefined
from numpy.typing import NDArray

from dermascan import DISCLAIMER, __version__, figures
from dermascan.errors import InputError
from dermascan.evaluation import CLASS_COLUMNS, Estimate, Evaluation, test_set_fingerprint
from dermascan.gate import GateResult
from dermascan.taxonomy import CLASS_NAMES, LESION_CLASSES, Taxonomy

GALLERY_LIMIT = 200
TABLE_LIMIT = 2_000
REJECTED_LIMIT = 500
THUMBNAIL_BYTES_LIMIT = 3 * 1024 * 1024
SHOWN_NAME_LENGTH = 96
NOT_DEFINED = "n/a"


@dataclass(frozen=True)
class ReportContext:
    """What a report says about where it comes from.

    Attributes:
        title: heading of the page.
        subtitle: one line under it.
        facts: pairs of name and value for the box on training or provenance.
    """

    title: str
    subtitle: str = ""
    facts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class _Tile:
    """A headline figure; shares are shown in per cent."""

    name: str
    estimate: Estimate
    note: str
    is_share: bool = True


@dataclass(frozen=True)
class _Chart:
    """A figure with its caption; `svg` None where there is nothing to draw."""

    title: str
    caption: str
    svg: str | None


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


def evaluation_report(
    evaluation: Evaluation,
    table: pd.DataFrame,
    gate: GateResult | None,
    context: ReportContext,
    *,
    taxonomy: Taxonomy | None = None,
) -> str:
    """Render an evaluation for people.

    Args:
        evaluation: what `evaluate` made of `table`.
        table: the scored test set, as `evaluate` takes it.
        gate: the gate's verdict, None if it was not asked.
        context: title and provenance.
        taxonomy: which classes are malignant, as given to `evaluate`.

    Returns:
        A complete HTML document.

    Raises:
        InputError: the evaluation is of other images than the table.
    """
    if evaluation.test_set != test_set_fingerprint(table):
        raise InputError("the evaluation is of other images than the table: evaluate the table")
    malignant = (taxonomy or Taxonomy()).malignant
    return _render(
        "evaluation.html.j2",
        context=context,
        evaluation=evaluation,
        gate=gate,
        tiles=_tiles(evaluation),
        charts=_charts(evaluation, table, malignant),
        malignant_classes=malignant,
        auc_axis_start=_auc_axis_start(evaluation),
    )


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
    return _render(
        "predictions.html.j2",
        context=context,
        images=len(predictions),
        scored=len(scored),
        malignant=int((scored["label"] == "malignant").sum()),
        rejected=len(rejected),
        thresholds=_distinct(scored["threshold"]),
        model_versions=_distinct(predictions["model_version"]),
        chart=_risk_chart(scored),
        classes=_bars(_likeliest(scored), dict(CLASS_NAMES)),
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


def _render(template: str, **values: object) -> str:
    environment = Environment(
        loader=FunctionLoader(_template_source),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "share": _share,
        "decimal": _decimal,
        "interval": _interval,
        "position": _position,
    }
    environment.globals |= {
        "disclaimer": DISCLAIMER,
        "library_version": __version__,
        "class_names": CLASS_NAMES,
        "lesion_classes": LESION_CLASSES,
    }
    return environment.get_template(template).render(**values)


def _template_source(name: str) -> str:
    return resources.files("dermascan").joinpath("templates", name).read_text("utf-8")


def _share(value: float | None) -> str:
    return NOT_DEFINED if value is None else f"{100 * value:.1f} %"


def _decimal(value: float | None) -> str:
    return NOT_DEFINED if value is None else f"{value:.3f}"


def _interval(estimate: Estimate, is_share: bool) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    if is_share:
        return f"{100 * estimate.low:.1f} to {_share(estimate.high)}"
    return f"{_decimal(estimate.low)} to {_decimal(estimate.high)}"


def _position(value: float, start: float = 0.0) -> str:
    """Return where a value lies between `start` and 1, as a CSS percentage."""
    return f"{100 * min(max((value - start) / (1 - start), 0), 1):.2f}%"


def _tiles(evaluation: Evaluation) -> list[_Tile]:
    risk = evaluation.malignant
    at = f"at threshold {evaluation.threshold:.2f}"
    majority = f"always the commoner answer: {_share(risk.majority_rate)}"
    return [
        _Tile("ROC AUC", risk.roc_auc, "malignant against benign; chance is 0.5", is_share=False),
        _Tile("Accuracy, malignant or benign", risk.accuracy, majority),
        _Tile("Sensitivity", risk.sensitivity, f"malignant images found, {at}"),
        _Tile("Specificity", risk.specificity, f"benign images left alone, {at}"),
        _Tile(
            "Sensitivity at 90 % specificity",
            risk.sensitivity_at_90_specificity,
            "whatever the threshold",
        ),
        _Tile(
            "Average precision",
            risk.average_precision,
            f"malignant; chance is {_decimal(risk.prevalence)}",
            is_share=False,
        ),
        _Tile(
            "Accuracy, seven classes",
            evaluation.accuracy,
            f"always the commonest class: {_share(evaluation.majority_rate)}",
        ),
        _Tile("Balanced accuracy", evaluation.balanced_accuracy, "mean recall of the classes"),
        _Tile("PPV", risk.ppv, f"malignant among those called so, {at}"),
        _Tile("NPV", risk.npv, f"benign among those called so, {at}"),
        _Tile("Brier score", risk.brier, "mean squared error; 0 is perfect", is_share=False),
        _Tile("Calibration error", risk.ece, "ECE over ten bins; 0 is perfect", is_share=False),
    ]


def _charts(
    evaluation: Evaluation, table: pd.DataFrame, malignant: tuple[str, ...]
) -> list[_Chart]:
    positive = table["lesion_class"].isin(malignant).to_numpy(dtype=bool)
    scores, threshold = table["p_malignant"].to_numpy(dtype=float), evaluation.threshold
    return [
        _Chart(
            "Sensitivity against false alarms",
            "ROC curve. The dot is the operating point, the dotted line is chance.",
            figures.roc(positive, scores, threshold),
        ),
        _Chart(
            "Precision against recall",
            "How many alarms are right, as more malignant lesions are found. "
            "The dotted line is the prevalence.",
            figures.precision_recall(positive, scores, threshold),
        ),
        _Chart(
            "Reliability",
            "A score of 0.3 should be malignant three times in ten: on the dotted line. "
            "Larger dots stand for more images.",
            figures.reliability(evaluation.reliability),
        ),
        _Chart(
            "Scores",
            "The less the two overlap, the better they are told apart.",
            figures.score_distribution(positive, scores, threshold),
        ),
    ]


def _auc_axis_start(evaluation: Evaluation) -> float:
    """Begin the axis of AUCs at 0.5, or lower if an interval does."""
    slices = [each for group in evaluation.slices for each in group.slices]
    ends = [end for each in slices for end in (each.roc_auc.low, each.roc_auc.value)]
    return float(np.floor(10 * min([0.5, *(end for end in ends if end is not None)])) / 10)


def _by_risk(predictions: pd.DataFrame) -> pd.DataFrame:
    scored = predictions[predictions["status"] == "ok"]
    return scored.sort_values(["p_malignant", "image_key"], ascending=[False, True])


def _rejected(predictions: pd.DataFrame) -> pd.DataFrame:
    return predictions[predictions["status"] != "ok"].sort_values("image_key")


def _records(table: pd.DataFrame) -> list[dict[str, object]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _rows(shown: pd.DataFrame, thumbnails: Mapping[str, bytes]) -> list[_Row]:
    pictures = _data_uris(shown.head(GALLERY_LIMIT)["image_key"], thumbnails)
    shown = shown.assign(likeliest=_likeliest(shown), likeliest_share=_shares(shown).max(axis=1))
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


def _likeliest(scored: pd.DataFrame) -> "pd.Series[str]":
    best = np.array(LESION_CLASSES, dtype=object)[_shares(scored).argmax(axis=1)]
    return pd.Series(best, index=scored.index, dtype=object)


def _shares(scored: pd.DataFrame) -> NDArray[np.float64]:
    return scored[list(CLASS_COLUMNS)].to_numpy(dtype=float)


def _data_uris(keys: Iterable[str], thumbnails: Mapping[str, bytes]) -> dict[str, str]:
    """Encode thumbnails in the order of the keys until they exceed what a report may weigh."""
    encoded: dict[str, str] = {}
    left = THUMBNAIL_BYTES_LIMIT
    for key in keys:
        left -= len(thumbnails.get(key, b""))
        if left >= 0 and thumbnails.get(key):
            encoded[key] = "data:image/jpeg;base64," + base64.b64encode(thumbnails[key]).decode()
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
