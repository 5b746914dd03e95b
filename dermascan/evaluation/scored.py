"""The table of a scored test set: what it must have, and its columns as arrays."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from dermascan.errors import InputError
from dermascan.evaluation.bootstrap import Bootstrap
from dermascan.evaluation.schema import Estimate
from dermascan.evaluation.statistic import Flags, Floats, Integers, Statistic, share
from dermascan.fingerprint import fingerprint
from dermascan.taxonomy import CLASS_COLUMNS, LESION_CLASSES, Taxonomy

REQUIRED_COLUMNS = ("isic_id", "lesion_id", "lesion_class", *CLASS_COLUMNS, "p_malignant")

_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Scored:
    """The test table as arrays [images] (probabilities [images, 7]).

    Attributes:
        positive: malignant by the taxonomy. called: called malignant.
        score: `p_malignant`.
        truth, predicted: position of the lesion class, and of the likeliest, in `LESION_CLASSES`.
        lesions: how many there are.
    """

    positive: Flags
    score: Floats
    called: Flags
    truth: Integers
    predicted: Integers
    probabilities: Floats
    lesions: int
    bootstrap: Bootstrap

    @property
    def everything(self) -> Flags:
        """Every image."""
        return np.ones_like(self.positive)

    def share(self, of: Flags, among: Flags) -> Estimate:
        """Estimate the share of images in `among` that are also in `of`."""
        return self.bootstrap.estimate(share(of, among))

    def estimate(self, statistic: Statistic) -> Estimate:
        """Estimate a figure of all images."""
        return self.bootstrap.estimate(statistic)

    def value(self, statistic: Statistic) -> float | None:
        """Return a figure of all images without its interval."""
        return self.bootstrap.value(statistic)


def read_scored(
    table: pd.DataFrame, threshold: float, taxonomy: Taxonomy, resamples: int, seed: int
) -> Scored:
    """Check a scored table and take it apart.

    Args:
        table: see `evaluate`.
        threshold: an image is called malignant if `p_malignant >= threshold`.
        taxonomy: which classes are malignant.
        resamples: bootstrap resamples of lesions.
        seed: of the bootstrap.

    Raises:
        InputError: the table or the threshold is not as described.
    """
    check(table, threshold)
    probabilities = table[list(CLASS_COLUMNS)].to_numpy(dtype=float)
    truth = _class_positions(table)
    score = table["p_malignant"].to_numpy(dtype=float)
    lesion_of_image = number_lesions(table)
    return Scored(
        positive=np.isin(truth, taxonomy.malignant_indices()),
        score=score,
        called=score >= threshold,
        truth=truth,
        predicted=probabilities.argmax(axis=1),
        probabilities=probabilities,
        lesions=int(lesion_of_image.max(initial=-1)) + 1,
        bootstrap=Bootstrap(lesion_of_image, resamples, seed),
    )


def malignant_scores(table: pd.DataFrame, taxonomy: Taxonomy) -> tuple[Flags, Floats]:
    """Return which images are malignant, and their `p_malignant`, both [images].

    Args:
        table: `lesion_class` and `p_malignant`, 0 to 1.
        taxonomy: which classes are malignant.

    Raises:
        InputError: a column is missing, a class is unknown, or a score is not 0 to 1.
    """
    _require_columns(table, ("lesion_class", "p_malignant"))
    _require_classes(table)
    score = table["p_malignant"].to_numpy(dtype=float)
    if not ((score >= 0) & (score <= 1)).all():
        raise InputError("p_malignant must be 0 to 1 in every row: score these images again")
    return np.isin(_class_positions(table), taxonomy.malignant_indices()), score


def test_set_fingerprint(table: pd.DataFrame) -> str:
    """Name a test set by its images and their classes, whatever their order."""
    pairs = zip(table["isic_id"], table["lesion_class"], strict=True)
    return fingerprint(sorted([str(image), str(name)] for image, name in pairs))


def with_scores_of(table: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Return the table with its scores replaced by those of another table of the same images.

    Args:
        table: `isic_id` and whatever else is known of the images.
        other: `isic_id`, `p_akiec` to `p_vasc` and `p_malignant`, in any order.

    Raises:
        InputError: the other table lacks a column or is of other images.
    """
    scores = [*CLASS_COLUMNS, "p_malignant"]
    _require_columns(other, ("isic_id", *scores))
    by_image = other.set_index("isic_id")[scores]
    images = table["isic_id"]
    if by_image.index.has_duplicates or set(by_image.index) != set(images):
        raise InputError("the tables are of different images: score the same test set")
    return table.drop(columns=scores, errors="ignore").merge(
        by_image, left_on="isic_id", right_index=True, validate="m:1"
    )


test_set_fingerprint.__test__ = False  # type: ignore[attr-defined]  # keeps pytest from collecting it


def check(table: pd.DataFrame, threshold: float) -> None:
    """Check a scored table and its threshold.

    Raises:
        InputError: says what is missing, and in the first row that is unusable.
    """
    _require_columns(table, REQUIRED_COLUMNS)
    if not 0 <= threshold <= 1:
        raise InputError(f"threshold {threshold} is not between 0 and 1: choose it on validation")
    _require_classes(table)
    _check_scores(table)


def _require_columns(table: pd.DataFrame, columns: tuple[str, ...]) -> None:
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise InputError(f"the scored table lacks {', '.join(missing)}: give one column for each")


def _require_classes(table: pd.DataFrame) -> None:
    unknown = sorted(set(map(str, table["lesion_class"])) - set(LESION_CLASSES))
    if unknown:
        raise InputError(f"no lesion class is called {', '.join(unknown)}: leave such rows out")


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


def _class_positions(table: pd.DataFrame) -> Integers:
    names = table["lesion_class"].astype(str)
    return np.array([LESION_CLASSES.index(name) for name in names], dtype=np.intp)


def number_lesions(table: pd.DataFrame) -> Integers:
    """Number the lesions from 0; the order of the table's rows does not change the numbers."""
    lesion, image = table["lesion_id"].astype(object), table["isic_id"].astype(str)
    known = lesion.notna() & (lesion != "")
    names = np.where(known, "lesion " + lesion.astype(str), "image " + image)
    return np.unique(names.astype(str), return_inverse=True)[1].astype(np.intp)
