"""A shard of a dataset's images to one file of training records."""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dermascan.decoding import decoding_slots
from dermascan.errors import InputError
from dermascan.imaging import (
    STEP_VERSION,
    ImageRefusedError,
    Preprocessing,
    decode_for,
    prepare_decoded,
)
from dermascan.progress import tracked
from dermascan.records import Record, write_records
from dermascan.storage import Store, concurrently
from dermascan.taxonomy import LESION_CLASSES

__all__ = ["STEP_VERSION", "ImageRow", "ShardCounts", "prepared_records", "preprocess_shard"]

logger = logging.getLogger(__name__)

# Enough to hide a distant store's latency; how many of them decode is up to the cores.
DOWNLOADS = 16


@dataclass(frozen=True)
class ImageRow:
    """One image to preprocess, as the manifest knows it.

    Attributes:
        isic_id: the archive's identifier.
        key: where the original file is.
        sha256: of the original file, 64 hexadecimal digits.
        lesion_id: the archive's identifier of the lesion, None when it has none.
        lesion_class: one of `taxonomy.LESION_CLASSES`.
        group: the same for images that belong together (`dermascan.splits`), None if not known.
    """

    isic_id: str
    key: str
    sha256: str
    lesion_id: str | None
    lesion_class: str
    group: str | None = None


@dataclass(frozen=True)
class ShardCounts:
    """What a shard came to.

    Attributes:
        images: records in the file.
        bytes: size of the file.
        skipped: the file was already there and nothing was done.
    """

    images: int
    bytes: int
    skipped: bool = False


def preprocess_shard(
    store: Store, rows: Sequence[ImageRow], preprocessing: Preprocessing, destination_key: str
) -> ShardCounts:
    """Decode and prepare a shard's images and store them as one gzip'd TFRecord file.

    The file appears whole or not at all, with the records in the order of `rows`; equal input
    gives equal bytes. If it is already there nothing is read: the caller names it by what it is
    made of. Memory does not grow with the number of rows.

    Args:
        store: holds the originals and receives the file.
        rows: the shard's images.
        preprocessing: size, corrections and limits.
        destination_key: where the file goes.

    Returns:
        How many images and bytes there are.

    Raises:
        InputError: a row has an unknown class.
        IntegrityError: an original is not the one in the manifest.
        ImageRefusedError: an original cannot be decoded under the limits.
    """
    existing = store.head(destination_key)
    if existing is not None:
        logger.info("%s is already there, nothing to do", store.address(destination_key))
        return ShardCounts(len(rows), existing.size, skipped=True)
    for row in rows:
        _label(row)
    with tempfile.TemporaryDirectory(prefix="dermascan-") as folder:
        path = Path(folder) / "records"
        made = prepared_records(store, rows, preprocessing)
        images = write_records(path, tracked(made, logger, "images", len(rows)))
        counts = ShardCounts(images, path.stat().st_size)
        store.put_file(destination_key, path)
    logger.info("%s: %s", store.address(destination_key), asdict(counts))
    return counts


def prepared_records(
    store: Store, rows: Sequence[ImageRow], preprocessing: Preprocessing
) -> Iterator[Record]:
    """Yield the record of each image in order, a few in memory at a time.

    Args:
        store: holds the originals.
        rows: the images.
        preprocessing: size, corrections and limits.

    Raises:
        InputError: a row has an unknown class.
        IntegrityError: an original is not the one in the manifest.
        ImageRefusedError: an original cannot be decoded under the limits.
    """
    return concurrently(_RecordMaker(store, preprocessing).make, rows, DOWNLOADS)


class _RecordMaker:
    """Make records in threads, decoding no more at once than there are cores."""

    def __init__(self, store: Store, preprocessing: Preprocessing) -> None:
        self._store, self._preprocessing = store, preprocessing
        self._decoding = decoding_slots()

    def make(self, row: ImageRow) -> Record:
        data = self._store.get_verified(row.key, row.sha256)
        with self._decoding:
            try:
                decoded = decode_for(data, self._preprocessing)
            except ImageRefusedError as error:
                detail = f"{self._store.address(row.key)}: {error.detail}"
                raise ImageRefusedError(error.reason, detail) from error
            prepared = prepare_decoded(decoded, self._preprocessing)
        return Record(prepared, _label(row), row.isic_id, row.lesion_id, row.sha256, row.group)


def _label(row: ImageRow) -> int:
    if row.lesion_class not in LESION_CLASSES:
        message = f"{row.isic_id} has class {row.lesion_class!r}, not one of {LESION_CLASSES}"
        raise InputError(message)
    return LESION_CLASSES.index(row.lesion_class)
