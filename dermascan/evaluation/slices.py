"""Malignant against benign on parts of the test set that share a property."""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dermascan.evaluation.decision import balanced_accuracy
from dermascan.evaluation.ranking import Ranking
from dermascan.evaluation.schema import Slice, SliceGroup, WorstSlice
from dermascan.evaluation.scored import Scored
from dermascan.evaluation.statistic import Floats, Integers, share
from dermascan.isic.metadata import ANATOM_SITES_GENERAL
from dermascan.skin_tone import TONE_BANDS, tone_band

UNKNOWN = "unknown"
# Malignant and, separately, benign images below which a slice's ROC AUC says too little.
SMALLEST_SLICE = 20
# Shown, but never the worst: how a diagnosis was confirmed is not known when a model is used, and
# the benign lesions that were excised are those that looked malignant.
_HINDSIGHT = "confirmation"

Names = NDArray[np.object_]

_AGE_BAND_STARTS = (0, 30, 45, 60, 75)
_AGE_BANDS = ("under 30", "30 to 44", "45 to 59", "60 to 74", "75 and over")
_THIRDS = ("lowest third", "middle third", "highest third")
_ESTIMATED_TONES = tuple(f"{band} (estimated)" for band in TONE_BANDS)
_ORDERED = {
    name: place
    for names in (_AGE_BANDS, _THIRDS, _ESTIMATED_TONES)
    for place, name in enumerate(names)
}

# Every name that a slice of a property can have beside `UNKNOWN`: the archive's vocabulary (that
# of anatomical sites is in `dermascan.isic.metadata`, the others in isic-metadata) and bands.
SLICE_NAMES: Final[Mapping[str, frozenset[str]]] = {
    "sex": frozenset({"female", "male"}),
    "age": frozenset(_AGE_BANDS),
    "site": ANATOM_SITES_GENERAL,
    "confirmation": frozenset(
        {
            "histopathology",
            "serial imaging showing no change",
            "single image expert consensus",
            "confocal microscopy with consensus dermoscopy",
            "single contributor clinical assessment",
        }
    ),
    "skin_tone": frozenset({"I", "II", "III", "IV", "V", "VI", *_ESTIMATED_TONES}),
    "sharpness": frozenset(_THIRDS),
    "brightness": frozenset(_THIRDS),
}


def slice_groups(table: pd.DataFrame, scored: Scored) -> tuple[SliceGroup, ...]:
    """Evaluate the slices of every property; those of a property without a column are none.

    Args:
        table: see `evaluate`.
        scored: the same rows.
    """
    return tuple(
        SliceGroup(name=name, slices=_slices(scored, values(table)))
        for name, values in _PROPERTIES.items()
    )


def worst_slice(groups: Sequence[SliceGroup], roc_auc: float | None) -> WorstSlice | None:
    """Find the slice with the lowest ROC AUC among those that are large enough.

    Args:
        groups: all slices.
        roc_auc: of all images.

    Returns:
        The first of the lowest, None if no slice has `SMALLEST_SLICE` malignant images and as
        many benign ones. How a diagnosis was confirmed makes no slice of patients or of images
        and is passed over.
    """
    known = (group for group in groups if group.name != _HINDSIGHT)
    pairs = chain.from_iterable(((group.name, each) for each in group.slices) for group in known)
    found = [(each.roc_auc.value, group, each) for group, each in pairs if _is_large(each)]
    ranked = [(auc, group, each) for auc, group, each in found if auc is not None]
    if not ranked or roc_auc is None:
        return None
    auc, group, worst = min(ranked, key=lambda entry: entry[0])
    return WorstSlice(
        group=group,
        name=worst.name,
        images=worst.images,
        malignant=worst.malignant,
        roc_auc=worst.roc_auc,
        loss=round(roc_auc - auc, 6),
    )


def _is_large(each: Slice) -> bool:
    return min(each.malignant, each.images - each.malignant) >= SMALLEST_SLICE


def _slices(scored: Scored, values: Names) -> tuple[Slice, ...]:
    present = sorted(set(values), key=_order)
    return tuple(_slice(scored, name, np.flatnonzero(values == name)) for name in present)


def _order(name: str) -> tuple[bool, bool, int, str]:
    """Sort bands by what they measure, after other values by name, the unknown last."""
    return name == UNKNOWN, name in _ORDERED, _ORDERED.get(name, 0), name


def _slice(scored: Scored, name: str, rows: Integers) -> Slice:
    positive, called = scored.positive[rows], scored.called[rows]
    sensitivity, specificity = share(called, positive), share(~called, ~positive)
    ranking = Ranking(positive, scored.score[rows])
    return Slice(
        name=name,
        images=len(rows),
        malignant=int(positive.sum()),
        roc_auc=scored.bootstrap.estimate(ranking.roc_auc, rows),
        sensitivity=scored.bootstrap.estimate(sensitivity, rows),
        specificity=scored.bootstrap.estimate(specificity, rows),
        balanced_accuracy=scored.bootstrap.estimate(balanced_accuracy(called, positive), rows),
    )


def _column(name: str) -> Callable[[pd.DataFrame], Names]:
    def values(table: pd.DataFrame) -> Names:
        return _texts(table, name) if name in table.columns else _no_values()

    return values


def _thirds(name: str) -> Callable[[pd.DataFrame], Names]:
    def values(table: pd.DataFrame) -> Names:
        if name not in table.columns:
            return _no_values()
        return _thirds_of(_numbers(table, name))

    return values


def _thirds_of(numbers: Floats) -> Names:
    """Cut the known values into three parts of equal size; equal values stay together."""
    known = ~np.isnan(numbers)
    names = np.full(len(numbers), UNKNOWN, dtype=object)
    if known.any():
        cuts = np.quantile(numbers[known], [1 / 3, 2 / 3])
        names[known] = np.array(_THIRDS, dtype=object)[np.searchsorted(cuts, numbers[known])]
    return names


def _ages(table: pd.DataFrame) -> Names:
    if "age_approx" not in table.columns:
        return _no_values()
    bands = np.array([UNKNOWN, *_AGE_BANDS], dtype=object)
    known = np.nan_to_num(_numbers(table, "age_approx"), nan=-1)
    return bands[np.searchsorted(_AGE_BAND_STARTS, known, side="right")]


def _skin_tones(table: pd.DataFrame) -> Names:
    """Name the recorded skin tone, else the band of the estimated angle, marked as such."""
    if not {"skin_tone", "ita"} & set(table.columns):
        return _no_values()
    names = _column("skin_tone")(table)
    if not len(names):
        names = np.full(len(table), UNKNOWN, dtype=object)
    if "ita" in table.columns:
        bands = [tone_band(angle) for angle in _numbers(table, "ita")]
        estimated = np.array(
            [f"{band} (estimated)" if band else UNKNOWN for band in bands], dtype=object
        )
        names = np.where(names == UNKNOWN, estimated, names)
    return names


def _texts(table: pd.DataFrame, column: str) -> Names:
    values = table[column].astype(object)
    return values.where(values.notna() & (values != ""), UNKNOWN).astype(str).to_numpy(dtype=object)


def _numbers(table: pd.DataFrame, column: str) -> Floats:
    return pd.to_numeric(table[column], errors="coerce").to_numpy(dtype=float)


def _no_values() -> Names:
    return np.empty(0, dtype=object)


_PROPERTIES: dict[str, Callable[[pd.DataFrame], Names]] = {
    "sex": _column("sex"),
    "age": _ages,
    "site": _column("anatom_site_general"),
    "confirmation": _column("diagnosis_confirm_type"),
    "skin_tone": _skin_tones,
    "sharpness": _thirds("sharpness"),
    "brightness": _thirds("brightness"),
}
