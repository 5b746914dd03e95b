from collections import Counter

import numpy as np
import pytest

from dermascan.imaging import ImageSize
from dermascan.learning.folds import fold_left_out, make_folds
from dermascan.learning.shards import Shards
from dermascan.records import Record, write_records

SIZE = ImageSize(16, 24)


def shards_of(folder, records):
    """Write records to two files; those of a group are far from one another."""
    made = []
    for name, some in (("a", records[::2]), ("b", records[1::2])):
        write_records(folder / name, some)
        made.append(Shards.unpack(folder / name, folder / f"{name}.pixels", SIZE, batch_size=5))
    return Shards.joined(made)


def record(number, label, group):
    image = np.full((16, 24, 3), number, np.uint8)
    return Record(image, label, f"ISIC_{number:07d}", None, "0" * 64, group)


@pytest.fixture
def records():
    """Give 60 images of 30 groups, every fifth of which is malignant."""
    return [record(i, 4 if i % 5 == 0 else 5, f"ISIC_{i % 30:07d}") for i in range(60)]


@pytest.fixture
def folds(records, tmp_path):
    return make_folds(shards_of(tmp_path, records), 3)


def test_make_folds_gives_each_image_to_one_fold_as_it_is_in_file_order(records, folds):
    in_files = [*records[::2], *records[1::2]]
    names = [name for fold in folds for name in fold.isic_ids]
    assert sorted(names) == [each.isic_id for each in records]
    for fold in folds:
        expected = [each for each in in_files if each.isic_id in fold.isic_ids]
        assert fold.isic_ids.tolist() == [each.isic_id for each in expected]
        assert fold.labels.tolist() == [each.label for each in expected]
        images = np.stack([each.image for each in expected])
        np.testing.assert_array_equal(fold.images(np.arange(len(fold))), images)
        assert fold.parts == (len(fold),)


def test_make_folds_never_divides_a_group(records, folds):
    group = {each.isic_id: each.group for each in records}
    held = Counter(name for fold in folds for name in {group[name] for name in fold.isic_ids})
    assert set(held.values()) == {1}


def test_make_folds_deals_each_class_in_equal_parts(folds):
    assert [fold.class_counts.tolist() for fold in folds] == [[0, 0, 0, 0, 4, 16, 0]] * 3


def test_make_folds_of_fewer_groups_than_folds_makes_no_empty_one(tmp_path):
    records = [record(0, 4, "one"), record(1, 4, "one"), record(2, 5, None)]

    folds = make_folds(shards_of(tmp_path, records), 5)

    assert sorted(len(fold) for fold in folds) == [1, 2]


@pytest.mark.parametrize(
    ("members", "folds", "left_out"),
    [(6, 3, [0, 0, 1, 1, 2, 2]), (4, 3, [0, 0, 1, 2]), (2, 2, [0, 1]), (1, 1, [0])],
)
def test_fold_left_out_gives_every_fold_to_neighbouring_networks(members, folds, left_out):
    assert [fold_left_out(member, members, folds) for member in range(members)] == left_out
