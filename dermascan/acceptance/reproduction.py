"""Batch inference against the evaluation: the same images must have the same scores."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dermascan.evaluation import CLASS_COLUMNS

TOLERANCE = 1e-4
SCORES = ("p_malignant", *CLASS_COLUMNS)
_EXAMPLES = 5


@dataclass(frozen=True)
class Reproduction:
    """What batch inference made of the test split.

    Attributes:
        images: in the test split.
        scored: of them, by batch inference.
        rejected: of them, by batch inference, with the reasons.
        missing: of them, without a prediction.
        unexpected: keys of predictions for what is not in the test split.
        unevaluated: images of the test split that the evaluation did not score.
        changed: images whose bytes were not those of the dataset.
        largest: difference between a prediction and the evaluation's score; infinite if one
            is not a number, None if there is nothing to compare.
        where: which score of which image it is.
    """

    images: int
    scored: int
    rejected: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    unevaluated: tuple[str, ...]
    changed: tuple[str, ...]
    largest: float | None
    where: str

    @property
    def problems(self) -> tuple[str, ...]:
        """Return what speaks against it, a sentence each; nothing if all scores are the same."""
        lists = (
            ("images were rejected", self.rejected),
            ("images of the test split have no prediction", self.missing),
            ("predictions are of no image of the test split", self.unexpected),
            ("images of the test split were not evaluated", self.unevaluated),
            ("images do not have the dataset's bytes", self.changed),
        )
        found = [f"{len(names)} {what}: {_some(names)}" for what, names in lists if names]
        if self.largest is None:
            found.append("there is no score to compare")
        elif self.largest > TOLERANCE:
            found.append(f"{self.where} differs by {self.largest:.2g}, more than {TOLERANCE:g}")
        return tuple(found)

    def verdict(self) -> str:
        """Say in one sentence how it went."""
        if self.problems:
            return "batch inference does not reproduce the evaluation: " + "; ".join(self.problems)
        agreement = (
            f"largest difference {self.largest:.1g} ({self.where})"
            if self.largest
            else "no score differs"
        )
        return (
            f"batch inference reproduces the evaluation: {self.scored:,} of {self.images:,} test "
            f"images scored, none rejected, {agreement}"
        )


def compare(test: pd.DataFrame, scores: pd.DataFrame, predictions: pd.DataFrame) -> Reproduction:
    """Hold predictions for the test split's images against the evaluation's scores.

    Args:
        test: of the test split, `isic_id`, `key` and `sha256` of the originals.
        scores: of the evaluation, `isic_id`, `p_malignant` and `p_akiec` to `p_vasc`.
        predictions: of batch inference on copies of the originals under their own file names.
    """
    wanted = test.assign(file=test["key"].map(_file_name))[["isic_id", "sha256", "file"]]
    made = predictions.assign(file=predictions["image_key"].map(_file_name))
    made = made.drop(columns="isic_id")
    met = wanted.merge(made, on="file", suffixes=("", "_read"), validate="1:m")
    accepted = met[met["status"] == "ok"]
    compared = accepted.merge(scores, on="isic_id", suffixes=("", "_evaluated"))
    largest, where = _largest_difference(compared)
    return Reproduction(
        images=len(test),
        scored=len(accepted),
        rejected=tuple(_reasons(met[met["status"] != "ok"])),
        missing=_without(wanted["isic_id"], met["isic_id"]),
        unexpected=tuple(made[~made["file"].isin(wanted["file"])]["image_key"]),
        unevaluated=_without(wanted["isic_id"], scores["isic_id"]),
        changed=tuple(accepted[accepted["sha256"] != accepted["sha256_read"]]["isic_id"]),
        largest=largest,
        where=where,
    )


def _largest_difference(compared: pd.DataFrame) -> tuple[float | None, str]:
    if compared.empty:
        return None, ""
    evaluated = compared[[f"{name}_evaluated" for name in SCORES]].to_numpy(float)
    differences = np.abs(compared[list(SCORES)].to_numpy(float) - evaluated)
    differences[np.isnan(differences)] = np.inf
    row, column = np.unravel_index(differences.argmax(), differences.shape)
    image = compared["isic_id"].iloc[int(row)]
    return float(differences[row, column]), f"{SCORES[int(column)]} of {image}"


def _file_name(key: str) -> str:
    return key.rsplit("/", 1)[-1]


def _without(names: pd.Series, known: pd.Series) -> tuple[str, ...]:
    return tuple(names[~names.isin(known)])


def _reasons(rejected: pd.DataFrame) -> list[str]:
    pairs = zip(rejected["isic_id"], rejected["reason"], strict=True)
    return [f"{image} ({reason})" for image, reason in pairs]


def _some(names: Sequence[str]) -> str:
    more = len(names) - _EXAMPLES
    return ", ".join(names[:_EXAMPLES]) + (f" and {more} more" if more > 0 else "")
