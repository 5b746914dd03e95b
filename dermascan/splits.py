"""Which image trains, validates and tests: by group, stratified, and for ever.

Images that share a lesion, a patient or (nearly) their pixels form a group, and a group is
never divided. Groups are dealt out class by class to the split that lacks most, and the
result is kept in a ledger: an image that was dealt once never moves to another split, whatever
is added later. A new image that would tie two splits together is set aside. Where it turns out
that images of two splits belong together (the archive learnt of a lesion or a patient, or they
were dealt in runs that did not see each other), those outside the test split are set aside.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations, pairwise
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dermascan.fingerprint import sha256_hex

logger = logging.getLogger(__name__)

STEP_VERSION = 2
Split = Literal["train", "val", "test", "aside"]
SHARES: dict[str, float] = {"train": 0.70, "val": 0.15, "test": 0.15}
_KEPT_FIRST = ("test", "val", "train")

# Two 64-bit perceptual hashes at most this far apart count as the same picture. Four bands
# of 16 bits find every such pair: three differing bits leave one band untouched.
NEAR_DUPLICATE_BITS = 3
_BANDS = 4


def trainable(manifest: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that can train or test: a lesion class, and dermoscopic or unsaid."""
    dermoscopic = manifest["image_type"].isna() | (manifest["image_type"] == "dermoscopic")
    return manifest[manifest["lesion_class"].notna() & dermoscopic]


def near_duplicates(hashes: Sequence[str]) -> list[tuple[int, int]]:
    """Return positions of hashes at most `NEAR_DUPLICATE_BITS` apart.

    Args:
        hashes: 16 hexadecimal digits each.
    """
    values = np.fromiter((int(text, 16) for text in hashes), np.uint64, len(hashes))
    found = {
        (a, b)
        for band in range(_BANDS)
        for members in _alike(values >> np.uint64(16 * band) & np.uint64(0xFFFF))
        for a, b in combinations(members, 2)
        if (int(values[a]) ^ int(values[b])).bit_count() <= NEAR_DUPLICATE_BITS
    }
    return sorted(found)


def _alike(values: NDArray[np.uint64]) -> Iterator[list[int]]:
    """Yield the positions of each value that occurs more than once, ascending."""
    order = np.argsort(values, kind="stable")
    bounds = np.flatnonzero(np.diff(values[order])) + 1
    for start, stop in pairwise([0, *bounds.tolist(), len(order)]):
        if stop - start > 1:
            yield order[start:stop].tolist()


def groups(images: pd.DataFrame) -> list[int]:
    """Number the groups of images that must stay together.

    Args:
        images: columns `lesion_id`, `patient_id`, `sha256`, `perceptual_hash`.

    Returns:
        For each row the position of its group's first row.
    """
    parent = list(range(len(images)))

    def root(position: int) -> int:
        while parent[position] != position:
            parent[position] = parent[parent[position]]
            position = parent[position]
        return position

    for first, second in _ties(images):
        a, b = sorted((root(first), root(second)))
        parent[b] = a
    return [root(position) for position in range(len(images))]


def _ties(images: pd.DataFrame) -> Iterable[tuple[int, int]]:
    for column in ("lesion_id", "patient_id", "sha256"):
        first_seen: dict[Hashable, int] = {}
        for position, value in enumerate(images[column]):
            if pd.notna(value):
                yield first_seen.setdefault(value, position), position
    yield from near_duplicates(list(images["perceptual_hash"]))


def assign(images: pd.DataFrame, ledger: Mapping[str, str]) -> dict[str, str]:
    """Deal images to splits.

    Args:
        images: columns `isic_id`, `lesion_class` and those of `groups`; any row order
            gives the same result.
        ledger: split of every image that was dealt before, by `isic_id`.

    Returns:
        Split of every image of `images`, by `isic_id`; those in `ledger` keep theirs or are
        set aside.
    """
    ordered = images.sort_values("isic_id").reset_index(drop=True)
    members: dict[int, list[int]] = defaultdict(list)
    for position, group in enumerate(groups(ordered)):
        members[group].append(position)
    ids, classes = list(ordered["isic_id"]), list(ordered["lesion_class"])
    result = _reconciled(ordered, {name: ledger[name] for name in ids if name in ledger})
    dealt = Counter((classes[i], result[name]) for i, name in enumerate(ids) if name in result)
    undecided: list[list[int]] = []
    for positions in members.values():
        new = [i for i in positions if ids[i] not in result]
        earlier = {result[ids[i]] for i in positions if ids[i] in result} - {"aside"}
        if new and not earlier:
            undecided.append(new)
        for i in new if earlier else ():
            result[ids[i]] = next(iter(earlier)) if len(earlier) == 1 else "aside"
            dealt[classes[i], result[ids[i]]] += 1
    _deal(undecided, ids, classes, result, dealt)
    return result


def _reconciled(images: pd.DataFrame, dealt: dict[str, str]) -> dict[str, str]:
    """Set images aside so that no group of those dealt before lies in two splits."""
    known = images[[dealt.get(name) in SHARES for name in images["isic_id"]]]
    members: dict[int, list[str]] = defaultdict(list)
    for group, name in zip(groups(known), known["isic_id"], strict=True):
        members[group].append(name)
    result = dict(dealt)
    for names in members.values():
        kept = next(split for split in _KEPT_FIRST if split in {dealt[name] for name in names})
        result |= {name: "aside" for name in names if dealt[name] != kept}
    return result


def _deal(
    undecided: list[list[int]],
    ids: list[str],
    classes: list[str],
    result: dict[str, str],
    dealt: Counter[tuple[str, str]],
) -> None:
    totals = Counter(classes)
    for group in sorted(undecided, key=lambda g: (-len(g), sha256_hex(ids[g[0]].encode()))):
        rarest = min((classes[i] for i in group), key=lambda name: (totals[name], name))
        target = max(
            SHARES, key=lambda split: SHARES[split] * totals[rarest] - dealt[rarest, split]
        )
        for i in group:
            result[ids[i]] = target
            dealt[classes[i], target] += 1


def leaks(images: pd.DataFrame, assignment: Mapping[str, str]) -> list[str]:
    """Return `isic_id`s of images whose group lies in more than one split (none should).

    Images that were set aside are nowhere and tie nothing together.
    """
    used = images[[assignment[name] != "aside" for name in images["isic_id"]]]
    ordered = used.sort_values("isic_id").reset_index(drop=True)
    numbered = list(zip(groups(ordered), ordered["isic_id"], strict=True))
    splits: dict[int, set[str]] = defaultdict(set)
    for group, name in numbered:
        splits[group].add(assignment[name])
    return [name for group, name in numbered if len(splits[group]) > 1]
