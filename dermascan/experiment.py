"""What becomes of a trained model: evaluated on held-out lesions, judged, promoted.

Each step leaves its result under `training/<fingerprint>/` and finds it there when it is
run again.
"""

import io
import json
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from dermascan.errors import ConflictError
from dermascan.evaluation import Evaluation, evaluate
from dermascan.example_set import ExampleSet, read_split
from dermascan.fingerprint import canonical_json
from dermascan.gate import GateResult, check, load_rules, require
from dermascan.layout import CandidacyKeys, ModelKeys, TrainingKeys
from dermascan.progress import Progress
from dermascan.records import Record, read_records
from dermascan.registry import (
    Champion,
    Decision,
    champion,
    claim_version,
    fetch_version,
    is_published,
    promote,
    publish_version,
)
from dermascan.reporting import ReportContext, evaluation_report
from dermascan.savedmodel import METADATA_FILE, ModelMetadata, Scorer, load_scorer
from dermascan.storage import Store
from dermascan.taxonomy import LESION_CLASSES, Taxonomy
from dermascan.tracking import MlflowTracker
from dermascan.training import (
    TrainingConfig,
    TrainingData,
    TrainingSummary,
    train,
    training_fingerprint,
)

logger = logging.getLogger(__name__)

BATCH = 32


@dataclass(frozen=True)
class Promotion:
    """What a training run became.

    Attributes:
        model: the model's name.
        version: the version that was published.
        training: fingerprint of the training run.
    """

    model: str
    version: int
    training: str


def train_examples(
    store: Store, examples: ExampleSet, config: TrainingConfig, tracking_uri: str | None, run: str
) -> TrainingSummary:
    """Train on an example set, and tell MLflow if there is one.

    Args:
        store: the bucket.
        examples: preprocessed examples.
        config: how to train.
        tracking_uri: of the MLflow server, None for none.
        run: name of the orchestrator's run, for the MLflow run to point back to.
    """
    counts = examples.counts["train"]
    data = TrainingData(
        train_keys=tuple(examples.keys("train")),
        val_keys=tuple(examples.keys("val")),
        class_counts=tuple(counts.get(name, 0) for name in LESION_CLASSES),
        dataset_fingerprint=examples.manifest_fingerprint,
        preprocessing=examples.preprocessing,
        licences=examples.licences,
    )
    name = training_fingerprint(config, data)
    tracker = None
    if tracking_uri and not store.exists(TrainingKeys(name).done):
        tracker = MlflowTracker(tracking_uri, examples.dataset, name)
        tracker.set_tag("airflow.run", run)
    return train(store, config, data, TrainingKeys(name).prefix, tracker=tracker)


def evaluate_model(store: Store, examples: ExampleSet, training: str) -> Evaluation:
    """Score the test split with the exported model and measure it.

    Args:
        store: the bucket.
        examples: the examples that the model was trained on.
        training: fingerprint of the training run.
    """
    keys = TrainingKeys(training)
    done = store.get_if_present(keys.evaluation)
    if done is not None:
        logger.info("evaluated already, nothing to do")
        return Evaluation.model_validate_json(done)
    with tempfile.TemporaryDirectory() as folder:
        scorer = load_scorer(_fetch_prefix(store, keys.model, Path(folder) / "model"))
        scores = pd.concat(_score_split(store, examples, scorer, Path(folder)))
    table = read_split(store, examples, "test").merge(scores, on="isic_id", validate="1:1")
    evaluation = evaluate(table, scorer.metadata.threshold, dataset=examples.dataset)
    sink = io.BytesIO()
    table.to_parquet(sink, compression="zstd")
    store.put(keys.scores, sink.getvalue())
    body = evaluation.model_dump_json(indent=1).encode()
    store.put(keys.evaluation, body, "application/json")
    logger.info("%s", headline(evaluation))
    return evaluation


def headline(evaluation: Evaluation) -> str:
    """Return the figures that matter most in one line."""
    malignant = evaluation.malignant
    figures = (
        ("AUC", malignant.roc_auc.value),
        ("accuracy malignant/benign", malignant.accuracy.value),
        ("balanced accuracy, seven classes", evaluation.balanced_accuracy.value),
        ("sensitivity", malignant.sensitivity.value),
        ("specificity", malignant.specificity.value),
    )
    text = ", ".join(f"{name} {'n/a' if x is None else f'{x:.3f}'}" for name, x in figures)
    return f"{evaluation.images} test images: {text}"


def _score_split(
    store: Store, examples: ExampleSet, scorer: Scorer, folder: Path
) -> Iterator[pd.DataFrame]:
    progress = Progress(logger, "test images", sum(examples.counts["test"].values()))
    for key in examples.keys("test"):
        path = folder / "shard.tfrecord.gz"
        store.get_file(key, path)
        records = iter(read_records(path))
        while batch := list(islice(records, BATCH)):
            yield _score_records(batch, scorer)
            progress.advance(len(batch))


def _score_records(batch: list[Record], scorer: Scorer) -> pd.DataFrame:
    scores = scorer.score(np.stack([record.image for record in batch]))
    columns = {f"p_{name}": scores.probabilities[:, i] for i, name in enumerate(LESION_CLASSES)}
    ids = [record.isic_id for record in batch]
    return pd.DataFrame({"isic_id": ids, "p_malignant": scores.p_malignant, **columns})


def judge(store: Store, training: str, model: str, rules: Path) -> GateResult:
    """Ask the gate whether a model may be promoted, and leave its report either way.

    Args:
        store: the bucket.
        training: fingerprint of the training run.
        model: the model's name, whose champion is compared with.
        rules: the gate's file.

    Raises:
        GateFailedError: a rule was not met; the message holds the table.
    """
    keys = TrainingKeys(training)
    candidacy = keys.candidacy(model)
    if store.exists(candidacy.promotion):
        logger.info("promoted already, nothing to do")
        return GateResult.model_validate_json(store.get(candidacy.gate))
    evaluation = Evaluation.model_validate_json(store.get(keys.evaluation))
    current = champion(store, model)
    result = check(
        evaluation,
        _champion_evaluation(store, current) if current else None,
        load_rules(rules),
        champion_version=current.version if current else None,
    )
    store.put(candidacy.gate, result.model_dump_json(indent=1).encode(), "application/json")
    report = _report(store, keys, training, evaluation, result)
    store.put(candidacy.report, report.encode(), "text/html; charset=utf-8")
    logger.info("report: %s", store.address(candidacy.report))
    logger.info("\n%s", result.table())
    require(result)
    return result


def _champion_evaluation(store: Store, current: Champion) -> Evaluation:
    body = store.get(f"{ModelKeys(current.model).version(current.version)}evaluation.json")
    return Evaluation.model_validate_json(body)


def _report(
    store: Store, keys: TrainingKeys, training: str, evaluation: Evaluation, gate: GateResult
) -> str:
    metadata = ModelMetadata.model_validate_json(store.get(keys.model + METADATA_FILE))
    facts = (
        ("Training run", training),
        ("Training data", metadata.dataset_fingerprint),
        ("Network", str(metadata.network.get("architecture"))),
        ("Image size", str(metadata.preprocessing.image_size)),
        ("Operating threshold", f"{metadata.threshold:.3f} (chosen on validation)"),
        ("Temperature", f"{metadata.temperature:.3f} (fitted on validation)"),
    )
    table = pd.read_parquet(io.BytesIO(store.get(keys.scores)))
    context = ReportContext("Evaluation on held-out lesions", headline(evaluation), facts)
    taxonomy = Taxonomy(malignant=metadata.malignant_classes)
    return evaluation_report(evaluation, table, gate, context, taxonomy=taxonomy)


def promote_model(store: Store, training: str, model: str, by: str) -> Promotion:
    """Publish a training run's model as a new version and make it the champion.

    The version is claimed once for a training run, and published once, with the verdict of
    that time; the champion moves only after every file of the version was read back and found
    equal to its SHA-256.

    Args:
        store: the bucket.
        training: fingerprint of the training run; it must have passed the gate.
        model: the model's name.
        by: who or what promotes it.

    Raises:
        GateFailedError: the gate's latest verdict is against it.
        ConflictError: the champion is no longer the one that the gate compared with.
    """
    keys = TrainingKeys(training)
    candidacy = keys.candidacy(model)
    done = store.get_if_present(candidacy.promotion)
    if done is not None:
        promotion = Promotion(**json.loads(done))
        logger.info("promoted already as version %d, nothing to do", promotion.version)
        return promotion
    verdict = GateResult.model_validate_json(store.get(candidacy.gate))
    require(verdict)
    guard = partial(_require_judged_against, verdict, model)
    version = _claimed_version(store, candidacy.version, model, training)
    if not is_published(store, model, version):
        guard(champion(store, model))
        _publish(store, keys, candidacy, model, version)
    with tempfile.TemporaryDirectory() as folder:
        fetch_version(store, model, version, Path(folder))
    reason = f"training run {training} passed the gate"
    promote(store, model, version, Decision(by, reason, f"training/{training}"), guard)
    promotion = Promotion(model, version, training)
    store.put_json(candidacy.promotion, asdict(promotion))
    return promotion


def _require_judged_against(verdict: GateResult, model: str, current: Champion | None) -> None:
    judged, present = verdict.champion_version, current.version if current else None
    if judged != present:
        raise ConflictError(
            f"the gate compared with {_named(model, judged)}, but now there is "
            f"{_named(model, present)}: clear the task `gate` of this run, so that it is judged "
            "against the present champion"
        )


def _named(model: str, version: int | None) -> str:
    return f"no champion of {model!r}" if version is None else f"champion {model} {version}"


def _claimed_version(store: Store, key: str, model: str, training: str) -> int:
    if not store.exists(key):
        claimed = {"version": claim_version(store, model, training)}
        store.put_if_absent(key, canonical_json(claimed), "application/json")
    return int(str(store.get_json(key)["version"]))


def _publish(
    store: Store, keys: TrainingKeys, candidacy: CandidacyKeys, model: str, version: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = _fetch_prefix(store, keys.model, Path(name))
        for key in (keys.evaluation, candidacy.gate, candidacy.report):
            (folder / Path(key).name).write_bytes(store.get(key))
        publish_version(store, model, version, folder)


def _fetch_prefix(store: Store, prefix: str, folder: Path) -> Path:
    for found in store.list(prefix):
        path = folder / found.key.removeprefix(prefix)
        path.parent.mkdir(parents=True, exist_ok=True)
        store.get_file(found.key, path)
    return folder
