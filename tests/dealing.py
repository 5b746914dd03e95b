"""Dealing by name, which tests read more easily than by place."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from dermascan import splits


def assign(images: pd.DataFrame, ledger: Mapping[str, str]) -> dict[str, str]:
    """Deal images to splits; return the split of each by `isic_id`."""
    dealt = splits.deal(images, splits.earlier(images, ledger))
    return dict(zip(images["isic_id"], splits.split_names(dealt), strict=True))


def leaks(images: pd.DataFrame, assignment: Mapping[str, str]) -> list[str]:
    """Return `isic_id`s of images whose group lies in more than one split."""
    codes = [splits.SPLITS.index(assignment[name]) for name in images["isic_id"]]
    return splits.leaking(images, np.array(codes, np.int8))


def groups(images: pd.DataFrame) -> list[int]:
    """Return for each image the position of its group's first."""
    return list(splits.groups(images).tolist())
