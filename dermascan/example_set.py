"""A validated dataset as training examples: dealt to splits, cut into shards, preprocessed."""

import io
import json
import logging
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from heapq import merge
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dermascan.dataset import (
    MANIFEST_SCHEMA,
    DatasetPointer,
    number_values,
    open_parquet,
    read_pointer,
    row_groups,
)
from dermascan.errors import (
    ConflictError,
    IntegrityError,
    PermanentError,
    ValidationFailedError,
)
from dermascan.fingerprint import (
    FINGERPRINT_HEX_DIGITS,
    ListFingerprint,
    canonical_json,
    canonical_json_of,
    items_of_canonical_json,
    sha256_hex,
)
from dermascan.imaging import STEP_VERSION as IMAGING_VERSION
from dermascan.imaging import Preprocessing
from dermascan.layout import DatasetKeys, part
from dermascan.memory import give_back_memory
from dermascan.preprocess import ImageRow, ShardCounts, preprocess_shard
from dermascan.splits import (
    NUMBERED,
    SHARES,
    SPLITS,
    UNDEALT,
    Dealt,
    deal,
    earlier,
    group_names,
    hash_numbers,
    leaking,
    split_names,
    trainable,
)
from dermascan.splits import STEP_VERSION as SPLITS_VERSION
from dermascan.storage import Store
from dermascan.taxonomy import LESION_CLASSES
from dermascan.validation import latest_result

logger = logging.getLogger(__name__)

IMAGES_PER_SHARD = 2000
MAX_SHARDS_PER_SPLIT = 12
_IDENTITY = ("isic_id", "key", "sha256", "lesion_id", "lesion_class")
_METADATA = ("sex", "age_approx", "anatom_site_general", "diagnosis_confirm_type")
# Images are dealt by these and by `NUMBERED`; those in `_KEPT` stay in memory as they are.
_KEPT = ("isic_id", "lesion_class")
_DEALT_BY = (*_KEPT, "perceptual_hash", "image_type", "copyright_license")
# What is written of each image that was dealt, in the order of `isic_id`.
SPLIT_SCHEMA = pa.schema(
    [
        *(MANIFEST_SCHEMA.field(name) for name in _IDENTITY),
        ("split", pa.string()),
        ("group", pa.string()),
        *(MANIFEST_SCHEMA.field(name) for name in _METADATA),
    ]
)


@dataclass(frozen=True)
class ExampleShard:
    """A run of one split's images, in `isic_id` order, that one task preprocesses."""

    split: str
    index: int
    start: int
    stop: int

    def key(self, prefix: str) -> str:
        """Return the key of the shard's records."""
        return part(f"{prefix}{self.split}/", self.index, ".tfrecord.gz")


@dataclass(frozen=True)
class ExampleSet:
    """Preprocessed examples of one dataset, named by all that went into them.

    Attributes:
        dataset: the dataset's name.
        fingerprint: names the examples.
        manifest_fingerprint: names the dataset's content.
        preprocessing: how bytes become pixels.
        shards: all shards, training first.
        counts: images by split and class.
        set_aside: images that would have tied two splits together.
        left_out: images without a lesion class, or not dermoscopic.
        licences: of the images.
    """

    dataset: str
    fingerprint: str
    manifest_fingerprint: str
    preprocessing: Preprocessing
    shards: tuple[ExampleShard, ...]
    counts: dict[str, dict[str, int]]
    set_aside: int
    left_out: int
    licences: tuple[str, ...]

    @property
    def prefix(self) -> str:
        """Return the prefix of everything that belongs to the examples."""
        return DatasetKeys(self.dataset).processed(self.fingerprint)

    def keys(self, split: str) -> list[str]:
        """Return the keys of a split's records."""
        return [shard.key(self.prefix) for shard in self.shards if shard.split == split]

    def to_json(self) -> bytes:
        """Encode as canonical JSON."""
        return canonical_json(asdict(self) | {"preprocessing": self.preprocessing.as_plain()})

    @classmethod
    def read(cls, store: Store, dataset: str, name: str) -> "ExampleSet":
        """Return an example set by its dataset and fingerprint."""
        plain = json.loads(store.get(f"{DatasetKeys(dataset).processed(name)}examples.json"))
        shards = tuple(ExampleShard(**shard) for shard in plain.pop("shards"))
        preprocessing = Preprocessing.from_plain(plain.pop("preprocessing"))
        licences = tuple(plain.pop("licences"))
        return cls(**plain, shards=shards, preprocessing=preprocessing, licences=licences)


def split(store: Store, dataset: str, preprocessing: Preprocessing, suites: Path) -> ExampleSet:
    """Deal a dataset's images to splits and plan their preprocessing.

    Args:
        store: the bucket.
        dataset: the dataset's name.
        preprocessing: how bytes become pixels.
        suites: folder of the expectation suites that the dataset must have passed.

    Raises:
        NotFoundError: there is no such dataset.
        ValidationFailedError: it was not validated, or did not pass.
        PermanentError: a split would be empty.
        IntegrityError: images that belong together would be in two splits.
    """
    pointer = read_pointer(store, dataset)
    _require_validated(store, pointer, suites)
    with open_parquet(store, pointer.manifest_key) as manifest:
        examples, rows = _dealt(store, pointer, preprocessing, manifest)
        give_back_memory()
        created = _store_table(store, f"{examples.prefix}split.parquet", manifest, rows)
    store.put_if_absent(f"{examples.prefix}examples.json", examples.to_json(), "application/json")
    logger.info("%s%s", "" if created else "dealt already, nothing changed: ", _text(examples))
    return examples


def _dealt(
    store: Store, pointer: DatasetPointer, preprocessing: Preprocessing, manifest: pq.ParquetFile
) -> tuple[ExampleSet, Iterator[tuple[str, str]]]:
    """Deal the images; return the example set, and of each image its split and its group's name."""
    images = _Images.read(manifest)
    give_back_memory()
    dealt = _deal(store, pointer.dataset, images.table)
    if leaked := leaking(images.table, dealt):
        raise IntegrityError(f"{len(leaked)} images are in two splits, such as {leaked[:5]}")
    rows = zip(split_names(dealt), group_names(images.table), strict=True)
    return _example_set(pointer, preprocessing, images, dealt), rows


@dataclass(frozen=True, eq=False)
class _Images:
    """A manifest's images that can train or test, in the order of `isic_id`.

    Attributes:
        table: columns `_KEPT`; `NUMBERED`, as from `number_values`; and `perceptual_hash`, as
            from `hash_numbers`.
        licences: of the images.
        left_out: how many images of the manifest these are not.
    """

    table: pd.DataFrame
    licences: tuple[str, ...]
    left_out: int

    @classmethod
    def read(cls, manifest: pq.ParquetFile) -> "_Images":
        numbers = {name: number_values(manifest, name) for name in NUMBERED}
        parts: list[pd.DataFrame] = []
        chosen: list[NDArray[np.bool_]] = []
        licences: set[str] = set()
        for table in row_groups(manifest, _DEALT_BY):
            chosen.append(trainable(table).to_numpy())
            usable = table.filter(chosen[-1])
            licences.update(usable["copyright_license"].drop_null().to_pylist())
            hashes = hash_numbers(usable["perceptual_hash"].to_pylist())
            parts.append(usable.select(_KEPT).to_pandas().assign(perceptual_hash=hashes))
        rows = np.concatenate(chosen)
        tying = {name: numbers[name][rows] for name in NUMBERED}
        whole = pd.concat(parts, ignore_index=True).assign(**tying)
        return cls(whole, tuple(sorted(licences)), len(rows) - len(whole))


def preprocess(store: Store, examples: ExampleSet, shard: int) -> ShardCounts:
    """Write the records of one shard, unless they are there."""
    chosen = examples.shards[shard]
    with open_parquet(store, f"{examples.prefix}split.parquet") as table:
        rows = list(_rows(table, chosen))
    return preprocess_shard(store, rows, examples.preprocessing, chosen.key(examples.prefix))


def _rows(table: pq.ParquetFile, shard: ExampleShard) -> Iterator[ImageRow]:
    columns, seen = [each.name for each in fields(ImageRow)], 0
    for group in row_groups(table, [*columns, "split"]):
        found = group.filter(pc.equal(group["split"], shard.split)).select(columns)
        start, stop = (min(max(at - seen, 0), len(found)) for at in (shard.start, shard.stop))
        seen += len(found)
        yield from (ImageRow(**values) for values in found.slice(start, stop - start).to_pylist())


def read_split(store: Store, examples: ExampleSet, name: str) -> pd.DataFrame:
    """Return the rows of one split, with their metadata, in `isic_id` order."""
    table = pd.read_parquet(io.BytesIO(store.get(f"{examples.prefix}split.parquet")))
    chosen = table[table["split"] == name]
    return chosen.astype(object).where(chosen.notna(), None).reset_index(drop=True)


def _require_validated(store: Store, pointer: DatasetPointer, suites: Path) -> None:
    result = latest_result(store, pointer, suites)
    if result is None:
        raise ValidationFailedError(
            f"dataset {pointer.dataset!r} ({pointer.fingerprint}) was not validated with the "
            "present suites: run ingest_isic again, it will find everything else done"
        )
    result.require()


def _deal(store: Store, dataset: str, images: pd.DataFrame) -> Dealt:
    keys = DatasetKeys(dataset)
    for _ in range(5):
        pointer, tag = store.read_pointer(keys.split_ledger)
        ledger = store.get(str(pointer["key"])) if pointer else b"{}"
        known = int(str(pointer["images"])) if pointer else 0
        before = earlier(images, items_of_canonical_json(ledger))
        dealt = deal(images, before)
        if np.array_equal(dealt, before):
            return dealt
        new = zip(images["isic_id"], split_names(dealt), strict=True)
        data = canonical_json_of(_replaced(items_of_canonical_json(ledger), new))
        size = known + int(np.count_nonzero(before == UNDEALT))
        key = keys.dealing(sha256_hex(data)[:FINGERPRINT_HEX_DIGITS])
        store.put_if_absent(key, data, "application/json")
        try:
            store.move_pointer(keys.split_ledger, {"key": key, "images": size}, tag)
        except ConflictError:
            continue
        return dealt
    raise ConflictError(f"{keys.split_ledger} is being moved by others all the time: try later")


def _replaced(
    old: Iterable[tuple[str, str]], new: Iterable[tuple[str, str]]
) -> Iterator[tuple[str, str]]:
    """Merge items in the order of their names; of those with the same name, take the new one."""
    for _, same in groupby(merge(old, new, key=itemgetter(0)), key=itemgetter(0)):
        *_, last = same
        yield last


def _example_set(
    pointer: DatasetPointer, preprocessing: Preprocessing, images: _Images, dealt: Dealt
) -> ExampleSet:
    counts = _class_counts(images.table, dealt)
    empty = [name for name in SHARES if not counts[name]]
    if empty:
        raise PermanentError(
            f"dataset {pointer.dataset!r} has {len(dealt)} usable images, too few for a "
            f"{' and a '.join(empty)} split: ingest more"
        )
    return ExampleSet(
        dataset=pointer.dataset,
        fingerprint=_name(pointer, preprocessing, dealt),
        manifest_fingerprint=pointer.fingerprint,
        preprocessing=preprocessing,
        shards=tuple(s for name in SHARES for s in _shards(name, sum(counts[name].values()))),
        counts=counts,
        set_aside=int((dealt == SPLITS.index("aside")).sum()),
        left_out=images.left_out,
        licences=images.licences,
    )


def _name(pointer: DatasetPointer, preprocessing: Preprocessing, dealt: Dealt) -> str:
    content = ListFingerprint()
    for part_ in ([IMAGING_VERSION, SPLITS_VERSION], pointer.fingerprint, preprocessing.as_plain()):
        content.add(part_)
    content.add_list(split_names(dealt))
    return content.name()


def _shards(split_name: str, images: int) -> Sequence[ExampleShard]:
    count = min(MAX_SHARDS_PER_SPLIT, -(-images // IMAGES_PER_SHARD))
    bounds = [images * i // count for i in range(count + 1)]
    return [ExampleShard(split_name, i, bounds[i], bounds[i + 1]) for i in range(count)]


def _class_counts(images: pd.DataFrame, dealt: Dealt) -> dict[str, dict[str, int]]:
    found = Counter(zip(split_names(dealt), images["lesion_class"], strict=True))
    return {
        split: {name: found[split, name] for name in LESION_CLASSES if found[split, name]}
        for split in SHARES
    }


def _store_table(
    store: Store, key: str, manifest: pq.ParquetFile, rows: Iterator[tuple[str, str]]
) -> bool:
    """Store what was dealt, unless it is there; tell whether it was not.

    Args:
        store: the bucket.
        key: of the table.
        manifest: of the images.
        rows: split and group of each image that was dealt, in the manifest's order.
    """
    with tempfile.TemporaryDirectory(prefix="dermascan-") as folder:
        path = Path(folder) / "split.parquet"
        with pq.ParquetWriter(path, SPLIT_SCHEMA, compression="zstd") as writer:
            for table in _split_tables(manifest, rows):
                writer.write_table(table)
        return store.put_if_absent(key, path.read_bytes())


def _split_tables(manifest: pq.ParquetFile, rows: Iterator[tuple[str, str]]) -> Iterator[pa.Table]:
    columns = [*_IDENTITY, *_METADATA, "image_type"]
    for table in row_groups(manifest, columns):
        usable = table.filter(trainable(table))
        dealt = list(islice(rows, len(usable)))
        for place, name in enumerate(("split", "group")):
            usable = usable.append_column(
                name, pa.array([row[place] for row in dealt], pa.string())
            )
        yield usable.select(SPLIT_SCHEMA.names)


def _text(examples: ExampleSet) -> str:
    sizes = ", ".join(f"{sum(examples.counts[name].values())} {name}" for name in SHARES)
    return (
        f"{sizes} images in {len(examples.shards)} shards; {examples.set_aside} set aside, "
        f"{examples.left_out} left out (no lesion class or not dermoscopic)"
    )
