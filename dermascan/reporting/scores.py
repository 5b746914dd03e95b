"""Class probabilities in a table of scored images."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dermascan.evaluation import CLASS_COLUMNS
from dermascan.taxonomy import LESION_CLASSES


def class_shares(scored: pd.DataFrame) -> NDArray[np.float64]:
    """Return the probabilities of the classes, 0 to 1 [rows, 7], in `LESION_CLASSES` order."""
    return scored[list(CLASS_COLUMNS)].to_numpy(dtype=float)


def likeliest_classes(scored: pd.DataFrame) -> "pd.Series[str]":
    """Return the likeliest class of each row."""
    best = np.array(LESION_CLASSES, dtype=object)[class_shares(scored).argmax(axis=1)]
    return pd.Series(best, index=scored.index, dtype=object)
