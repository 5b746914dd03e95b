"""A validated dataset as training examples: dealt to splits, cut into shards, preprocessed."""

import io
import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dermascan.dataset import ROWS_IN_MEMORY, DatasetPointer, read_manifest, read_pointer
from dermascan.errors import (
    ConflictError,
    IntegrityError,
    PermanentError,
    ValidationFailedError,
)
from dermascan.fingerprint import canonical_json, fingerprint
from dermascan.imaging import STEP_VERSION as IMAGING_VERSION
from dermascan.imaging import Preprocessing
from dermascan.layout import DatasetKeys, part
from dermascan.preprocess import ImageRow, ShardCounts, preprocess_shard
from dermascan.splits import SHARES, assign, leaks, trainable
from dermascan.splits import STEP_VERSION as SPLITS_VERSION
from dermascan.storage import Store
from dermascan.taxonomy import LESION_CLASSES
from dermascan.validation import latest_result

logger = logging.getLogger(__name__)

IMAGES_PER_SHARD = 2000
MAX_SHARDS_PER_SPLIT = 12
_IDENTITY = ("isic_id", "key", "sha256", "lesion_id", "lesion_class")
_METADATA = ("sex", "age_approx", "anatom_site_general", "diagnosis_confirm_type")
_DEALT_BY = (
    *_IDENTITY,
    *_METADATA,
    *("patient_id", "image_type", "perceptual_hash", "copyright_license"),
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
    manifest = read_manifest(store, pointer, _DEALT_BY)
    images = trainable(manifest)
    dealt = _deal(store, dataset, images)
    if leaking := leaks(images, dealt):
        raise IntegrityError(f"{len(leaking)} images are in two splits, such as {leaking[:5]}")
    table = images.assign(split=images["isic_id"].map(dealt)).sort_values("isic_id")
    examples = _example_set(pointer, preprocessing, table, len(manifest) - len(images))
    created = store.put_if_absent(f"{examples.prefix}split.parquet", _split_table(table))
    store.put_if_absent(f"{examples.prefix}examples.json", examples.to_json(), "application/json")
    logger.info("%s%s", "" if created else "dealt already, nothing changed: ", _text(examples))
    return examples


def preprocess(store: Store, examples: ExampleSet, shard: int) -> ShardCounts:
    """Write the records of one shard, unless they are there."""
    chosen = examples.shards[shard]
    columns = [each.name for each in fields(ImageRow)]
    source = io.BytesIO(store.get(f"{examples.prefix}split.parquet"))
    table = pq.read_table(source, columns=columns, filters=pc.field("split") == chosen.split)
    wanted = table.slice(chosen.start, chosen.stop - chosen.start)
    rows = [ImageRow(**values) for values in wanted.to_pylist()]
    return preprocess_shard(store, rows, examples.preprocessing, chosen.key(examples.prefix))


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


def _deal(store: Store, dataset: str, images: pd.DataFrame) -> dict[str, str]:
    keys = DatasetKeys(dataset)
    for _ in range(5):
        pointer, tag = store.read_pointer(keys.split_ledger)
        ledger: dict[str, str] = json.loads(store.get(str(pointer["key"]))) if pointer else {}
        dealt = assign(images, ledger)
        merged = ledger | dealt
        if merged == ledger:
            return dealt
        key = keys.dealing(fingerprint(merged))
        store.put_if_absent(key, canonical_json(merged), "application/json")
        try:
            store.move_pointer(keys.split_ledger, {"key": key, "images": len(merged)}, tag)
        except ConflictError:
            continue
        return dealt
    raise ConflictError(f"{keys.split_ledger} is being moved by others all the time: try later")


def _example_set(
    pointer: DatasetPointer, preprocessing: Preprocessing, table: pd.DataFrame, left_out: int
) -> ExampleSet:
    counts = {name: _class_counts(table[table["split"] == name]) for name in SHARES}
    empty = [name for name in SHARES if not counts[name]]
    if empty:
        raise PermanentError(
            f"dataset {pointer.dataset!r} has {len(table)} usable images, too few for a "
            f"{' and a '.join(empty)} split: ingest more"
        )
    return ExampleSet(
        dataset=pointer.dataset,
        fingerprint=_name(pointer, preprocessing, table),
        manifest_fingerprint=pointer.fingerprint,
        preprocessing=preprocessing,
        shards=tuple(s for name in SHARES for s in _shards(name, sum(counts[name].values()))),
        counts=counts,
        set_aside=int((table["split"] == "aside").sum()),
        left_out=left_out,
        licences=tuple(sorted(table["copyright_license"].dropna().unique())),
    )


def _name(pointer: DatasetPointer, preprocessing: Preprocessing, table: pd.DataFrame) -> str:
    versions = [IMAGING_VERSION, SPLITS_VERSION]
    splits = table["split"].tolist()
    return fingerprint([versions, pointer.fingerprint, preprocessing.as_plain(), splits])


def _shards(split_name: str, images: int) -> Sequence[ExampleShard]:
    count = min(MAX_SHARDS_PER_SPLIT, -(-images // IMAGES_PER_SHARD))
    bounds = [images * i // count for i in range(count + 1)]
    return [ExampleShard(split_name, i, bounds[i], bounds[i + 1]) for i in range(count)]


def _class_counts(table: pd.DataFrame) -> dict[str, int]:
    found = Counter(table["lesion_class"])
    return {name: found[name] for name in LESION_CLASSES if found[name]}


def _split_table(table: pd.DataFrame) -> bytes:
    columns = [*_IDENTITY, "split", *_METADATA]
    sink = io.BytesIO()
    table[columns].reset_index(drop=True).to_parquet(
        sink, compression="zstd", row_group_size=ROWS_IN_MEMORY
    )
    return sink.getvalue()


def _text(examples: ExampleSet) -> str:
    sizes = ", ".join(f"{sum(examples.counts[name].values())} {name}" for name in SHARES)
    return (
        f"{sizes} images in {len(examples.shards)} shards; {examples.set_aside} set aside, "
        f"{examples.left_out} left out (no lesion class or not dermoscopic)"
    )
