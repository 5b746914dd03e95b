"""Tables of scores, one row an image, as they are kept in object storage."""

import io
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dermascan.storage import Store
from dermascan.taxonomy import CLASS_COLUMNS, LESION_CLASSES


def score_table(
    isic_ids: Sequence[str],
    probabilities: NDArray[np.floating],
    p_malignant: NDArray[np.floating],
) -> pd.DataFrame:
    """Return a table with the columns `isic_id`, `p_malignant` and `CLASS_COLUMNS`.

    Args:
        isic_ids: of the images, (N,).
        probabilities: of the classes, floating (N, 7).
        p_malignant: floating (N,).
    """
    columns = dict(zip(CLASS_COLUMNS, probabilities.T, strict=True))
    return pd.DataFrame({"isic_id": isic_ids, "p_malignant": p_malignant, **columns})


def write_scores(store: Store, key: str, table: pd.DataFrame) -> None:
    """Keep a table of scores as Parquet."""
    sink = io.BytesIO()
    table.to_parquet(sink, compression="zstd")
    store.put(key, sink.getvalue())


def read_scores(store: Store, key: str) -> pd.DataFrame:
    """Return a table that `write_scores` kept."""
    return pd.read_parquet(io.BytesIO(store.get(key)))


def class_shares(scored: pd.DataFrame) -> NDArray[np.float64]:
    """Return the probabilities of the classes, 0 to 1 [rows, 7], in `LESION_CLASSES` order."""
    return scored[list(CLASS_COLUMNS)].to_numpy(dtype=float)


def likeliest_classes(scored: pd.DataFrame) -> "pd.Series[str]":
    """Return the likeliest class of each row."""
    best = np.array(LESION_CLASSES, dtype=object)[class_shares(scored).argmax(axis=1)]
    return pd.Series(best, index=scored.index, dtype=object)
