"""Labelled images on this host's disk, to be read in any order and as often as there are epochs."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from dermascan.errors import IntegrityError
from dermascan.imaging import ImageSize
from dermascan.layout import part
from dermascan.records import Record, read_records
from dermascan.storage import Store, concurrently
from dermascan.taxonomy import LESION_CLASSES

_PARALLEL_FILES = 4


@dataclass(frozen=True, eq=False)
class Shards:
    """Labelled images of one size, in parts, such as the files that they came in.

    Their pixels lie on disk, so that memory holds only what is being looked at.

    Attributes:
        files: open ones of pixels, uint8 (height, width, 3) RGB an image.
        places: int64 (M, 2); of each image the number of its file, and its place there.
        labels: int64 (M,), index into `taxonomy.LESION_CLASSES`.
        isic_ids: str (M,), the archive's identifiers.
        groups: str (M,), the same for images that belong together.
        parts: how many of the M images each part has, one part after the other.
        image_size: of every image.
        batch_size: images a step.
    """

    files: tuple[BinaryIO, ...]
    places: NDArray[np.int64]
    labels: NDArray[np.int64]
    isic_ids: NDArray[np.str_]
    groups: NDArray[np.str_]
    parts: tuple[int, ...]
    image_size: ImageSize
    batch_size: int

    @classmethod
    def fetch(
        cls, store: Store, keys: Sequence[str], folder: Path, image_size: ImageSize, batch_size: int
    ) -> "Shards":
        """Copy files to this host, and unpack them: a part each.

        Args:
            store: bucket of the files.
            keys: of gzip'd TFRecord files, at least one.
            folder: an empty one, where the pixels are kept.
            image_size: of the examples.
            batch_size: images a step.

        Raises:
            IntegrityError: a file is damaged, or of another image size; the message names it.
        """

        def fetch(numbered: tuple[int, str]) -> Shards:
            number, key = numbered
            packed = folder / part("", number, ".tfrecord.gz")
            store.get_file(key, packed)
            unpacked = cls.unpack(packed, packed.with_suffix(".pixels"), image_size, batch_size)
            packed.unlink()
            return unpacked

        return cls.joined(tuple(concurrently(fetch, enumerate(keys), concurrency=_PARALLEL_FILES)))

    @classmethod
    def unpack(cls, path: Path, pixels: Path, image_size: ImageSize, batch_size: int) -> "Shards":
        """Leave the pixels of a file's examples in another, and return the examples as one part.

        Args:
            path: as `records.write_records` leaves it.
            pixels: file to create or replace, and then to leave as it is.
            image_size: of the examples.
            batch_size: images a step.

        Raises:
            IntegrityError: the file is damaged, or of another image size; the message names it.
        """
        shape = (image_size.height, image_size.width, 3)
        rows = []
        with pixels.open("wb") as file:
            for record in read_records(path):
                _require_shape(path, record, shape)
                file.write(record.image.data)
                rows.append((record.label, record.isic_id, record.group or record.isic_id))
        return cls(
            files=(pixels.open("rb"),),
            places=np.array([(0, row) for row in range(len(rows))], np.int64).reshape(-1, 2),
            labels=np.array([label for label, _, _ in rows], np.int64),
            isic_ids=np.array([name for _, name, _ in rows], np.str_),
            groups=np.array([group for _, _, group in rows], np.str_),
            parts=(len(rows),),
            image_size=image_size,
            batch_size=batch_size,
        )

    @classmethod
    def joined(cls, several: "Sequence[Shards]") -> "Shards":
        """Return the parts of several, at least one, that agree in image size and batch size."""
        before = np.cumsum([0, *(len(each.files) for each in several)])
        places = [
            each.places + np.array((first, 0)) for first, each in zip(before, several, strict=False)
        ]
        return cls(
            files=tuple(file for each in several for file in each.files),
            places=np.concatenate(places),
            labels=np.concatenate([each.labels for each in several]),
            isic_ids=np.concatenate([each.isic_ids for each in several]),
            groups=np.concatenate([each.groups for each in several]),
            parts=tuple(count for each in several for count in each.parts),
            image_size=several[0].image_size,
            batch_size=several[0].batch_size,
        )

    def only(self, chosen: NDArray[np.bool_]) -> "Shards":
        """Return those of the M images for which `chosen` (M,) is true, as one part."""
        return Shards(
            files=self.files,
            places=self.places[chosen],
            labels=self.labels[chosen],
            isic_ids=self.isic_ids[chosen],
            groups=self.groups[chosen],
            parts=(int(chosen.sum()),),
            image_size=self.image_size,
            batch_size=self.batch_size,
        )

    def images(self, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Read the images of these numbers, 0..M-1: uint8 (len(numbers), height, width, 3) RGB.

        Raises:
            IntegrityError: the pixels are not all there any more.
        """
        shape = (len(numbers), self.image_size.height, self.image_size.width, 3)
        found = np.empty(shape, np.uint8)
        for image, (file, row) in zip(found, self.places[numbers].tolist(), strict=True):
            _read_into(image, self.files[file], row)
        return found

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def class_counts(self) -> NDArray[np.int64]:
        """Return the number of images of each class, in the order of `LESION_CLASSES`."""
        return np.bincount(self.labels, minlength=len(LESION_CLASSES))


def _require_shape(path: Path, record: Record, shape: tuple[int, ...]) -> None:
    if record.image.shape != shape:
        found = f"{path.name}, {record.isic_id}: an image of {record.image.shape}, not {shape}"
        raise IntegrityError(f"{found}: make the file again")


def _read_into(image: NDArray[np.uint8], file: BinaryIO, row: int) -> None:
    if os.preadv(file.fileno(), [image.data], row * image.nbytes) < image.nbytes:
        message = f"{file.name}, image {row}: cut off: start the training again"
        raise IntegrityError(message)
