"""Which image trains, validates and tests: by group, stratified, and for ever.

Images that share a lesion, a patient or (nearly) their pixels form a group, and a group is
never divided. Groups are dealt out class by class to the split that lacks most, and the
result is kept in a ledger: an image that was dealt once never moves to another split, whatever
is added later. A new image that would tie two splits together is set aside. Where it turns out
that images of two splits belong together (the archive learnt of a lesion or a patient, or they
were dealt in runs that did not see each other), those outside the test split are set aside.
"""

from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping
from hashlib import sha256
from itertools import chain, combinations
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

STEP_VERSION = 3
Split = Literal["train", "val", "test", "aside"]
SHARES: dict[str, float] = {"train": 0.70, "val": 0.15, "test": 0.15}
SPLITS: tuple[str, ...] = (*SHARES, "aside")
UNDEALT = -1
_ASIDE = SPLITS.index("aside")
# Of images that belong together, those of which split stay: first "test", then "val".
_KEPT_FIRST = np.array([("test", "val", "train").index(name) for name in SHARES], np.int8)

Dealt = NDArray[np.int8]  # an index into `SPLITS` for each image, or `UNDEALT`

# Two 64-bit perceptual hashes at most this far apart count as the same picture. Four bands
# of 16 bits find every such pair: three differing bits leave one band untouched.
NEAR_DUPLICATE_BITS = 3
_BANDS = 4
# Images with one value of these belong together.
NUMBERED = ("lesion_id", "patient_id", "sha256")
_TYING = [*NUMBERED, "perceptual_hash"]


def trainable(manifest: pa.Table) -> pa.ChunkedArray:
    """Tell which rows can train or test: a lesion class, and dermoscopic or unsaid."""
    kind = manifest["image_type"]
    dermoscopic = pc.or_kleene(pc.is_null(kind), pc.equal(kind, "dermoscopic"))
    return pc.and_(pc.is_valid(manifest["lesion_class"]), dermoscopic)


def hash_numbers(hashes: Collection[str]) -> NDArray[np.uint64]:
    """Return perceptual hashes, 16 hexadecimal digits each, as numbers."""
    return np.fromiter((int(text, 16) for text in hashes), np.uint64, len(hashes))


def near_duplicates(values: NDArray[np.uint64]) -> list[tuple[int, int]]:
    """Return positions of perceptual hashes at most `NEAR_DUPLICATE_BITS` apart.

    Args:
        values: as from `hash_numbers`.
    """
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
    differs = np.diff(values[order]) != 0
    starts = np.flatnonzero(np.append(True, differs))
    sizes = np.diff(starts, append=len(order))
    for group in np.flatnonzero(sizes > 1):
        yield order[starts[group] : starts[group] + sizes[group]].tolist()


def group_names(images: pd.DataFrame) -> Iterator[str]:
    """Yield for each row the `isic_id` of its group's first row.

    Args:
        images: columns `isic_id` and those of `groups`.
    """
    return _names(images, _groups(images))


def _names(images: pd.DataFrame, positions: NDArray[np.intp]) -> Iterator[str]:
    """Yield identifiers one by one: a selection would copy all of them."""
    names = images["isic_id"].array
    return (names[position] for position in positions)


def groups(images: pd.DataFrame) -> list[int]:
    """Number the groups of images that must stay together.

    Args:
        images: columns `lesion_id`, `patient_id`, `sha256`, int32, as from
            `dermascan.dataset.number_values`; and `perceptual_hash` as from `hash_numbers`.

    Returns:
        For each row the position of its group's first row.
    """
    numbers: list[int] = _groups(images).tolist()
    return numbers


def _groups(images: pd.DataFrame) -> NDArray[np.intp]:
    parent = array("i", range(len(images)))

    def root(position: int) -> int:
        while parent[position] != position:
            parent[position] = parent[parent[position]]
            position = parent[position]
        return position

    for first, second in _ties(images):
        a, b = sorted((root(first), root(second)))
        parent[b] = a
    return np.fromiter(map(root, range(len(images))), np.intp, len(images))


def _ties(images: pd.DataFrame) -> Iterable[tuple[int, int]]:
    same = (_repeats(images[column].to_numpy()) for column in NUMBERED)
    return chain(chain.from_iterable(same), near_duplicates(images["perceptual_hash"].to_numpy()))


def _repeats(numbers: NDArray[np.int32]) -> Iterator[tuple[int, int]]:
    """Yield the first position of a number with each later one; -1 is no number."""
    known = np.flatnonzero(numbers >= 0)
    first = np.empty(numbers.max(initial=-1) + 1, np.intp)
    first[numbers[known][::-1]] = known[::-1]  # what is written last stays
    for position in known[first[numbers[known]] != known]:
        yield int(first[numbers[position]]), int(position)


def assign(images: pd.DataFrame, ledger: Mapping[str, str]) -> dict[str, str]:
    """Deal images to splits, by name; see `deal`.

    Args:
        images: as for `deal`.
        ledger: split of every image that was dealt before, by `isic_id`.

    Returns:
        Split of every image of `images`, by `isic_id`.
    """
    dealt = deal(images, earlier(images, ledger.items()))
    return dict(zip(images["isic_id"], split_names(dealt), strict=True))


def earlier(images: pd.DataFrame, ledger: Iterable[tuple[str, str]]) -> Dealt:
    """Look up how images were dealt before.

    Args:
        images: column `isic_id`.
        ledger: `isic_id` and split of images that were dealt before.
    """
    codes = {name: code for code, name in enumerate(SPLITS)}
    rows = images["isic_id"].to_numpy().argsort()
    names = images["isic_id"].to_numpy()[rows]
    found = np.full(len(images), UNDEALT, np.int8)
    for name, split in ledger:
        place = bisect_left(names, name)
        if place < len(names) and names[place] == name:
            found[rows[place]] = codes[split]
    return found


def split_names(dealt: Dealt) -> Iterator[str]:
    """Yield the name of each image's split."""
    return (SPLITS[code] for code in dealt)


def deal(images: pd.DataFrame, before: Dealt) -> Dealt:
    """Deal images to splits.

    It takes some 100 bytes an image beside the table.

    Args:
        images: columns `isic_id`, `lesion_class` and those of `groups`; any row order
            gives the same result.
        before: of each row the split that it was dealt to before.

    Returns:
        Of each row its split; those that were dealt before keep theirs or are set aside.
    """
    order = images["isic_id"].array.argsort()
    ordered = images if (np.diff(order) == 1).all() else images.iloc[order]
    result = _reconciled(ordered, before[order])
    group = _groups(ordered)
    new = result == UNDEALT
    result[new] = _by_ties(group, result)[group[new]]
    _deal_new(ordered, group, result)
    given = np.empty_like(result)
    given[order] = result
    return given


def _reconciled(images: pd.DataFrame, before: Dealt) -> Dealt:
    """Set images aside so that no group of those dealt before lies in two splits."""
    known = np.flatnonzero((before != UNDEALT) & (before != _ASIDE))
    group, rank = _groups(images[_TYING].iloc[known]), _KEPT_FIRST[before[known]]
    first = np.full(len(known), len(SHARES), np.int8)
    np.minimum.at(first, group, rank)
    result = before.copy()
    result[known[rank != first[group]]] = _ASIDE
    return result


def _by_ties(group: NDArray[np.intp], dealt: Dealt) -> Dealt:
    """Return what each group's splits leave for further images of it."""
    found = _splits_of_groups(group, dealt)
    following = np.full(1 << len(SHARES), _ASIDE, np.int8)
    following[0] = UNDEALT
    for code in range(len(SHARES)):
        following[1 << code] = code
    return following[found]


def _splits_of_groups(group: NDArray[np.intp], dealt: Dealt) -> NDArray[np.uint8]:
    """Return of each group its splits but "aside", a bit for each."""
    used = (dealt != UNDEALT) & (dealt != _ASIDE)
    found = np.zeros(len(group), np.uint8)
    np.bitwise_or.at(found, group[used], np.uint8(1) << dealt[used].astype(np.uint8))
    return found


def _deal_new(images: pd.DataFrame, group: NDArray[np.intp], result: Dealt) -> None:
    """Deal whole groups, the largest first, to the split that lacks most of the rarest class."""
    classes, totals = _rarest_first(images["lesion_class"])
    counts = np.zeros((len(totals), len(SPLITS)), np.intp)
    np.add.at(counts, (classes[result != UNDEALT], result[result != UNDEALT]), 1)
    new = np.flatnonzero(result == UNDEALT)
    new = new[np.argsort(group[new], kind="stable")]
    starts = np.flatnonzero(np.diff(group[new], prepend=-1))
    sizes = np.diff(starts, append=len(new))
    wanted = np.outer(totals, list(SHARES.values()))
    for turn in _turns(_names(images, new[starts]), sizes):
        members = new[starts[turn] : starts[turn] + sizes[turn]]
        rarest = classes[members].min()
        target = (wanted[rarest] - counts[rarest, : len(SHARES)]).argmax()
        result[members] = target
        np.add.at(counts, (classes[members], target), 1)


def _rarest_first(classes: "pd.Series[str]") -> tuple[NDArray[np.int8], list[int]]:
    """Number classes from the rarest to the commonest; return also how many each has."""
    codes, names = pd.factorize(classes)
    totals = np.bincount(codes, minlength=len(names))
    order = sorted(range(len(names)), key=lambda code: (totals[code], names[code]))
    rank = np.empty(len(names), np.int8)
    rank[order] = np.arange(len(names))
    return rank[codes], totals[order].tolist()


def _turns(first_ids: Iterable[str], sizes: NDArray[np.intp]) -> NDArray[np.intp]:
    """Order groups by size, and those of one size by the SHA-256 of their first image's name."""
    digests = (sha256(name.encode()).digest() for name in first_ids)
    return np.lexsort((np.fromiter(digests, "S32", len(sizes)), -sizes))


def leaks(images: pd.DataFrame, assignment: Mapping[str, str]) -> list[str]:
    """Return `isic_id`s of images whose group lies in more than one split (none should).

    Images that were set aside are nowhere and tie nothing together.
    """
    codes = [SPLITS.index(assignment[name]) for name in images["isic_id"]]
    return leaking(images, np.array(codes, np.int8))


def leaking(images: pd.DataFrame, dealt: Dealt) -> list[str]:
    """Return what `leaks` returns, in the order of `isic_id`."""
    used = np.flatnonzero(dealt != _ASIDE)
    group = _groups(images[_TYING].iloc[used])
    found = _splits_of_groups(group, dealt[used])
    divided = (found & (found - 1)) != 0  # more than one bit
    return sorted(images["isic_id"].iloc[used[divided[group]]])
