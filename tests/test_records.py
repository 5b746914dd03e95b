import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dermascan import records
from dermascan.errors import IntegrityError
from dermascan.records import Record, read_records, write_records
from dermascan.taxonomy import LESION_CLASSES

RECORDS = st.builds(
    Record,
    image=arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12), st.just(3))),
    label=st.integers(0, len(LESION_CLASSES) - 1),
    isic_id=st.integers(0, 9_999_999).map(lambda number: f"ISIC_{number:07d}"),
    lesion_id=st.none() | st.text(min_size=1),
    sha256=st.binary(min_size=32, max_size=32).map(bytes.hex),
    group=st.none() | st.text(min_size=1),
)


def example(seed: int = 0, lesion_id: str | None = "IL_0000001") -> Record:
    image = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Record(image, seed % 7, f"ISIC_{seed:07d}", lesion_id, f"{seed:064x}")


def assert_same(found: Record, expected: Record) -> None:
    np.testing.assert_array_equal(found.image, expected.image, strict=True)
    for name in ("label", "isic_id", "lesion_id", "sha256", "group"):
        assert getattr(found, name) == getattr(expected, name)


@settings(max_examples=40, deadline=None)
@given(originals=st.lists(RECORDS, max_size=5))
def test_records_when_written_and_read_are_the_same(originals, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "round-trip"
    assert write_records(path, originals) == len(originals)
    found = list(read_records(path))
    assert len(found) == len(originals)
    for one, other in zip(found, originals, strict=True):
        assert_same(one, other)


def test_write_records_when_repeated_gives_equal_bytes(tmp_path: Path):
    for name in ("one", "two"):
        write_records(tmp_path / name, (example(seed) for seed in range(3)))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_read_records_when_a_byte_is_changed_names_file_and_record(tmp_path: Path):
    path = tmp_path / "part-00003.tfrecord.gz"
    write_records(path, [example(0), example(1), example(2)])
    plain = bytearray(gzip.decompress(path.read_bytes()))
    plain[len(plain) // 2] ^= 1
    path.write_bytes(gzip.compress(bytes(plain)))
    with pytest.raises(IntegrityError, match=r"part-00003\.tfrecord\.gz, record 1"):
        list(read_records(path))


@settings(max_examples=60, deadline=None)
@given(fraction=st.floats(0, 1, exclude_max=True))
def test_read_records_when_file_is_cut_anywhere_raises(fraction: float, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "cut"
    write_records(path, [example(0), example(1)])
    whole = path.read_bytes()
    path.write_bytes(whole[: max(1, int(len(whole) * fraction))])
    with pytest.raises(IntegrityError, match="record"):
        list(read_records(path))


@settings(max_examples=60, deadline=None)
@given(fraction=st.floats(0, 1, exclude_max=True))
def test_read_records_when_plain_data_is_cut_raises_or_ends_between_records(
    fraction: float, tmp_path_factory
):
    path = tmp_path_factory.getbasetemp() / "cut-inside"
    write_records(path, [example(0), example(1)])
    plain = gzip.decompress(path.read_bytes())
    cut = int(len(plain) * fraction)
    path.write_bytes(gzip.compress(plain[:cut]))
    if cut in {0, len(plain) // 2}:
        assert len(list(read_records(path))) == (1 if cut else 0)
    else:
        with pytest.raises(IntegrityError, match="cut off"):
            list(read_records(path))


def test_read_records_when_file_is_something_else_raises(tmp_path: Path):
    path = tmp_path / "page.html"
    path.write_bytes(b"<html>not a record</html>")
    with pytest.raises(IntegrityError, match=r"page\.html"):
        list(read_records(path))


def test_tensorflow_when_it_reads_a_file_finds_exactly_what_was_written(tmp_path: Path):
    import tensorflow as tf  # noqa: PLC0415  # TensorFlow takes 10 s to import

    path = tmp_path / "part"
    originals = [example(0), example(1, lesion_id=None)]
    write_records(path, originals)
    kinds = {"bytes": tf.string, "int64": tf.int64}
    features = {name: tf.io.FixedLenFeature([], kinds[kind]) for name, kind in records.FEATURES}
    dataset = tf.data.TFRecordDataset(str(path), compression_type="GZIP")
    parsed = [tf.io.parse_single_example(payload, features) for payload in dataset]
    assert len(parsed) == len(originals)
    for found, original in zip(parsed, originals, strict=True):
        shape = (int(found[records.HEIGHT]), int(found[records.WIDTH]), 3)
        pixels = tf.reshape(tf.io.decode_raw(found[records.IMAGE], tf.uint8), shape)
        np.testing.assert_array_equal(pixels.numpy(), original.image)
        assert int(found[records.LABEL]) == original.label
        texts = [found[name].numpy().decode() for name in ("isic_id", "lesion_id", "sha256")]
        assert texts == [original.isic_id, original.lesion_id or "", original.sha256]


def test_records_when_tensorflow_wrote_them_are_read_as_well(tmp_path: Path):
    import tensorflow as tf  # noqa: PLC0415  # TensorFlow takes 10 s to import

    path, original = tmp_path / "part", example(5)
    write_records(path, [original])
    (payload,) = tf.data.TFRecordDataset(str(path), compression_type="GZIP")
    message = tf.train.Example.FromString(payload.numpy())
    with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
        writer.write(message.SerializeToString())
    (found,) = read_records(path)
    assert_same(found, original)
    assert message.SerializeToString(deterministic=True) == payload.numpy()
