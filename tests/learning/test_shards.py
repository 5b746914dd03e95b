import os

import numpy as np
import pytest

from dermascan.errors import IntegrityError
from dermascan.imaging import ImageSize
from dermascan.learning.shards import Shards
from dermascan.records import Record, write_records

SIZE = ImageSize(16, 24)


def record(number, group=None, size=SIZE):
    image = np.random.default_rng(number).integers(0, 256, (size.height, size.width, 3), np.uint8)
    return Record(image, number % 7, f"ISIC_{number:07d}", None, "0" * 64, group)


def unpacked(folder, numbers, group=None):
    path = folder / f"{numbers}.tfrecord.gz"
    write_records(path, [record(number, group) for number in numbers])
    return Shards.unpack(path, path.with_suffix(".pixels"), SIZE, batch_size=5)


def assert_holds(shards, numbers):
    assert len(shards) == len(numbers)
    assert shards.isic_ids.tolist() == [f"ISIC_{number:07d}" for number in numbers]
    assert shards.labels.tolist() == [number % 7 for number in numbers]
    expected = np.array([record(number).image for number in numbers])
    np.testing.assert_array_equal(shards.images(np.arange(len(numbers))), expected)
    assert (shards.image_size, shards.batch_size) == (SIZE, 5)


def test_fetch_makes_a_part_of_each_file_and_leaves_pixels_alone_on_disk(store, tmp_path):
    for name, numbers in (("a", (0, 1)), ("b", ()), ("c", (2, 3, 4))):
        write_records(tmp_path / "packed", [record(number) for number in numbers])
        store.put_file(name, tmp_path / "packed")
    folder = tmp_path / "unpacked"
    folder.mkdir()

    shards = Shards.fetch(store, ("a", "b", "c"), folder, SIZE, batch_size=5)

    assert_holds(shards, range(5))
    assert shards.parts == (2, 0, 3)
    assert sum(path.stat().st_size for path in folder.iterdir()) == 5 * 16 * 24 * 3


def test_images_when_the_pixels_are_cut_off_raises(tmp_path):
    shards = unpacked(tmp_path, range(3))
    os.truncate(shards.files[0].name, 3 * 16 * 24 * 3 - 1)

    assert len(shards.images(np.arange(2))) == 2
    with pytest.raises(IntegrityError, match=r"pixels, image 2: cut off"):
        shards.images(np.arange(3))


def test_unpack_groups_an_image_of_no_group_with_itself_alone(tmp_path):
    assert unpacked(tmp_path, [1, 2]).groups.tolist() == ["ISIC_0000001", "ISIC_0000002"]
    assert unpacked(tmp_path, [3, 4], "IL_1").groups.tolist() == ["IL_1", "IL_1"]


@pytest.mark.parametrize("kept", [0.5, 0.999])
def test_unpack_when_the_file_is_cut_raises(kept, tmp_path):
    path = tmp_path / "part-00003.tfrecord.gz"
    write_records(path, [record(0), record(1)])
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])

    with pytest.raises(IntegrityError, match=r"part-00003.*make the file again"):
        Shards.unpack(path, tmp_path / "pixels", SIZE, batch_size=5)


def test_unpack_of_images_of_another_size_raises(tmp_path):
    path = tmp_path / "part-00003.tfrecord.gz"
    write_records(path, [record(0), record(1, size=ImageSize(24, 16))])

    with pytest.raises(IntegrityError, match=r"part-00003.*ISIC_0000001.*\(24, 16, 3\)"):
        Shards.unpack(path, tmp_path / "pixels", SIZE, batch_size=5)


def test_joined_and_only_choose_among_the_same_files(tmp_path):
    one, other = unpacked(tmp_path, range(4)), unpacked(tmp_path, range(4, 7))

    both = Shards.joined((one, other))
    some = both.only(np.array([False, True, True, False, False, True, True]))
    again = Shards.joined((other, some))

    assert_holds(both, range(7))
    assert both.parts == (4, 3)
    assert_holds(some, [1, 2, 5, 6])
    assert some.parts == (4,)
    assert_holds(again, [4, 5, 6, 1, 2, 5, 6])
    assert again.parts == (3, 4)
    np.testing.assert_array_equal(some.images(np.array([3, 0]))[0], record(6).image)
