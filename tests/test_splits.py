from collections import Counter, defaultdict

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dermascan.fingerprint import sha256_hex
from dermascan.splits import (
    SHARES,
    assign,
    group_names,
    groups,
    hash_numbers,
    leaks,
    near_duplicates,
    trainable,
)

CLASSES = ["nv", "mel", "bkl"]
UNKNOWN = -1
COLUMNS = {
    "isic_id": "str",
    "lesion_id": "int32",
    "patient_id": "int32",
    "sha256": "int32",
    "perceptual_hash": "uint64",
    "lesion_class": "str",
}


def frame(rows):
    columns = zip(*rows, strict=True) if rows else [[]] * len(COLUMNS)
    return pd.DataFrame(
        {
            name: pd.Series(list(values), dtype=kind)
            for (name, kind), values in zip(COLUMNS.items(), columns, strict=True)
        }
    )


def distinct_hash(i: int) -> int:
    return (i * 0x9E3779B97F4A7C15) % 2**64


def image(i: int, lesion: int, patient: int = UNKNOWN, lesion_class: str = "nv"):
    return (f"ISIC_{i:07d}", lesion, patient, i, distinct_hash(i + 1), lesion_class)


@st.composite
def collections_of_images(draw):
    count = draw(st.integers(1, 60))
    return frame(
        [
            image(
                i,
                draw(st.integers(UNKNOWN, 25)),
                draw(st.integers(UNKNOWN, 12)),
                draw(st.sampled_from(CLASSES)),
            )
            for i in range(count)
        ]
    )


@settings(max_examples=60, deadline=None)
@given(collections_of_images())
def test_assign_never_divides_a_group_and_deals_every_image(images):
    assignment = assign(images, {})
    assert set(assignment) == set(images["isic_id"])
    assert leaks(images, assignment) == []


@settings(max_examples=60, deadline=None)
@given(collections_of_images(), st.randoms())
def test_assign_when_rows_are_shuffled_gives_the_same(images, random):
    order = list(range(len(images)))
    random.shuffle(order)
    assert assign(images.iloc[order], {}) == assign(images, {})


@settings(max_examples=60, deadline=None)
@given(collections_of_images(), st.integers(1, 59))
def test_assign_when_images_are_added_moves_none_and_leaks_none(images, some):
    before = assign(images.head(some), {})
    after = assign(images, before)
    assert {name: after[name] for name in before} == before
    assert leaks(images, after) == []


def test_assign_when_selections_did_not_see_each_other_sets_aside_what_would_leak():
    first = frame([image(2 * i, i) for i in range(60)])
    second = frame([image(2 * i + 1, i) for i in range(60)])
    ledger = assign(first, {})
    ledger |= assign(second, ledger)
    both = pd.concat([first, second])
    after = assign(both, ledger)
    assert leaks(both, ledger) != []  # or the test shows nothing
    assert leaks(both, after) == []
    moved = {name for name in after if after[name] != ledger[name]}
    assert {after[name] for name in moved} == {"aside"}
    assert all(ledger[name] != "test" for name in moved)


def test_assign_when_patients_become_known_later_sets_aside_what_would_leak():
    before = frame([image(i, i) for i in range(60)])
    ledger = assign(before, {})
    after = frame([image(i, i, i % 20) for i in range(60)])
    assert leaks(after, ledger) != []
    assert leaks(after, assign(after, ledger)) == []


def test_assign_when_a_new_image_ties_two_splits_together_sets_it_aside():
    old = frame([image(1, 1, 1), image(2, 2, 2)])
    ledger = {"ISIC_0000001": "train", "ISIC_0000002": "test"}
    bridge = frame([image(3, 1, 2)])
    assignment = assign(pd.concat([old, bridge]), ledger)
    assert assignment["ISIC_0000003"] == "aside"


def test_assign_stratifies_every_class():
    rows = [image(i, i, lesion_class=CLASSES[i % 10 // 5 + (i % 20 == 0)]) for i in range(600)]
    images = frame(rows)
    splits = images["isic_id"].map(assign(images, {}))
    for lesion_class, members in splits.groupby(images["lesion_class"]):
        for split, share in SHARES.items():
            got = (members == split).mean()
            assert abs(got - share) < 1.5 / len(members) + 0.01, (lesion_class, split)


@settings(max_examples=100, deadline=None)
@given(collections_of_images(), st.integers(0, 59), st.randoms())
def test_assign_deals_as_one_who_takes_groups_one_by_one(images, some, random):
    ledger = one_by_one(images.head(some), {})
    for name in list(ledger)[::5]:  # what the archive learnt later
        ledger[name] = random.choice([*SHARES, "aside"])
    assert assign(images, ledger) == one_by_one(images, ledger)


def one_by_one(images: pd.DataFrame, ledger: dict[str, str]) -> dict[str, str]:
    """Deal images as the module describes it, in as few words as can be."""
    ordered = images.sort_values("isic_id")
    classes = dict(zip(ordered["isic_id"], ordered["lesion_class"], strict=True))
    before = {name: ledger[name] for name in classes if name in ledger}
    result = dict(before)
    for members in members_of_groups(ordered[ordered["isic_id"].map(before).isin(SHARES)]):
        kept = next(s for s in ("test", "val", "train") if s in {before[name] for name in members})
        result |= {name: "aside" for name in members if before[name] != kept}
    undealt = []
    for members in members_of_groups(ordered):
        new = [name for name in members if name not in result]
        found = sorted({result[name] for name in members if name in result} - {"aside"})
        result |= dict.fromkeys(new if found else (), found[0] if len(found) == 1 else "aside")
        undealt += [new] if new and not found else []
    totals, dealt = Counter(classes.values()), Counter((classes[n], s) for n, s in result.items())
    for group in sorted(undealt, key=lambda g: (-len(g), sha256_hex(g[0].encode()))):
        rarest = min((classes[name] for name in group), key=lambda each: (totals[each], each))
        lacks = {split: SHARES[split] * totals[rarest] - dealt[rarest, split] for split in SHARES}
        target = max(SHARES, key=lacks.__getitem__)
        result |= dict.fromkeys(group, target)
        dealt.update((classes[name], target) for name in group)
    return result


def members_of_groups(images: pd.DataFrame) -> list[list[str]]:
    """Return the names in each group, by group and within it in the order of the rows."""
    members = defaultdict(list)
    if len(images):
        for group, name in zip(groups(images), images["isic_id"], strict=True):
            members[group].append(name)
    return list(members.values())


def test_near_duplicates_finds_pairs_up_to_three_bits_apart():
    base = 0x0123456789ABCDEF
    three = base ^ (1 << 0 | 1 << 20 | 1 << 40)
    four = base ^ (1 << 1 | 1 << 21 | 1 << 41 | 1 << 61)
    assert near_duplicates(np.array([base, three, four], np.uint64)) == [(0, 1)]


def test_hash_numbers_reads_all_64_bits():
    assert hash_numbers(["0000000000000000", "ffffffffffffffff"]).tolist() == [0, 2**64 - 1]


def test_groups_when_pictures_are_nearly_the_same_joins_them():
    first, second = image(1, 1), list(image(2, 2))
    second[4] = first[4] ^ 1
    assert groups(frame([first, second])) == [0, 0]


@pytest.mark.parametrize("column", ["lesion_id", "patient_id", "sha256"])
def test_groups_when_numbers_are_equal_joins_rows_unless_they_say_unknown(column):
    images = frame([image(i, UNKNOWN) for i in range(5)])
    images[column] = np.array([7, UNKNOWN, 3, 7, UNKNOWN], np.int32)
    images["sha256"] = images["sha256"] if column == "sha256" else np.int32(UNKNOWN)
    assert groups(images) == [0, 1, 2, 0, 4]


def test_group_names_are_those_of_the_first_rows():
    images = frame([image(5, 1), image(6, 2), image(7, 1)])
    assert list(group_names(images)) == ["ISIC_0000005", "ISIC_0000006", "ISIC_0000005"]


def test_trainable_when_a_class_lacks_or_an_image_is_not_dermoscopic_says_no():
    rows = pa.table(
        {
            "lesion_class": ["nv", None, "mel", "nv", None],
            "image_type": ["dermoscopic", "dermoscopic", None, "clinical: overview", None],
        }
    )
    assert trainable(rows).to_pylist() == [True, False, True, False, False]
