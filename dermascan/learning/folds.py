"""Validation images in folds, for an ensemble whose networks leave out a fold each.

A network learns from the training images and from all folds but one, by which its epoch is chosen.
The scores of each fold are those of the networks that never saw it: together they stand for the
ensemble on new images, as the scores of a validation split do for a network that saw none of it
(cross-fitting).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dermascan.layout import part
from dermascan.learning.batches import Shards
from dermascan.records import Record, read_records, write_records
from dermascan.taxonomy import LESION_CLASSES


@dataclass(frozen=True, eq=False)
class Fold:
    """Validation images that some networks of an ensemble do not learn from.

    Attributes:
        shards: the images.
        labels: int (N,), in the order of the file.
        isic_ids: (N,), likewise.
    """

    shards: Shards
    labels: NDArray[np.int64]
    isic_ids: tuple[str, ...]

    @property
    def class_counts(self) -> NDArray[np.int64]:
        """Return the number of images of each class, in the order of `LESION_CLASSES`."""
        return np.bincount(self.labels, minlength=len(LESION_CLASSES))


def fold_left_out(member: int, members: int, folds: int) -> int:
    """Return the fold that a network of an ensemble leaves out.

    Networks that follow one another leave out the same one, so that unlike networks, which an
    ensemble has in turn, share a fold where there are at least twice as many networks as folds.

    Args:
        member: number of the network, from 0.
        members: networks of the ensemble, at least `folds`.
        folds: how many there are.
    """
    return member * folds // members


def make_folds(shards: Shards, folds: int, folder: Path) -> tuple[Fold, ...]:
    """Cut validation images into folds: by group, and each class in equal parts.

    Args:
        shards: all validation images, not compressed.
        folds: how many; fewer are made of fewer groups.
        folder: an empty one, for the folds' files.

    Returns:
        The folds, none of them empty; equal images give equal folds.
    """
    rows = [
        (record.isic_id, record.label, record.group or record.isic_id)
        for path in shards.paths
        for record in read_records(path, packed=False)
    ]
    dealt = _dealt({group: label for _, label, group in rows}, folds)
    made = []
    for fold in range(max(dealt.values()) + 1):
        inside = [row for row in rows if dealt[row[2]] == fold]
        names = {name for name, _, _ in inside}
        path = folder / part("", fold, ".tfrecord")
        write_records(path, _among(shards.paths, names), packed=False)
        labels = np.array([label for _, label, _ in inside], np.int64)
        own = Shards((path,), shards.image_size, shards.batch_size)
        made.append(Fold(own, labels, tuple(name for name, _, _ in inside)))
    return tuple(made)


def _dealt(labels: Mapping[str, int], folds: int) -> dict[str, int]:
    """Deal groups, whose labels are given, to folds: in turn, class by class."""
    turns = sorted(labels, key=lambda group: (labels[group], sha256(group.encode()).digest()))
    return {group: turn % folds for turn, group in enumerate(turns)}


def _among(paths: Sequence[Path], isic_ids: set[str]) -> Iterator[Record]:
    for path in paths:
        for record in read_records(path, packed=False):
            if record.isic_id in isic_ids:
                yield record
