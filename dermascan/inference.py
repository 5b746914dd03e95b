"""A model version over every object under a prefix, each scored or rejected with a reason."""

import json
import logging
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dermascan.decoding import decoding_slots
from dermascan.errors import InputError, NotFoundError
from dermascan.fingerprint import canonical_json, fingerprint, sha256_hex
from dermascan.imaging import ImageRefusedError, Preprocessing, decode, prepare, thumbnail
from dermascan.layout import part, prediction_staging, predictions
from dermascan.prediction_index import index_predictions
from dermascan.progress import Progress
from dermascan.registry import ModelReference, fetch_version, resolve_version
from dermascan.shards import cut, shard_count
from dermascan.storage import ObjectInfo, S3Address, Store, concurrently
from dermascan.taxonomy import LESION_CLASSES

if TYPE_CHECKING:
    from dermascan.model.savedmodel import Scorer

logger = logging.getLogger(__name__)

STEP_VERSION = 1
BATCH = 32
READERS = 8
ISIC_ID = re.compile(r"ISIC_\d{7}(?!\d)")

PREDICTIONS_SCHEMA = pa.schema(
    [
        ("image_key", pa.string()),
        ("isic_id", pa.string()),
        ("sha256", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("p_malignant", pa.float64()),
        ("label", pa.string()),
        ("threshold", pa.float64()),
        *((f"p_{name}", pa.float64()) for name in LESION_CLASSES),
        ("model_version", pa.int64()),
    ]
)


@dataclass(frozen=True)
class BatchPlan:
    """One resolved request for predictions.

    Attributes:
        run: names the run by the objects, the model and its version.
        prefix: `s3://` address of the images.
        bucket: bucket of the images.
        model: the model's name.
        version: the model's version, fixed for the whole run.
        shards: number of shards.
        objects: number of objects under the prefix.
    """

    run: str
    prefix: str
    bucket: str
    model: str
    version: int
    shards: int
    objects: int

    def staged(self, kind: str, shard: int, suffix: str) -> str:
        """Return the key of one shard's `objects` or `scores`."""
        return part(f"{prediction_staging(self.run)}{kind}-", shard, suffix)

    @property
    def output(self) -> str:
        """Return the prefix of the results."""
        return predictions(self.run)

    @property
    def success_key(self) -> str:
        """Return the key of the marker that is written last."""
        return f"{self.output}_SUCCESS"


@dataclass(frozen=True)
class BatchSummary:
    """Outcome of a batch-inference run: counts and where the results are."""

    run: str
    output: str
    scored: int
    rejected: int
    malignant: int
    model_version: int


@dataclass(frozen=True)
class _Read:
    """One object on its way to the model; `image` is None if it was rejected."""

    key: str
    sha256: str
    image: NDArray[np.uint8] | None
    reason: str | None


def resolve(store: Store, prefix: str, reference: ModelReference) -> BatchPlan:
    """Fix what is to be scored and by which model version.

    Args:
        store: the bucket that holds models and receives predictions.
        prefix: `s3://bucket/prefix`, or a prefix in the store's own bucket.
        reference: which model version.

    Raises:
        InputError: nothing is under the prefix.
        NotFoundError: no such bucket or model version.
    """
    address = S3Address.parse(prefix, store.bucket)
    number = resolve_version(store, reference)
    images = store.in_bucket(address.bucket)
    with tempfile.TemporaryFile() as spool:
        objects, content = 0, fingerprint([str(address), reference.model, STEP_VERSION])
        for found in images.list(address.prefix):
            content = fingerprint([content, found.key, found.size, found.etag])
            spool.write(canonical_json(asdict(found)) + b"\n")
            objects += 1
        if not objects:
            raise InputError(f"nothing is under {address}: upload images first, or mend the prefix")
        run = f"{number}-{content[:12]}"
        shards = shard_count(objects)
        plan = BatchPlan(
            run, str(address), address.bucket, reference.model, number, shards, objects
        )
        if store.exists(plan.success_key):
            logger.info("run %s is complete already, nothing to do", run)
        else:
            spool.seek(0)
            _store_shards(store, plan, spool)
    logger.info("%d objects under %s, %s version %d", objects, address, reference.model, number)
    return plan


def _store_shards(store: Store, plan: BatchPlan, lines: Iterable[bytes]) -> None:
    for shard, body in enumerate(cut(lines, plan.objects, plan.shards)):
        store.put(plan.staged("objects", shard, ".jsonl"), body, "application/jsonl")


def predict(store: Store, plan: BatchPlan, shard: int) -> bool:
    """Score the objects of one shard.

    Returns:
        True if the shard was scored now, False if that had been done before.

    Raises:
        IntegrityError: the model version does not match its manifest.
    """
    scores_key = plan.staged("scores", shard, ".parquet")
    if store.exists(plan.success_key) or store.exists(scores_key):
        logger.info("shard %d is scored already, nothing to do", shard)
        return False
    body = store.get_if_present(plan.staged("objects", shard, ".jsonl"))
    if body is None:
        _require_finished(store, plan)
        return False
    from dermascan.model.savedmodel import load_scorer  # noqa: PLC0415  # TensorFlow takes 10 s to import

    objects = [ObjectInfo(**json.loads(line)) for line in body.splitlines()]
    with tempfile.TemporaryDirectory() as folder:
        scorer = load_scorer(fetch_version(store, plan.model, plan.version, Path(folder)))
        path = Path(folder) / "scores.parquet"
        rows = score_objects(store.in_bucket(plan.bucket), objects, scorer, plan.version)
        write_predictions(path, rows)
        store.put_file(scores_key, path)
    return True


def _require_finished(store: Store, plan: BatchPlan) -> None:
    """Accept that a shard is gone if a run of the same plan ended meanwhile and cleared it.

    Raises:
        NotFoundError: none did.
    """
    if not store.exists(plan.success_key):
        raise NotFoundError(f"the shards of run {plan.run} are gone: trigger batch_inference again")
    logger.info("run %s was completed meanwhile, nothing to do", plan.run)


def score_objects(
    images: Store, objects: list[ObjectInfo], scorer: "Scorer", version: int
) -> Iterator[pd.DataFrame]:
    """Yield tables of predictions, one row an object in the order given.

    An object that is no acceptable image, or no longer there, has a row that says so.

    Args:
        images: bucket of the objects.
        objects: what to score.
        scorer: the loaded model.
        version: its version, for the table.
    """
    progress = Progress(logger, "images", len(objects))
    reader = _Reader(images, scorer.metadata.preprocessing)
    reads = iter(concurrently(reader.read, objects, READERS))
    while batch := list(islice(reads, BATCH)):
        yield _score_batch(batch, scorer, version)
        progress.advance(len(batch))


class _Reader:
    """Read and prepare images in threads, decoding no more at once than there are cores."""

    def __init__(self, images: Store, preprocessing: Preprocessing) -> None:
        self._images, self._preprocessing = images, preprocessing
        self._decoding = decoding_slots()

    def read(self, found: ObjectInfo) -> _Read:
        most = self._preprocessing.limits.max_bytes
        if found.size > most:
            detail = f"too_large: {found.size} bytes, at most {most} are read"
            return _Read(found.key, "", None, detail)
        try:
            data = self._images.get(found.key)
        except NotFoundError:
            return _Read(found.key, "", None, "gone: it was deleted after the run was planned")
        digest = sha256_hex(data)
        try:
            return _Read(found.key, digest, self._prepared(data), None)
        except ImageRefusedError as error:
            return _Read(found.key, digest, None, f"{error.reason}: {error.detail}")

    def _prepared(self, data: bytes) -> NDArray[np.uint8]:
        with self._decoding:
            image = decode(data, self._preprocessing.limits)
            return prepare(image, self._preprocessing)


def _score_batch(batch: list[_Read], scorer: "Scorer", version: int) -> pd.DataFrame:
    threshold = scorer.metadata.threshold
    table = pd.DataFrame(
        {
            "image_key": [read.key for read in batch],
            "isic_id": [isic_id_of(read.key) for read in batch],
            "sha256": [read.sha256 or None for read in batch],
            "status": ["rejected" if read.image is None else "ok" for read in batch],
            "reason": [read.reason for read in batch],
            "threshold": threshold,
            "model_version": version,
        }
    )
    accepted = [i for i, read in enumerate(batch) if read.image is not None]
    if accepted:
        scores = scorer.score(np.stack([image for r in batch if (image := r.image) is not None]))
        table.loc[accepted, "p_malignant"] = scores.p_malignant
        for column, name in enumerate(LESION_CLASSES):
            table.loc[accepted, f"p_{name}"] = scores.probabilities[:, column]
        labels = np.where(scores.p_malignant >= threshold, "malignant", "benign")
        table.loc[accepted, "label"] = labels
    return table.reindex(columns=PREDICTIONS_SCHEMA.names)


def isic_id_of(key: str) -> str | None:
    """Return the ISIC identifier that an object's name begins with, None if it has none."""
    found = ISIC_ID.match(key.rsplit("/", 1)[-1])
    return found.group() if found else None


def write_predictions(path: Path, tables: Iterable[pd.DataFrame]) -> None:
    """Write tables of predictions as one Parquet file, holding one table at a time."""
    with pq.ParquetWriter(path, PREDICTIONS_SCHEMA, compression="zstd") as writer:
        for table in tables:
            writer.write_table(
                pa.Table.from_pandas(table, schema=PREDICTIONS_SCHEMA, preserve_index=False)
            )


def summarise(store: Store, plan: BatchPlan) -> BatchSummary:
    """Merge the shards into Parquet, CSV and an HTML report, and mark the run complete."""
    done = _summary_if_complete(store, plan)
    if done is not None:
        _delete_staging(store, plan)  # in case the run was interrupted before it did
        return done
    try:
        summary = _write_results(store, plan)
    except NotFoundError:
        done = _summary_if_complete(store, plan)  # by a twin, which cleared what was missed
        if done is None:
            raise
        summary = done
    _delete_staging(store, plan)
    logger.info(
        "%d scored (%d labelled malignant), %d rejected; results under %s",
        summary.scored,
        summary.malignant,
        summary.rejected,
        store.address(plan.output),
    )
    return summary


def _summary_if_complete(store: Store, plan: BatchPlan) -> BatchSummary | None:
    body = store.get_if_present(plan.success_key)
    if body is None:
        return None
    logger.info("run %s is complete already, nothing to do", plan.run)
    return BatchSummary(**json.loads(body))


def _write_results(store: Store, plan: BatchPlan) -> BatchSummary:
    with tempfile.TemporaryDirectory() as folder:
        table = _merge(store, plan, Path(folder))
        store.put_file(f"{plan.output}predictions.parquet", Path(folder) / "predictions.parquet")
        store.put_file(
            f"{plan.output}predictions.csv", Path(folder) / "predictions.csv", "text/csv"
        )
    report = _report(store, plan, table)
    store.put(f"{plan.output}report.html", report.encode(), "text/html; charset=utf-8")
    index_predictions(store, plan, table)
    summary = _summary(plan, table)
    store.put_json(plan.success_key, asdict(summary))
    return summary


def _delete_staging(store: Store, plan: BatchPlan) -> None:
    store.delete([found.key for found in store.list(prediction_staging(plan.run))])


def _merge(store: Store, plan: BatchPlan, folder: Path) -> pd.DataFrame:
    merged = folder / "predictions.parquet"
    with pq.ParquetWriter(merged, PREDICTIONS_SCHEMA, compression="zstd") as writer:
        for shard in range(plan.shards):
            shard_path = folder / "shard.parquet"
            store.get_file(plan.staged("scores", shard, ".parquet"), shard_path)
            writer.write_table(pq.read_table(shard_path))
    table = pq.read_table(merged)
    if table.num_rows != plan.objects:
        raise InputError(
            f"{table.num_rows} rows for {plan.objects} objects: clear the predict tasks"
        )
    pyarrow.csv.write_csv(table, folder / "predictions.csv")
    return cast("pd.DataFrame", table.to_pandas())


def _report(store: Store, plan: BatchPlan, table: pd.DataFrame) -> str:
    from dermascan.reporting import (  # noqa: PLC0415  # matplotlib
        ReportContext,
        gallery_keys,
        predictions_report,
    )

    thumbnails = _thumbnails(store.in_bucket(plan.bucket), gallery_keys(table))
    context = ReportContext(
        title="Batch inference",
        subtitle=plan.prefix,
        facts=(("Run", plan.run), ("Model", f"{plan.model} version {plan.version}")),
    )
    return predictions_report(table, thumbnails, context)


def _thumbnails(images: Store, keys: list[str]) -> dict[str, bytes]:
    """Return small JPEGs by key, without the objects that are gone or changed by now."""
    decoding = decoding_slots()

    def made(key: str) -> bytes | None:
        try:
            data = images.get(key)
            with decoding:
                return thumbnail(data)
        except (NotFoundError, ImageRefusedError) as error:
            logger.warning("%s has no thumbnail: %s", images.address(key), error)
            return None

    made_in_order = concurrently(made, keys, READERS)
    return {key: jpeg for key, jpeg in zip(keys, made_in_order, strict=True) if jpeg is not None}


def _summary(plan: BatchPlan, table: pd.DataFrame) -> BatchSummary:
    scored = int((table["status"] == "ok").sum())
    malignant = int((table["label"] == "malignant").sum())
    rejected = len(table) - scored
    return BatchSummary(plan.run, plan.output, scored, rejected, malignant, plan.version)
