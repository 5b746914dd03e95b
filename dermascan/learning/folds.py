"""Validation images in folds, for an ensemble whose networks leave out a fold each.

A network learns from the training images and from all folds but one, by which its epoch is chosen.
The scores of each fold are those of the networks that never saw it: together they stand for the
ensemble on new images, as the scores of a validation split do for a network that saw none of it
(cross-fitting).
"""

from collections.abc import Mapping
from hashlib import sha256

import numpy as np

from dermascan.learning.shards import Shards


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


def make_folds(shards: Shards, folds: int) -> tuple[Shards, ...]:
    """Cut validation images into folds: by group, and each class in equal parts.

    Args:
        shards: all validation images.
        folds: how many; fewer are made of fewer groups.

    Returns:
        The folds, none of them empty, each in the images' order; equal images give equal folds.
    """
    groups = shards.groups.tolist()
    dealt = _dealt(dict(zip(groups, shards.labels.tolist(), strict=True)), folds)
    numbers = np.array([dealt[group] for group in groups])
    return tuple(shards.only(numbers == fold) for fold in range(max(dealt.values()) + 1))


def _dealt(labels: Mapping[str, int], folds: int) -> dict[str, int]:
    """Deal groups, whose labels are given, to folds: in turn, class by class."""
    turns = sorted(labels, key=lambda group: (labels[group], sha256(group.encode()).digest()))
    return {group: turn % folds for turn, group in enumerate(turns)}
