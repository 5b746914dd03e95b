"""Scores of an exported model on labelled images, one row an image.

The images come prepared from an example set, or from their originals with a model's own
preprocessing; equal preprocessing gives equal pixels either way.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dermascan.errors import InputError
from dermascan.example_set import ExampleSet, read_split
from dermascan.model.calibration import uncalibrated
from dermascan.model.savedmodel import ModelMetadata, Scorer
from dermascan.preprocess import ImageRow, prepared_records
from dermascan.progress import tracked
from dermascan.records import Record, read_records
from dermascan.scores import score_table
from dermascan.storage import Store
from dermascan.taxonomy import CLASS_COLUMNS

logger = logging.getLogger(__name__)

BATCH = 32
# Told uint8 images (N, H, W, 3) RGB and their embeddings, float32 (N, D).
Observe = Callable[[NDArray[np.uint8], NDArray[np.float32]], None]
ROW_COLUMNS = ("isic_id", "key", "sha256", "lesion_id", "lesion_class")


@dataclass(frozen=True)
class SplitRecords:
    """The prepared images of one split on local disk, to be read in as many passes as needed.

    Attributes:
        split: its name.
        paths: of the TFRecord files, in order.
        images: in all of them.
    """

    split: str
    paths: tuple[Path, ...]
    images: int

    @classmethod
    def fetch(cls, store: Store, examples: ExampleSet, split: str, folder: Path) -> "SplitRecords":
        """Copy the records of a split into a folder that exists."""
        keys = examples.keys(split)
        paths = tuple(folder / f"{split}-{i:05d}.tfrecord.gz" for i in range(len(keys)))
        for key, path in zip(keys, paths, strict=True):
            store.get_file(key, path)
        return cls(split, paths, sum(examples.counts[split].values()))

    def __iter__(self) -> Iterator[Record]:
        for path in self.paths:
            yield from read_records(path)

    def pick(self, isic_ids: Sequence[str]) -> NDArray[np.uint8]:
        """Return some of the images.

        Args:
            isic_ids: of the images, none twice.

        Returns:
            uint8 RGB, (N, height, width, 3), in the order asked for.

        Raises:
            InputError: there is no such image, or none is asked for.
        """
        wanted = set(isic_ids)
        found = {record.isic_id: record.image for record in self if record.isic_id in wanted}
        if missing := [name for name in isic_ids if name not in found]:
            raise InputError(f"the {self.split} split has no image {', '.join(missing[:5])}")
        if not found:
            raise InputError(f"name at least one image of the {self.split} split")
        return np.stack([found[name] for name in isic_ids])


def score_split(
    records: SplitRecords, scorer: Scorer, observe: Observe | None = None
) -> pd.DataFrame:
    """Score all images of a split.

    Args:
        records: the prepared images.
        scorer: the loaded model.
        observe: is shown the images of each batch and their embeddings, None for nobody.

    Returns:
        `isic_id`, `p_malignant` and `p_akiec` to `p_vasc` (0..1), in the records' order.
    """
    images = tracked(records, logger, f"{records.split} images", records.images)
    return _scored(images, scorer, observe)


def score_originals(store: Store, table: pd.DataFrame, scorer: Scorer) -> pd.DataFrame:
    """Score images from their original files, prepared as the model wants them.

    Args:
        store: holds the originals.
        table: one row an image, with the columns of `ROW_COLUMNS`.
        scorer: the loaded model.

    Returns:
        As `score_split`, in the table's order.

    Raises:
        NotFoundError: an original is gone.
        IntegrityError: an original is not the one that the table names.
        ImageRefusedError: an original cannot be decoded under the model's limits.
    """
    rows = [ImageRow(*values) for values in table[list(ROW_COLUMNS)].itertuples(index=False)]
    records = prepared_records(store, rows, scorer.metadata.preprocessing)
    return _scored(tracked(records, logger, "original images", len(rows)), scorer)


def with_metadata(
    store: Store, examples: ExampleSet, split: str, scores: pd.DataFrame
) -> pd.DataFrame:
    """Join the scores of a split's images with what is known of them.

    Returns:
        As `evaluation.evaluate` takes it, in `isic_id` order.
    """
    return read_split(store, examples, split).merge(scores, on="isic_id", validate="1:1")


def before_calibration(table: pd.DataFrame, metadata: ModelMetadata) -> pd.DataFrame:
    """Undo a model's calibration, which is exact but for rounding.

    Args:
        table: with the calibrated `p_akiec` to `p_vasc`.
        metadata: of the model that gave them.

    Returns:
        A copy with the softmax of the logits, and their `p_malignant`.
    """
    columns = list(CLASS_COLUMNS)
    calibrated = table[columns].to_numpy(dtype=float)
    malignant = metadata.malignant_indices()
    before = uncalibrated(calibrated, metadata.calibration, malignant)
    changed = dict(zip(columns, before.T, strict=True))
    return table.assign(**changed, p_malignant=before[:, list(malignant)].sum(axis=1))


def _scored(
    records: Iterable[Record], scorer: Scorer, observe: Observe | None = None
) -> pd.DataFrame:
    return pd.concat([_score_batch(batch, scorer, observe) for batch in _batches(records)])


def _batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    iterator = iter(records)
    while batch := list(islice(iterator, BATCH)):
        yield batch


def _score_batch(batch: list[Record], scorer: Scorer, observe: Observe | None) -> pd.DataFrame:
    images = np.stack([record.image for record in batch])
    scores = scorer.score(images)
    if observe is not None:
        observe(images, scores.embedding)
    ids = [record.isic_id for record in batch]
    return score_table(ids, scores.probabilities, scores.p_malignant)
