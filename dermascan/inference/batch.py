"""A model version over every object under a prefix, each scored or rejected with a reason."""

import json
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from dermascan.dataset import row_groups
from dermascan.decoding import decoding_slots
from dermascan.drift.comparison import Drift, compare
from dermascan.drift.features import REFERENCE_FILE, FeatureFile, decode_reference, read_reference
from dermascan.drift.wording import sentence
from dermascan.errors import InputError, NotFoundError
from dermascan.fingerprint import canonical_json, fingerprint
from dermascan.imaging import Preprocessing
from dermascan.inference.digest import BatchDigest
from dermascan.inference.index import finished_time, index_predictions
from dermascan.inference.merging import RUNTIME, Merged, merge_shards
from dermascan.inference.pictures import Picture, Pictures
from dermascan.inference.scoring import (
    BATCH,
    EXTENDED_SCHEMA,
    PREDICTIONS_SCHEMA,
    QUALITY_SCHEMA,
    SCORED_SCHEMA,
    Examined,
    Scoring,
    examine,
    isic_id_of,
    write_predictions,
)
from dermascan.layout import is_ready_marker, part, prediction_staging, predictions
from dermascan.model.loading import load_fastest
from dermascan.model.metadata import METADATA_FILE
from dermascan.progress import Progress
from dermascan.registry import ModelReference, fetch_version, resolve_version
from dermascan.shards import cut, shard_count
from dermascan.storage import ObjectInfo, S3Address, Store, concurrently
from dermascan.versions import read_file

if TYPE_CHECKING:
    from dermascan.model.scorer import Scorer

__all__ = [
    "PREDICTIONS_SCHEMA",
    "QUALITY_SCHEMA",
    "BatchPlan",
    "BatchSummary",
    "isic_id_of",
    "predict",
    "resolve",
    "score_objects",
    "summarise",
    "write_predictions",
]

logger = logging.getLogger(__name__)

STEP_VERSION = 1
READERS = 8
# Images that a report shows; one shard may hold all of them.
PICTURED = 200


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
            if is_ready_marker(found.key):
                continue
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
    for shard, run in enumerate(cut(lines, plan.objects, plan.shards)):
        store.put(plan.staged("objects", shard, ".jsonl"), b"".join(run), "application/jsonl")


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
    with tempfile.TemporaryDirectory() as folder:
        store.put_file(scores_key, _scored_shard(store, plan, body, Path(folder)))
    return True


def _scored_shard(store: Store, plan: BatchPlan, lines: bytes, folder: Path) -> Path:
    """Score the objects of a shard, draw those that the report may show, and return the file."""
    files = fetch_version(store, plan.model, plan.version, folder)
    pictures = Pictures(PICTURED)
    scoring = Scoring(load_fastest(files), plan.version, read_reference(files), pictures)
    objects = (ObjectInfo(**json.loads(line)) for line in lines.splitlines())
    tables = _tables(store.in_bucket(plan.bucket), objects, lines.count(b"\n"), scoring)
    plain, path = folder / "plain.parquet", folder / "scores.parquet"
    write_predictions(plain, tables, SCORED_SCHEMA)
    schema = EXTENDED_SCHEMA.with_metadata({RUNTIME: scoring.scorer.runtime})
    drawn = pictures.drawn(scoring.scorer)
    with (
        pq.ParquetFile(plain) as scored,
        pq.ParquetWriter(path, schema, compression="zstd") as writer,
    ):
        for rows in row_groups(scored, SCORED_SCHEMA.names):
            writer.write_table(_illustrated(rows, drawn))
    return path


def _illustrated(table: pa.Table, drawn: Mapping[str, Picture]) -> pa.Table:
    """Add the pictures of those images that have one."""
    found = [drawn.get(key) for key in table["image_key"].to_pylist()]
    pictures = [picture and picture.jpeg for picture in found]
    overlays = [picture and picture.overlay for picture in found]
    columns = [*table.columns, pa.array(pictures, pa.binary()), pa.array(overlays, pa.binary())]
    return pa.table(columns, schema=EXTENDED_SCHEMA)


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
    return _tables(images, objects, len(objects), Scoring(scorer, version))


def _tables(
    images: Store, objects: Iterable[ObjectInfo], count: int, scoring: Scoring
) -> Iterator[pd.DataFrame]:
    progress = Progress(logger, "images", count)
    reader = _Reader(images, scoring.scorer.metadata.preprocessing)
    for table in scoring.tables(concurrently(reader.read, objects, READERS, ahead=BATCH)):
        yield table
        progress.advance(len(table))


class _Reader:
    """Read and prepare images in threads, decoding no more at once than there are cores."""

    def __init__(self, images: Store, preprocessing: Preprocessing) -> None:
        self._images, self._preprocessing = images, preprocessing
        self._decoding = decoding_slots()

    def read(self, found: ObjectInfo) -> Examined:
        most = self._preprocessing.limits.max_bytes
        if found.size > most:
            detail = f"too_large: {found.size} bytes, at most {most} are read"
            return Examined(found.key, reason=detail)
        try:
            data = self._images.get(found.key)
        except NotFoundError:
            return Examined(found.key, reason="gone: it was deleted after the run was planned")
        with self._decoding:
            return examine(found.key, data, self._preprocessing)


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
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        merged = _merge(store, plan, folder)
        for path in sorted(folder.glob("*.parquet")):
            store.put_file(f"{plan.output}{path.name}", path)
        store.put_file(f"{plan.output}predictions.csv", folder / "predictions.csv", "text/csv")
        drift = _drift(store, plan, merged.features)
    if drift is not None:
        store.put_json(f"{plan.output}drift.json", asdict(drift))
        logger.info("%s", sentence(drift))
    finished = finished_time(store, plan.run)
    report = _report(store, plan, merged, drift, finished)
    store.put(f"{plan.output}report.html", report.encode(), "text/html; charset=utf-8")
    index_predictions(store, plan, merged.digest, finished)
    summary = _summary(plan, merged.digest)
    store.put_json(plan.success_key, asdict(summary))
    return summary


def _delete_staging(store: Store, plan: BatchPlan) -> None:
    store.delete([found.key for found in store.list(prediction_staging(plan.run))])


def _merge(store: Store, plan: BatchPlan, folder: Path) -> Merged:
    staged = (store.get(plan.staged("scores", shard, ".parquet")) for shard in range(plan.shards))
    merged = merge_shards(staged, folder, PICTURED)
    if merged.digest.images != plan.objects:
        raise InputError(
            f"{merged.digest.images} rows for {plan.objects} objects: clear the predict tasks"
        )
    return merged


def _report(
    store: Store, plan: BatchPlan, merged: Merged, drift: Drift | None, finished: datetime
) -> str:
    from dermascan.model_card.excerpt import model_excerpt  # noqa: PLC0415  # matplotlib
    from dermascan.reporting import (  # noqa: PLC0415  # likewise
        BatchReport,
        ReportContext,
        predictions_report,
    )

    context = ReportContext(
        title="Batch inference",
        subtitle=plan.prefix,
        facts=(
            ("Images", plan.prefix),
            ("Run", plan.run),
            ("Model", f"{plan.model} version {plan.version}"),
            *([("Runtime", merged.runtime)] if merged.runtime else []),
            ("Results", store.address(plan.output)),
        ),
    )
    metadata = _published(store, plan, METADATA_FILE)
    evaluation = _published(store, plan, "evaluation.json")
    return predictions_report(
        BatchReport(
            predictions=merged.digest,
            context=context,
            pictures=merged.pictures,
            made=finished,
            drift=drift,
            model=model_excerpt(metadata, evaluation) if metadata else None,
        )
    )


def _published(store: Store, plan: BatchPlan, name: str) -> bytes | None:
    """Return a file of the model version, None if it has none of that name."""
    try:
        return read_file(store, plan.model, plan.version, name)
    except NotFoundError:
        return None


def _drift(store: Store, plan: BatchPlan, features: FeatureFile | None) -> Drift | None:
    reference = None if features is None else _published(store, plan, REFERENCE_FILE)
    if features is None or reference is None:
        return None
    return compare(decode_reference(reference), features)


def _summary(plan: BatchPlan, digest: BatchDigest) -> BatchSummary:
    return BatchSummary(
        run=plan.run,
        output=plan.output,
        scored=digest.scored,
        rejected=digest.rejected,
        malignant=digest.malignant,
        model_version=plan.version,
    )
