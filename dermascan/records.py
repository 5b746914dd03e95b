"""Training examples in gzip'd TFRecord files, written and read without TensorFlow.

An example is a `tf.train.Example` with the features named below. Equal records give equal
bytes, so that a file can be named by its content.
"""

import functools
import gzip
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, Protocol, cast

import google_crc32c
import numpy as np
from google.protobuf import (  # type: ignore[import-untyped]  # protobuf ships no types
    descriptor_pb2,
    descriptor_pool,
    message,
    message_factory,
)
from numpy.typing import NDArray

from dermascan.errors import IntegrityError

IMAGE = "image"  # bytes: height * width * 3 of uint8 RGB, row by row
HEIGHT = "height"
WIDTH = "width"
LABEL = "label"  # index into taxonomy.LESION_CLASSES
ISIC_ID = "isic_id"
LESION_ID = "lesion_id"  # empty when the archive has none
GROUP = "group"  # empty when not known
SHA256 = "sha256"  # of the original file

FeatureKind = Literal["bytes", "int64"]
FEATURES: tuple[tuple[str, FeatureKind], ...] = (
    (IMAGE, "bytes"),
    (HEIGHT, "int64"),
    (WIDTH, "int64"),
    (LABEL, "int64"),
    (ISIC_ID, "bytes"),
    (LESION_ID, "bytes"),
    (GROUP, "bytes"),
    (SHA256, "bytes"),
)

# Pixels hardly compress: higher levels take several times longer to save a few percent.
_COMPRESSION_LEVEL = 1


@dataclass(frozen=True, eq=False)
class Record:
    """One prepared image with its label and origin.

    Attributes:
        image: uint8 RGB, (height, width, 3).
        label: index into `taxonomy.LESION_CLASSES`.
        isic_id: the archive's identifier.
        lesion_id: the archive's identifier of the lesion, None when it has none.
        sha256: of the original file, 64 hexadecimal digits.
        group: the same for images that belong together (`dermascan.splits`), None if not known.
    """

    image: NDArray[np.uint8]
    label: int
    isic_id: str
    lesion_id: str | None
    sha256: str
    group: str | None = None


def write_records(path: Path, records: Iterable[Record]) -> int:
    """Write records in the order given, one in memory at a time.

    Args:
        path: file to create or replace.
        records: consumed once.

    Returns:
        How many were written.
    """
    count = 0
    # No name and no time in the header: equal records give equal bytes.
    with (
        path.open("wb") as file,
        gzip.GzipFile("", "wb", _COMPRESSION_LEVEL, file, mtime=0) as packed,
    ):
        for record in records:
            packed.write(_framed(_encoded(record)))
            count += 1
    return count


def read_records(path: Path) -> Iterator[Record]:
    """Yield the records of a file in order, one in memory at a time.

    Args:
        path: as `write_records` leaves it.

    Raises:
        IntegrityError: the file is cut off or damaged; the message names file and record.
    """
    with gzip.open(path) as file:
        number = 0
        while True:
            try:
                payload = _read_frame(cast("BinaryIO", file))
                if payload is None:
                    return
                record = _decoded(payload)
            except (
                EOFError,
                gzip.BadGzipFile,
                zlib.error,
                message.DecodeError,
                ValueError,
            ) as error:
                found = f"{path.name}, record {number}: {error}"
                raise IntegrityError(f"{found}: make the file again") from error
            yield record
            number += 1


# Framing, as in tensorflow/core/lib/io/record_writer.h

_MASK_DELTA = 0xA282EAD8


def _framed(payload: bytes) -> bytes:
    length = struct.pack("<Q", len(payload))
    return b"".join((length, _masked_checksum(length), payload, _masked_checksum(payload)))


def _masked_checksum(data: bytes) -> bytes:
    checksum = google_crc32c.value(data)
    rotated = (checksum >> 15 | checksum << 17) & 0xFFFFFFFF
    return struct.pack("<I", (rotated + _MASK_DELTA) & 0xFFFFFFFF)


def _read_frame(file: BinaryIO) -> bytes | None:
    head = file.read(12)
    if not head:
        return None
    if len(head) < 12 or _masked_checksum(head[:8]) != head[8:]:
        raise ValueError("the length is cut off or fails its checksum")
    (length,) = struct.unpack("<Q", head[:8])
    payload, checksum = file.read(length), file.read(4)
    if len(payload) < length or _masked_checksum(payload) != checksum:
        raise ValueError("the data is cut off or fails its checksum")
    return payload


# tf.train.Example, described here because TensorFlow takes ten seconds to import


class _ValueList(Protocol):
    value: list[int] | list[bytes]


class _Feature(Protocol):
    bytes_list: _ValueList
    int64_list: _ValueList


class _Features(Protocol):
    feature: dict[str, _Feature]


class _Example(Protocol):
    features: _Features

    def SerializeToString(self, *, deterministic: bool) -> bytes: ...  # noqa: N802  # protobuf's name

    def ParseFromString(self, serialized: bytes) -> int: ...  # noqa: N802  # protobuf's name


@functools.cache
def _example_class() -> Callable[[], _Example]:
    """Build the message class; numbers and types as in tensorflow/core/example/*.proto."""
    scalar = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="example.proto", package="tensorflow", syntax="proto3"
    )
    messages = file.message_type
    messages.add(name="BytesList").field.append(_field("value", 1, scalar.TYPE_BYTES, many=True))
    messages.add(name="Int64List").field.append(_field("value", 1, scalar.TYPE_INT64, many=True))
    feature = messages.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    feature.field.extend(
        (_field("bytes_list", 1, "BytesList"), _field("int64_list", 3, "Int64List"))
    )
    for alternative in feature.field:
        alternative.oneof_index = 0
    features = messages.add(name="Features")
    features.field.append(_field("feature", 1, "Features.FeatureEntry", many=True))
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.extend((_field("key", 1, scalar.TYPE_STRING), _field("value", 2, "Feature")))
    messages.add(name="Example").field.append(_field("features", 1, "Features"))
    # A pool of its own: TensorFlow registers the same names in the default one.
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    example = pool.FindMessageTypeByName("tensorflow.Example")
    return cast("Callable[[], _Example]", message_factory.GetMessageClass(example))


def _field(
    name: str, number: int, kind: int | str, *, many: bool = False
) -> descriptor_pb2.FieldDescriptorProto:
    """Describe a field; `kind` is a scalar type's number or the name of a message."""
    description = descriptor_pb2.FieldDescriptorProto
    field = description(name=name, number=number)
    field.label = description.LABEL_REPEATED if many else description.LABEL_OPTIONAL
    if isinstance(kind, str):
        field.type, field.type_name = description.TYPE_MESSAGE, f".tensorflow.{kind}"
    else:
        field.type = kind
    return field


def _encoded(record: Record) -> bytes:
    height, width, _ = record.image.shape
    values: dict[str, int | bytes] = {
        IMAGE: record.image.tobytes(),
        HEIGHT: height,
        WIDTH: width,
        LABEL: record.label,
        ISIC_ID: record.isic_id.encode(),
        LESION_ID: (record.lesion_id or "").encode(),
        GROUP: (record.group or "").encode(),
        SHA256: record.sha256.encode(),
    }
    example = _example_class()()
    for name, kind in FEATURES:
        feature = example.features.feature[name]
        values_of_kind = feature.bytes_list if kind == "bytes" else feature.int64_list
        values_of_kind.value.append(values[name])  # type: ignore[arg-type]  # FEATURES tells the type
    return example.SerializeToString(deterministic=True)


def _decoded(payload: bytes) -> Record:
    example = _example_class()()
    example.ParseFromString(payload)
    feature = example.features.feature
    if {name for name, _ in FEATURES} - set(feature):
        raise ValueError("not all features are there")
    numbers = {name: cast("int", feature[name].int64_list.value[0]) for name in _named("int64")}
    texts = {name: cast("bytes", feature[name].bytes_list.value[0]) for name in _named("bytes")}
    pixels = np.frombuffer(texts[IMAGE], np.uint8)
    return Record(
        image=pixels.reshape(numbers[HEIGHT], numbers[WIDTH], 3),
        label=numbers[LABEL],
        isic_id=texts[ISIC_ID].decode(),
        lesion_id=texts[LESION_ID].decode() or None,
        sha256=texts[SHA256].decode(),
        group=texts[GROUP].decode() or None,
    )


def _named(kind: FeatureKind) -> list[str]:
    return [name for name, its_kind in FEATURES if its_kind == kind]
