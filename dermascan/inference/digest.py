"""What pages say of a batch of predictions, gathered table by table: batches may be of any size."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dermascan.inference.scoring import PREDICTIONS_SCHEMA
from dermascan.scores import likeliest_classes

TABLE_LIMIT = 2_000
REJECTED_LIMIT = 500


def _no_rows() -> pd.DataFrame:
    return pd.DataFrame(columns=PREDICTIONS_SCHEMA.names)


@dataclass(eq=False)
class BatchDigest:
    """Counts of all images, and the rows of those that are shown; 8 bytes for each of the others.

    Attributes:
        images: all, scored or rejected.
        malignant: labelled so.
        shown: rows of the `TABLE_LIMIT` scored images of highest risk, the highest first.
        refused: rows of the first `REJECTED_LIMIT` rejected images, by `image_key`.
        likeliest: scored images by their likeliest class.
        reasons: rejected images by the code of the reason.
        warnings: scored images by code of warning, of which an image can have several.
        warned: scored images with any warning.
        measured: whether warnings were looked for.
        thresholds, model_versions: all that occur, in the order found.
    """

    images: int = 0
    malignant: int = 0
    shown: pd.DataFrame = field(default_factory=_no_rows)
    refused: pd.DataFrame = field(default_factory=_no_rows)
    likeliest: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)
    warned: int = 0
    measured: bool = False
    thresholds: list[float] = field(default_factory=list)
    model_versions: list[float] = field(default_factory=list)
    _risks: list[NDArray[np.float64]] = field(default_factory=list)

    @classmethod
    def of(cls, *tables: pd.DataFrame) -> "BatchDigest":
        """Return the digest of some tables; see `add`."""
        digest = cls()
        for table in tables:
            digest.add(table)
        return digest

    @property
    def risks(self) -> NDArray[np.float64]:
        """Return `p_malignant` of the scored images, in the order of the tables."""
        return np.concatenate([np.empty(0), *self._risks])

    @property
    def scored(self) -> int:
        """Return how many images were scored."""
        return sum(map(len, self._risks))

    @property
    def rejected(self) -> int:
        """Return how many images were not."""
        return self.images - self.scored

    def add(self, table: pd.DataFrame) -> None:
        """Take in a table.

        Args:
            table: one row an image, with the columns of `PREDICTIONS_SCHEMA`, and `warnings`
                (codes with a space between them) if the images were measured.
        """
        is_scored = table["status"] == "ok"
        scored, rejected = table[is_scored], table[~is_scored]
        self.images += len(table)
        self.malignant += int((scored["label"] == "malignant").sum())
        # Without a copy, each would keep all numbers of its table in memory.
        self._risks.append(scored["p_malignant"].to_numpy(dtype=float, copy=True))
        self.likeliest.update(likeliest_classes(scored))
        self.reasons.update(rejected["reason"].map(_reason_code))
        _note(self.thresholds, scored["threshold"])
        _note(self.model_versions, table["model_version"])
        if "warnings" in table:
            self._add_warnings(scored["warnings"])
        shown, refused = _joined(self.shown, scored), _joined(self.refused, rejected)
        order = ["p_malignant", "image_key"]
        by_risk = shown.sort_values(order, ascending=[False, True], ignore_index=True)
        self.shown = by_risk.head(TABLE_LIMIT)
        self.refused = refused.sort_values("image_key").head(REJECTED_LIMIT)

    def _add_warnings(self, column: "pd.Series[str]") -> None:
        self.measured = True
        warned = [codes for value in column if (codes := warning_codes(value))]
        self.warned += len(warned)
        self.warnings.update(code for codes in warned for code in codes)


def warning_codes(value: object) -> tuple[str, ...]:
    """Return the codes of a cell of `warnings`; none if the image was not measured."""
    return tuple(value.split()) if isinstance(value, str) else ()


def _joined(kept: pd.DataFrame, more: pd.DataFrame) -> pd.DataFrame:
    tables = [table for table in (kept, more) if len(table)]
    return pd.concat(tables, ignore_index=True) if tables else more


def _note(known: list[float], values: Iterable[float]) -> None:
    known += [value for value in dict.fromkeys(values) if value not in known]


def _reason_code(reason: object) -> str:
    return str(reason).split(":", 1)[0].strip()
