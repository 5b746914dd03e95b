"""A promoted model that is made up, and a session in which the DAGs' work is done without Airflow.

The bucket holds what the DAGs leave there; only the network is replaced, by the brightness of an
image.
"""

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from dermascan.dataset import MANIFEST_SCHEMA, DatasetPointer, manifest_fingerprint, publish
from dermascan.evaluation import (
    CLASS_COLUMNS,
    CorruptionFigures,
    Efficiency,
    Estimate,
    Evaluation,
    Robustness,
    evaluate,
)
from dermascan.example_set import SPLIT_SCHEMA, ExampleSet
from dermascan.fingerprint import sha256_hex
from dermascan.gate import check, load_rules
from dermascan.imaging import ImageSize, Preprocessing, decode, prepare
from dermascan.inference.batch import (
    BatchPlan,
    ObjectInfo,
    resolve,
    score_objects,
    summarise,
    write_predictions,
)
from dermascan.layout import DatasetKeys, TrainingKeys
from dermascan.learning.fitting import EpochRecord, ValidationFigures
from dermascan.learning.training import TrainingSummary
from dermascan.model.metadata import METADATA_FILE, ModelMetadata
from dermascan.model.savedmodel import Scores
from dermascan.registry import ModelReference, publish_version
from dermascan.scores import write_scores
from dermascan.stack.airflow_api import Task
from dermascan.stack.runs import FailedTask, RunOutcome
from dermascan.storage import Store
from dermascan.taxonomy import LESION_CLASSES
from dermascan.walkthrough import Audience, PastRun, RunFailedError

PREPROCESSING = Preprocessing(ImageSize(48, 64))
TRAINING = "f" * 24
VERSION = 20260101000000
SENTENCE = "dataset 'made-up' (24 images) is valid: 58 of 58 expectations hold"
RULES = """
rules:
  - name: enough | images
    metric: images
    comparison: at_least
    threshold: {threshold}
    why: the test decides
"""


def metadata() -> ModelMetadata:
    return ModelMetadata(
        malignant_classes=("mel", "bcc", "akiec"),
        threshold=0.5,
        preprocessing=PREPROCESSING,
        dataset_fingerprint="d" * 24,
        training_fingerprint=TRAINING,
        network={"architecture": "none"},
        licences={},
    )


class BrightnessScorer:
    """Takes dark images for melanomas and bright ones for nevi."""

    metadata = metadata()

    def score(self, images: np.ndarray) -> Scores:
        risk = 1 - images.mean(axis=(1, 2, 3)) / 255
        probabilities = np.zeros((len(images), 7))
        probabilities[:, LESION_CLASSES.index("mel")] = risk
        probabilities[:, LESION_CLASSES.index("nv")] = 1 - risk
        return Scores(probabilities, risk, np.zeros((len(images), 1)))


def scored(folder: Path, name: str) -> pd.DataFrame:
    """Score the images of a folder as `evaluate` would score a test split."""
    with (folder / "metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    files = [folder / f"{row['isic_id']}.jpg" for row in rows]
    images = [prepare(decode(file.read_bytes()), PREPROCESSING) for file in files]
    scores = BrightnessScorer().score(np.stack(images))
    identity = {
        "isic_id": [row["isic_id"] for row in rows],
        "key": [DatasetKeys(name).image(row["isic_id"], "jpg") for row in rows],
        "sha256": [sha256_hex(file.read_bytes()) for file in files],
        "lesion_id": [row["lesion_id"] for row in rows],
        "lesion_class": ["nv" if row["diagnosis_1"] == "Benign" else "mel" for row in rows],
        "p_malignant": scores.p_malignant,
    }
    columns = {name: scores.probabilities[:, i] for i, name in enumerate(CLASS_COLUMNS)}
    return pd.DataFrame(identity | columns)


def put_dataset(store: Store, folder: Path, name: str) -> DatasetPointer:
    """Leave what `ingest_isic` leaves."""
    table = scored(folder, name)
    for row in table.itertuples():
        store.put(row.key, (folder / f"{row.isic_id}.jpg").read_bytes())
    manifest = table[["isic_id", "key", "sha256"]].reindex(columns=MANIFEST_SCHEMA.names)
    fingerprint = manifest_fingerprint(manifest)
    key = DatasetKeys(name).manifest(fingerprint)
    pointer = DatasetPointer(name, fingerprint, key, len(manifest), 0, 0, "none")
    publish(store, pointer, manifest)
    return pointer


def put_trained(store: Store, folder: Path, pointer: DatasetPointer) -> ExampleSet:
    """Leave what the tasks `split`, `train` and `evaluate` leave; all images are test images."""
    name, table = pointer.dataset, scored(folder, pointer.dataset)
    test = {c: int((table["lesion_class"] == c).sum()) for c in ("mel", "nv")}
    counts = {"train": {"mel": 20, "nv": 90}, "val": {"mel": 4, "nv": 18}, "test": test}
    examples = ExampleSet(
        name, "e" * 24, pointer.fingerprint, PREPROCESSING, (), counts, 1, 2, ("CC-0",)
    )
    facts = dict.fromkeys(("sex", "age_approx", "anatom_site_general", "diagnosis_confirm_type"))
    split = table.assign(split="test", group=table["isic_id"], **facts)
    rows = pa.Table.from_pandas(split, schema=SPLIT_SCHEMA, preserve_index=False)
    pq.write_table(rows, folder / "split.parquet")
    store.put_file(f"{examples.prefix}split.parquet", folder / "split.parquet")
    store.put(f"{examples.prefix}examples.json", examples.to_json())
    keys = TrainingKeys(TRAINING)
    write_scores(store, keys.scores, table)
    evaluation = evaluate(table, 0.5, dataset=name, validation=table, resamples=50)
    measured = {"robustness": robustness(), "efficiency": efficiency()}
    store.put(keys.evaluation, evaluation.model_copy(update=measured).model_dump_json().encode())
    store.put(keys.done, summary().model_dump_json().encode())
    store.put_json(keys.history, {"epochs": [record.model_dump() for record in history()]})
    store.put(keys.model + METADATA_FILE, metadata().model_dump_json().encode())
    return examples


def put_verdict(store: Store, folder: Path, name: str, *, passes: bool = True) -> None:
    """Leave what the task `gate` leaves."""
    rules = folder / "gate.yaml"
    rules.write_text(RULES.format(threshold=1 if passes else 1000))
    keys = TrainingKeys(TRAINING)
    evaluation = Evaluation.model_validate_json(store.get(keys.evaluation))
    result = check(evaluation, None, load_rules(rules))
    store.put(keys.candidacy(name).gate, result.model_dump_json().encode())


def put_promoted(store: Store, folder: Path, name: str) -> None:
    """Leave what the task `promote` leaves."""
    keys = TrainingKeys(TRAINING)
    model = folder.parent / "model"
    model.mkdir(exist_ok=True)
    (model / METADATA_FILE).write_bytes(store.get(keys.model + METADATA_FILE))
    publish_version(store, name, VERSION, model)
    promotion = {"model": name, "version": VERSION, "training": TRAINING}
    store.put_json(keys.candidacy(name).promotion, promotion)


def robustness() -> Robustness:
    figures = [
        CorruptionFigures(name=name, strength=s, roc_auc=Estimate(value=0.9), auc_lost=s / 100)
        for s in range(1, 6)
        for name in ("blur", "noise")
    ]
    return Robustness(
        images=12,
        corruptions=tuple(figures),
        images_at_3=36,
        malignant_at_3=9,
        mean_auc_lost_at_3=Estimate(value=0.03, low=0.01, high=0.05),
    )


def efficiency() -> Efficiency:
    return Efficiency(
        bytes=3 * 2**20, milliseconds_per_image=12.3, milliseconds_single=45.6, cores=2
    )


def history() -> list[EpochRecord]:
    figures = {"val_loss": 0.9, "val_accuracy": 0.7, "val_balanced_accuracy": 0.5}
    start = EpochRecord(
        epoch=0, seconds=31.0, images_per_second=None, loss=None, val_malignant_auc=None, **figures
    )
    return [
        start,
        start.model_copy(
            update={"epoch": 1, "loss": 1.2, "images_per_second": 88.0, "val_malignant_auc": 0.91}
        ),
    ]


def summary() -> TrainingSummary:
    last = history()[-1]
    return TrainingSummary(
        fingerprint=TRAINING,
        model_prefix=TrainingKeys(TRAINING).model,
        history_key=TrainingKeys(TRAINING).history,
        train_images=110,
        val_images=22,
        parameters=4_000_000,
        seconds=3661.0,
        best=(last,),
        validation=ValidationFigures.model_validate(last.model_dump(include={*_FIGURES})),
        temperature=1.1,
        threshold=0.5,
        sensitivity=0.9,
        specificity=0.9,
    )


_FIGURES = ("val_loss", "val_accuracy", "val_balanced_accuracy", "val_malignant_auc")


class MadeUpSession:
    """Does the work of each DAG when it is triggered, as a `dermascan.walkthrough.Session`."""

    def __init__(self, store: Store, audience: Audience, *, passes: bool = True) -> None:
        self._store, self._audience, self._passes = store, audience, passes
        self._folder: Path | None = None
        self._name = ""
        self._returned: dict[tuple[str, str], object] = {}
        self.confs: list[tuple[str, dict[str, object]]] = []

    def store(self, bucket: str | None = None) -> Store:
        return self._store.in_bucket(bucket) if bucket else self._store

    @contextmanager
    def archive(self, folder: Path, log: Path) -> Iterator[None]:
        log.write_text("")
        self._folder = folder
        yield

    def trigger(self, dag_id: str, conf: dict[str, object]) -> RunOutcome:
        run = f"{dag_id}-{len(self.confs)}"
        self.confs.append((dag_id, dict(conf)))
        failed = getattr(self, f"_{dag_id}")(run, conf)
        state = "failed" if failed else "success"
        tasks = tuple(FailedTask(name, ("its last words",)) for name in failed)
        outcome = RunOutcome(dag_id, run, state, 65.0, "http://a/run", (), tasks)
        self._audience.show(outcome)
        if failed:
            raise RunFailedError(outcome, Path("logs"))
        return outcome

    def returned(self, outcome: RunOutcome, task: str) -> object:
        return self._returned[outcome.run_id, task]

    def runs_like(self, _outcome: RunOutcome, task: str) -> list[PastRun]:
        done = Task(
            task_id=task, map_index=-1, state="success", try_number=1, duration=60, start_date=None
        )
        return [PastRun(65.0, (done,)), PastRun(5.0, ())]

    def _ingest_isic(self, run: str, conf: dict[str, object]) -> Sequence[str]:
        pointer = put_dataset(self._store, self._folder, str(conf["dataset"]))
        self._returned[run, "validate"] = {**asdict(pointer), "validation": SENTENCE}
        self._pointer = pointer
        return ()

    def _train_model(self, run: str, conf: dict[str, object]) -> Sequence[str]:
        name = str(conf["model"])
        examples = put_trained(self._store, self._folder, self._pointer)
        reference = {"dataset": name, "name": examples.fingerprint}
        self._returned[run, "train"] = {"examples": reference, "training": TRAINING}
        put_verdict(self._store, self._folder, name, passes=self._passes)
        if not self._passes:
            return ("gate",)
        put_promoted(self._store, self._folder, name)
        return ()

    def _batch_inference(self, run: str, conf: dict[str, object]) -> Sequence[str]:
        reference = ModelReference.parse(str(conf["model"]))
        plan = resolve(self._store, str(conf["prefix"]), reference)
        self._returned[run, "resolve"] = [{"plan": asdict(plan), "shard": 0}]
        if not self._store.exists(plan.success_key):
            self._predict(plan)
        return ()

    def _predict(self, plan: BatchPlan) -> None:
        images = self._store.in_bucket(plan.bucket)
        prefix = plan.prefix.removeprefix(f"s3://{plan.bucket}/")
        objects: list[ObjectInfo] = list(images.list(prefix))
        path = self._folder.parent / "scores.parquet"
        write_predictions(path, score_objects(images, objects, BrightnessScorer(), VERSION))
        self._store.put_file(plan.staged("scores", 0, ".parquet"), path)
        summarise(self._store, plan)


class MadeUpWalkthrough:
    """A `dermascan.walkthrough.Walkthrough` that has a session and needs no stack."""

    def __init__(self, folder: Path, session: MadeUpSession, audience: Audience) -> None:
        self.project, self.state = folder, folder / "state"
        self.audience, self.session = audience, session

    @contextmanager
    def begin(self) -> Iterator[MadeUpSession]:
        yield self.session
