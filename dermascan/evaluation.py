"""Figures of merit of a scored test set, each with what chance alone would explain.

Every figure is a function of image weights. The point estimate weighs each image once; an
interval comes from the same function with the images of lesions drawn with replacement
(images of one lesion are not independent, so lesions are the unit of the bootstrap).
A figure that is not defined, such as a ROC AUC on benign lesions only, is None.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from dermascan.errors import InputError
from dermascan.fingerprint import fingerprint
from dermascan.taxonomy import LESION_CLASSES, Taxonomy

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Integers = NDArray[np.intp]
# Weights [resamples, images] -> figure [resamples], NaN where it is not defined.
Statistic = Callable[[Floats], Floats]

CLASS_COLUMNS: tuple[str, ...] = tuple(f"p_{name}" for name in LESION_CLASSES)
REQUIRED_COLUMNS = ("isic_id", "lesion_id", "lesion_class", *CLASS_COLUMNS, "p_malignant")
RELIABILITY_BINS = 10
CONFIDENCE = 0.95
DEFAULT_RESAMPLES = 1000
UNKNOWN = "unknown"

_AGE_BAND_STARTS = (0, 30, 45, 60, 75)
_AGE_BANDS = ("under 30", "30 to 44", "45 to 59", "60 to 74", "75 and over")
_SLICE_COLUMNS = {"sex": "sex", "age": "age_approx", "site": "anatom_site_general"}
_SUM_TOLERANCE = 1e-3
_DECIMALS = 6
# An interval is given only if this share of the resamples defines the figure.
_DEFINED_SHARE = 0.9
_CHUNK_ELEMENTS = 4_000_000


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Estimate(_Frozen):
    """A figure and the 95 % interval of its bootstrap over lesions.

    Attributes:
        value: the figure on the test set, None where it is not defined.
        low, high: ends of the interval; None where fewer than nine in ten resamples define
            the figure or the resamples do not differ, which says nothing about chance.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None


class MalignantFigures(_Frozen):
    """How well `p_malignant` tells malignant from benign lesions.

    Attributes:
        images: malignant images. prevalence: their share.
        majority_rate: accuracy of always answering the commoner of the two.
        accuracy, sensitivity, specificity, ppv, npv: at the threshold of the evaluation,
            where an image is called malignant if `p_malignant >= threshold`.
        sensitivity_at_90_specificity: best of all thresholds that keep 90 % specificity.
        brier: mean squared difference of score and outcome.
        brier_skill: 1 - Brier score / Brier score of always answering the prevalence.
        ece: expected calibration error; no interval, since its bootstrap is biased upwards.
    """

    images: int
    prevalence: float | None
    majority_rate: float | None
    accuracy: Estimate
    roc_auc: Estimate
    average_precision: Estimate
    sensitivity: Estimate
    specificity: Estimate
    ppv: Estimate
    npv: Estimate
    sensitivity_at_90_specificity: Estimate
    brier: Estimate
    brier_skill: Estimate
    ece: Estimate


class ClassFigures(_Frozen):
    """One lesion class against the rest; recall and precision are of the likeliest class."""

    name: str
    images: int
    roc_auc: Estimate
    average_precision: Estimate
    recall: Estimate
    precision: Estimate


class Slice(_Frozen):
    """Malignant against benign on the images that share one property."""

    name: str
    images: int = 0
    malignant: int = 0
    roc_auc: Estimate = Estimate()
    sensitivity: Estimate = Estimate()
    specificity: Estimate = Estimate()


class SliceGroup(_Frozen):
    """The values of one property (`sex`, `age`, `site`) that occur; no metadata, no slices."""

    name: str
    slices: tuple[Slice, ...]


class ReliabilityBin(_Frozen):
    """Scores in [low, high), the last bin closed, against what was observed there."""

    low: float
    high: float
    images: int
    mean_score: float | None
    observed_rate: float | None


class Evaluation(_Frozen):
    """All that is known about a model on one test set; survives a JSON round trip.

    Attributes:
        dataset: name of the dataset that the test set was split from, if known.
        test_set: names the test set by its images and their classes; two evaluations with
            the same name are of the same images.
        threshold: `p_malignant` from which an image is called malignant.
        majority_rate: accuracy of always answering the commonest of the seven classes.
        balanced_accuracy: mean recall over the classes that occur.
        confusion: images by true class (rows) and likeliest class (columns), both in the
            order of `LESION_CLASSES`.
    """

    dataset: str | None
    test_set: str
    threshold: float
    images: int
    lesions: int
    resamples: int
    seed: int
    majority_rate: float | None
    accuracy: Estimate
    balanced_accuracy: Estimate
    malignant: MalignantFigures
    classes: tuple[ClassFigures, ...]
    slices: tuple[SliceGroup, ...]
    reliability: tuple[ReliabilityBin, ...]
    confusion: tuple[tuple[int, ...], ...]


class Ranking:
    """Images ordered by falling score, ties together.

    Args:
        positive: what is to be found, bool [images].
        scores: higher is more likely positive, float [images].
    """

    def __init__(self, positive: Flags, scores: Floats) -> None:
        self._order = np.argsort(-scores, kind="stable")
        self._positive = positive[self._order]
        is_last_of_tie = np.ones(len(scores), dtype=bool)
        is_last_of_tie[:-1] = np.diff(scores[self._order]) != 0
        self._ends = np.flatnonzero(is_last_of_tie)

    def hits(self, weights: Floats) -> tuple[Floats, Floats]:
        """Count positives and negatives at or above each distinct score.

        Args:
            weights: [resamples, images].

        Returns:
            Two arrays [resamples, distinct scores + 1] that begin with 0.
        """
        ordered = weights[:, self._order]
        return self._accumulate(ordered * self._positive), self._accumulate(
            ordered * ~self._positive
        )

    def roc(self, weights: Floats) -> tuple[Floats, Floats]:
        """Return false and true positive rates, each [resamples, distinct scores + 1]."""
        true, false = self.hits(weights)
        return _ratio(false, false[:, -1:]), _ratio(true, true[:, -1:])

    def precision_recall(self, weights: Floats) -> tuple[Floats, Floats]:
        """Return precision and recall, each [resamples, distinct scores + 1]; precision[0] NaN."""
        true, false = self.hits(weights)
        return _ratio(true, true + false), _ratio(true, true[:, -1:])

    def roc_auc(self, weights: Floats) -> Floats:
        """Return the area under the ROC curve [resamples], ties counted half."""
        false_rate, true_rate = self.roc(weights)
        return cast("Floats", np.trapezoid(true_rate, false_rate, axis=1))

    def average_precision(self, weights: Floats) -> Floats:
        """Return the precision averaged over steps of recall [resamples], not interpolated."""
        precision, recall = self.precision_recall(weights)
        steps = np.diff(recall, axis=1)
        # Precision is not defined before the first image that counts: no recall is gained there.
        area = np.sum(steps * np.nan_to_num(precision[:, 1:]), axis=1)
        return cast("Floats", area)

    def sensitivity_at(self, specificity: float) -> Statistic:
        """Return the statistic of the best true positive rate at `specificity` or more."""

        def statistic(weights: Floats) -> Floats:
            false_rate, true_rate = self.roc(weights)
            allowed = false_rate <= 1 - specificity + 1e-12
            best = np.max(np.where(allowed, true_rate, 0.0), axis=1)
            defined = ~np.isnan(false_rate[:, -1]) & ~np.isnan(true_rate[:, -1])
            return np.where(defined, best, np.nan)

        return statistic

    def _accumulate(self, ordered: Floats) -> Floats:
        sums = np.cumsum(ordered, axis=1)[:, self._ends]
        return np.concatenate([np.zeros((len(sums), 1)), sums], axis=1)


class _Bootstrap:
    """Resamples of lesions, the same ones for every figure."""

    def __init__(self, lesion_of_image: Integers, resamples: int, seed: int) -> None:
        self._lesion_of_image = lesion_of_image
        lesions = int(lesion_of_image.max(initial=0)) + 1
        shares = np.full(lesions, 1 / lesions)
        draws = np.random.default_rng(seed).multinomial(lesions, shares, size=resamples)
        self._times_drawn = draws.astype(np.uint16)

    def estimate(self, statistic: Statistic, rows: Integers) -> Estimate:
        """Evaluate a statistic on some images: once as they are, then on every resample."""
        if not len(rows):
            return Estimate()
        value = _plain(statistic(np.ones((1, len(rows))))[0])
        if value is None:
            return Estimate()
        low, high = _interval(self._resampled(statistic, rows))
        return Estimate(value=value, low=low, high=high)

    def _resampled(self, statistic: Statistic, rows: Integers) -> Floats:
        lesions = self._lesion_of_image[rows]
        step = max(1, _CHUNK_ELEMENTS // len(rows))
        starts = range(0, len(self._times_drawn), step)
        chunks = (self._times_drawn[start : start + step, lesions] for start in starts)
        return np.concatenate([np.empty(0), *(statistic(chunk.astype(float)) for chunk in chunks)])


@dataclass(frozen=True)
class _Scored:
    """The test table as arrays [images] (probabilities [images, 7])."""

    positive: Flags
    score: Floats
    called: Flags
    truth: Integers
    predicted: Integers
    probabilities: Floats
    bootstrap: _Bootstrap

    @property
    def rows(self) -> Integers:
        return np.arange(len(self.truth))

    @property
    def everything(self) -> Flags:
        return np.ones_like(self.positive)

    def share(self, of: Flags, among: Flags, rows: Integers | None = None) -> Estimate:
        """Estimate the share of images in `among` that are also in `of`."""
        chosen = self.rows if rows is None else rows
        both, all_of_them = (of & among)[chosen].astype(float), among[chosen].astype(float)
        return self.bootstrap.estimate(
            lambda weights: _ratio(weights @ both, weights @ all_of_them), chosen
        )

    def estimate(self, statistic: Statistic) -> Estimate:
        return self.bootstrap.estimate(statistic, self.rows)


def evaluate(  # noqa: PLR0913  # two arguments, and options that callers name
    table: pd.DataFrame,
    threshold: float,
    *,
    dataset: str | None = None,
    taxonomy: Taxonomy | None = None,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
) -> Evaluation:
    """Compute all figures of a scored test set; equal arguments give equal results.

    Args:
        table: one row an image: `isic_id`, `lesion_id` (empty: the image is its own lesion),
            `lesion_class`, `p_akiec` to `p_vasc` (sum 1), `p_malignant`, all 0 to 1; slices
            are made of those of `sex`, `age_approx` (years), `anatom_site_general` that exist.
        threshold: an image is called malignant if `p_malignant >= threshold`; fixed
            beforehand on other images.
        dataset: name of the dataset, for comparing with other evaluations.
        taxonomy: which classes are malignant, by default those of `Taxonomy()`.
        resamples: bootstrap resamples of lesions for the intervals.
        seed: of the bootstrap.

    Raises:
        InputError: the table or the threshold is not as described.
    """
    _check(table, threshold)
    scored = _scored(table, threshold, taxonomy or Taxonomy(), resamples, seed)
    counts = np.bincount(scored.truth, minlength=len(LESION_CLASSES))
    return Evaluation(
        dataset=dataset,
        test_set=test_set_fingerprint(table),
        threshold=threshold,
        images=len(table),
        lesions=int(_lesion_of_image(table).max(initial=-1)) + 1,
        resamples=resamples,
        seed=seed,
        majority_rate=_plain(counts.max() / len(table)) if len(table) else None,
        accuracy=scored.share(scored.truth == scored.predicted, scored.everything),
        balanced_accuracy=scored.estimate(_balanced_accuracy(scored)),
        malignant=_malignant_figures(scored),
        classes=tuple(_class_figures(scored, i) for i in range(len(LESION_CLASSES))),
        slices=_slice_groups(table, scored),
        reliability=_reliability(scored),
        confusion=_confusion(scored),
    )


def test_set_fingerprint(table: pd.DataFrame) -> str:
    """Name a test set by its images and their classes, whatever their order."""
    pairs = zip(table["isic_id"], table["lesion_class"], strict=True)
    return fingerprint(sorted([str(image), str(name)] for image, name in pairs))


test_set_fingerprint.__test__ = False  # type: ignore[attr-defined]  # keeps pytest from collecting it


def figure(evaluation: Evaluation, path: str) -> float | None:
    """Look up a figure by its dotted path.

    Args:
        evaluation: where to look.
        path: attribute names and, in `classes` and `slices`, names of members, such as
            `malignant.roc_auc`, `malignant.roc_auc.low`, `classes.mel.roc_auc`,
            `slices.sex.female.sensitivity`. An estimate stands for its value.

    Returns:
        The figure, or None where it is not defined or no image is in the slice.

    Raises:
        InputError: there is no such figure.
    """
    node: object = evaluation
    for step in path.split("."):
        node = _member(node, step, path)
    if isinstance(node, Estimate):
        node = node.value
    if node is None:
        return None
    if isinstance(node, (int, float)):
        return float(node)
    raise InputError(f"{path!r} is no single figure of an evaluation: name one of its figures")


def _member(node: object, step: str, path: str) -> object:
    if isinstance(node, SliceGroup):
        return next((each for each in node.slices if each.name == step), Slice(name=step))
    if isinstance(node, tuple):
        for each in node:
            if getattr(each, "name", None) == step:
                return cast("object", each)
    elif isinstance(node, BaseModel) and step in type(node).model_fields:
        return cast("object", getattr(node, step))
    raise InputError(f"{path!r} is no figure of an evaluation: it has no {step!r} there")


def _check(table: pd.DataFrame, threshold: float) -> None:
    missing = [name for name in REQUIRED_COLUMNS if name not in table.columns]
    if missing:
        raise InputError(f"the scored table lacks {', '.join(missing)}: give one column for each")
    if not 0 <= threshold <= 1:
        raise InputError(f"threshold {threshold} is not between 0 and 1: choose it on validation")
    unknown = sorted(set(map(str, table["lesion_class"])) - set(LESION_CLASSES))
    if unknown:
        raise InputError(f"no lesion class is called {', '.join(unknown)}: leave such rows out")
    _check_scores(table)


def _check_scores(table: pd.DataFrame) -> None:
    scores = table[[*CLASS_COLUMNS, "p_malignant"]].to_numpy(dtype=float)
    bad = ~((scores >= 0) & (scores <= 1)).all(axis=1)
    bad |= np.abs(scores[:, :-1].sum(axis=1) - 1) > _SUM_TOLERANCE
    if bad.any():
        raise InputError(
            f"{bad.sum()} rows have no usable probabilities, first {_first(table, bad)}: each must "
            "be 0 to 1, the seven classes adding up to 1"
        )
    twice = table["isic_id"].duplicated().to_numpy(dtype=bool)
    if twice.any():
        raise InputError(f"{_first(table, twice)} is scored twice: give one row for each image")


def _first(table: pd.DataFrame, chosen: Flags) -> str:
    return str(table["isic_id"].to_numpy()[chosen][0])


def _scored(
    table: pd.DataFrame, threshold: float, taxonomy: Taxonomy, resamples: int, seed: int
) -> _Scored:
    probabilities = table[list(CLASS_COLUMNS)].to_numpy(dtype=float)
    names = table["lesion_class"].astype(str)
    truth = np.array([LESION_CLASSES.index(name) for name in names], dtype=np.intp)
    score = table["p_malignant"].to_numpy(dtype=float)
    return _Scored(
        positive=np.isin(truth, taxonomy.malignant_indices()),
        score=score,
        called=score >= threshold,
        truth=truth,
        predicted=probabilities.argmax(axis=1),
        probabilities=probabilities,
        bootstrap=_Bootstrap(_lesion_of_image(table), resamples, seed),
    )


def _lesion_of_image(table: pd.DataFrame) -> Integers:
    """Number the lesions from 0; the order of the table's rows does not change the numbers."""
    lesion, image = table["lesion_id"].astype(object), table["isic_id"].astype(str)
    known = lesion.notna() & (lesion != "")
    names = np.where(known, "lesion " + lesion.astype(str), "image " + image)
    return np.unique(names.astype(str), return_inverse=True)[1].astype(np.intp)


def _balanced_accuracy(scored: _Scored) -> Statistic:
    of_class = np.eye(len(LESION_CLASSES))[scored.truth]
    right = of_class * (scored.truth == scored.predicted)[:, None]

    def statistic(weights: Floats) -> Floats:
        recalls = _ratio(weights @ right, weights @ of_class)
        return cast("Floats", np.nanmean(recalls, axis=1))

    return statistic


def _malignant_figures(scored: _Scored) -> MalignantFigures:
    positive, called = scored.positive, scored.called
    ranking = Ranking(positive, scored.score)
    prevalence = float(positive.mean()) if len(positive) else None
    return MalignantFigures(
        images=int(positive.sum()),
        prevalence=None if prevalence is None else _plain(prevalence),
        majority_rate=None if prevalence is None else _plain(max(prevalence, 1 - prevalence)),
        accuracy=scored.share(called == positive, scored.everything),
        roc_auc=scored.estimate(ranking.roc_auc),
        average_precision=scored.estimate(ranking.average_precision),
        sensitivity=scored.share(called, positive),
        specificity=scored.share(~called, ~positive),
        ppv=scored.share(positive, called),
        npv=scored.share(~positive, ~called),
        sensitivity_at_90_specificity=scored.estimate(ranking.sensitivity_at(0.9)),
        brier=scored.estimate(_brier(scored)),
        brier_skill=scored.estimate(_brier_skill(scored)),
        ece=Estimate(value=_calibration_error(scored)),
    )


def _brier(scored: _Scored) -> Statistic:
    squares = (scored.score - scored.positive) ** 2
    return lambda weights: _ratio(weights @ squares, weights.sum(axis=1))


def _brier_skill(scored: _Scored) -> Statistic:
    brier = _brier(scored)

    def statistic(weights: Floats) -> Floats:
        prevalence = _ratio(weights @ scored.positive.astype(float), weights.sum(axis=1))
        return 1 - _ratio(brier(weights), prevalence * (1 - prevalence))

    return statistic


def _class_figures(scored: _Scored, index: int) -> ClassFigures:
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


def _slice_groups(table: pd.DataFrame, scored: _Scored) -> tuple[SliceGroup, ...]:
    groups = []
    for name, column in _SLICE_COLUMNS.items():
        values = _slice_values(table, column)
        present = sorted(set(values), key=_slice_order)
        slices = tuple(_slice(scored, value, np.flatnonzero(values == value)) for value in present)
        groups.append(SliceGroup(name=name, slices=slices))
    return tuple(groups)


def _slice_values(table: pd.DataFrame, column: str) -> NDArray[np.object_]:
    if column not in table.columns:
        return np.empty(0, dtype=object)
    if column == "age_approx":
        return _age_bands(pd.to_numeric(table[column], errors="coerce").to_numpy(dtype=float))
    values = table[column].astype(object)
    return values.where(values.notna() & (values != ""), UNKNOWN).astype(str).to_numpy(dtype=object)


def _age_bands(ages: Floats) -> NDArray[np.object_]:
    bands = np.array([UNKNOWN, *_AGE_BANDS], dtype=object)
    known = np.nan_to_num(ages, nan=-1)
    return bands[np.searchsorted(_AGE_BAND_STARTS, known, side="right")]


def _slice_order(name: str) -> tuple[bool, int, str]:
    """Sort age bands by age, other values by name, the unknown last."""
    return name == UNKNOWN, _AGE_BANDS.index(name) if name in _AGE_BANDS else 0, name


def _slice(scored: _Scored, name: str, rows: Integers) -> Slice:
    ranking = Ranking(scored.positive[rows], scored.score[rows])
    return Slice(
        name=name,
        images=len(rows),
        malignant=int(scored.positive[rows].sum()),
        roc_auc=scored.bootstrap.estimate(ranking.roc_auc, rows),
        sensitivity=scored.share(scored.called, scored.positive, rows),
        specificity=scored.share(~scored.called, ~scored.positive, rows),
    )


def _bin_of_image(scored: _Scored) -> Integers:
    """Assign each score to one of ten bins of equal width."""
    numbers = np.floor(scored.score * RELIABILITY_BINS).astype(np.intp)
    return np.minimum(numbers, RELIABILITY_BINS - 1)


def _reliability(scored: _Scored) -> tuple[ReliabilityBin, ...]:
    bins = _bin_of_image(scored)
    members = [bins == i for i in range(RELIABILITY_BINS)]
    return tuple(
        ReliabilityBin(
            low=i / RELIABILITY_BINS,
            high=(i + 1) / RELIABILITY_BINS,
            images=int(inside.sum()),
            mean_score=_mean(scored.score[inside]),
            observed_rate=_mean(scored.positive[inside].astype(float)),
        )
        for i, inside in enumerate(members)
    )


def _calibration_error(scored: _Scored) -> float | None:
    """Average |observed rate - mean score| over ten bins of equal width, weighted by images.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
    """
    if not len(scored.score):
        return None
    excess = np.bincount(_bin_of_image(scored), scored.positive - scored.score)
    return _plain(float(np.abs(excess).sum()) / len(scored.score))


def _confusion(scored: _Scored) -> tuple[tuple[int, ...], ...]:
    size = len(LESION_CLASSES)
    counts = np.zeros((size, size), dtype=np.intp)
    np.add.at(counts, (scored.truth, scored.predicted), 1)
    return tuple(tuple(int(count) for count in row) for row in counts)


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Divide, with NaN where there is nothing to divide by."""
    shape = np.broadcast_shapes(numerator.shape, denominator.shape)
    result = np.full(shape, np.nan)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result


def _mean(values: Floats) -> float | None:
    return _plain(float(values.mean())) if len(values) else None


def _interval(draws: Floats) -> tuple[float | None, float | None]:
    defined = draws[~np.isnan(draws)]
    if len(defined) < max(_DEFINED_SHARE * len(draws), 2) or np.ptp(defined) == 0:
        return None, None
    tail = (1 - CONFIDENCE) / 2
    ends: Sequence[float] = np.quantile(defined, [tail, 1 - tail]).tolist()
    return _plain(ends[0]), _plain(ends[1])


def _plain(value: float) -> float | None:
    """Round for the record; NaN, not defined, becomes None."""
    return None if np.isnan(value) else round(float(value), _DECIMALS)
