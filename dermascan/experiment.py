"""What becomes of a trained model: evaluated on held-out lesions, judged, promoted.

Each step leaves its result under `training/<fingerprint>/` and finds it there when it is
run again.
"""

import json
import logging
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from dermascan.assessment.documents import Verdict, make_card, write_documents
from dermascan.assessment.head_to_head import compare_with_champion
from dermascan.assessment.measurement import evaluate_model, headline, run_metrics
from dermascan.drift.features import REFERENCE_FILE
from dermascan.errors import ConflictError
from dermascan.evaluation import Evaluation
from dermascan.example_set import ExampleSet
from dermascan.fingerprint import canonical_json
from dermascan.gate import GateResult, check, load_rules, require
from dermascan.layout import ModelKeys, TrainingKeys
from dermascan.learning.joining import TrainingOrder, leave_order
from dermascan.learning.training import (
    TrainingConfig,
    TrainingData,
    TrainingSummary,
    train,
)
from dermascan.model.golden import GOLDEN_FILE, require_golden, write_golden
from dermascan.model.savedmodel import Scorer, load_scorer
from dermascan.model.twin_making import drop_unusable_twin
from dermascan.model_mirror import mirror_champion
from dermascan.registry import (
    Champion,
    Decision,
    champion,
    claim_version,
    fetch_version,
    former_champions,
    is_published,
    promote,
    publish_version,
    require_intact,
)
from dermascan.storage import Store
from dermascan.taxonomy import LESION_CLASSES
from dermascan.tracked_training import tell_dataset, tell_evaluation, tell_run, tell_training
from dermascan.tracking import MlflowTracker, run_page

__all__ = [
    "Promotion",
    "evaluate_model",
    "headline",
    "judge",
    "promote_by_hand",
    "promote_model",
    "require_proven",
    "train_examples",
]

logger = logging.getLogger(__name__)


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


def train_examples(  # noqa: PLR0913  # what to train on and how, and four for its surroundings
    store: Store,
    examples: ExampleSet,
    config: TrainingConfig,
    tracking_uri: str | None,
    run: str,
    *,
    run_address: str | None = None,
    tracked: Callable[[str | None], None] = lambda _: None,
) -> TrainingSummary:
    """Train on an example set, and tell MLflow if there is one.

    Args:
        store: the bucket.
        examples: preprocessed examples.
        config: how to train.
        tracking_uri: of the MLflow server, None for none.
        run: name of the orchestrator's run, for the MLflow run to point back to.
        run_address: of that run's page, None if it has none.
        tracked: is told the address of MLflow's page as soon as there is one.
    """
    counts = examples.counts["train"]
    data = TrainingData(
        train_keys=tuple(examples.keys("train")),
        val_keys=tuple(examples.keys("val")),
        class_counts=tuple(counts.get(name, 0) for name in LESION_CLASSES),
        dataset_fingerprint=examples.manifest_fingerprint,
        preprocessing=examples.preprocessing,
        licences=examples.licences,
        dataset=examples.dataset,
    )
    order = TrainingOrder(config=config, data=data)
    name = order.training
    prefix = TrainingKeys(name).prefix
    if store.exists(TrainingKeys(name).done):
        tracked(run_page(tracking_uri, name) if tracking_uri else None)
        return train(store, config, data, prefix)
    leave_order(store, order)
    if not tracking_uri:
        return train(store, config, data, prefix)
    tracker = MlflowTracker(tracking_uri, examples.dataset, name)
    tell_run(tracker, run, run_address)
    tell_dataset(tracker, store, examples)
    tracked(tracker.page)
    summary = train(store, config, data, prefix, tracker=tracker)
    tell_training(tracker, store, name)
    return summary


def judge(  # noqa: PLR0913  # four things a verdict is made of, and two for its surroundings
    store: Store,
    training: str,
    model: str,
    rules: Path,
    *,
    tracking_uri: str | None = None,
    load: Callable[[Path], Scorer] = load_scorer,
) -> GateResult:
    """Ask the gate whether a model may be promoted, and leave report and model card either way.

    The verdict is written last: where there is one, there are the documents that explain it.

    Args:
        store: the bucket.
        training: fingerprint of the training run; it must have been evaluated.
        model: the model's name, whose champion is compared with.
        rules: the gate's file.
        tracking_uri: of the MLflow server, None for none.
        load: makes a scorer of the champion's files; replaced in tests.

    Raises:
        GateFailedError: a rule was not met; the message holds the table.
        IntegrityError: the champion cannot be read.
    """
    keys = TrainingKeys(training)
    candidacy = keys.candidacy(model)
    if store.exists(candidacy.promotion):
        logger.info("promoted already, nothing to do")
        return GateResult.model_validate_json(store.get(candidacy.gate))
    evaluation = Evaluation.model_validate_json(store.get(keys.evaluation))
    current = champion(store, model)
    compared = compare_with_champion(store, training, current, load) if current else None
    result = check(evaluation, compared, load_rules(rules))
    verdict = Verdict(evaluation, result, compared)
    documents = write_documents(store, training, model, verdict)
    store.put(candidacy.gate, result.model_dump_json(indent=1).encode(), "application/json")
    if tracking_uri:
        tracker = _tracker(store, tracking_uri, training)
        _tell_verdict(tracker, verdict, {store.address(key): documents[key] for key in documents})
    logger.info("\n%s", result.table())
    require(result)
    return result


def _tracker(store: Store, uri: str, training: str) -> MlflowTracker:
    """Return the MLflow run that the training made, found by its fingerprint."""
    dataset = store.get_json(TrainingKeys(training).evaluation)["dataset"]
    return MlflowTracker(uri, str(dataset), training)


def _tell_verdict(tracker: MlflowTracker, verdict: Verdict, documents: Mapping[str, bytes]) -> None:
    """Tell MLflow the figures and the verdict, and where the documents are.

    Args:
        tracker: of the training's run.
        verdict: what was found out.
        documents: their bytes by address; MLflow's own copies can be looked at in its pages.
    """
    tracker.log_metrics(run_metrics(verdict.evaluation), 0)
    tell_evaluation(tracker, verdict.evaluation)
    tracker.set_tag("dermascan.gate", "passed" if verdict.gate.passed else "failed")
    with tempfile.TemporaryDirectory() as folder:
        for address, body in documents.items():
            path = Path(folder) / address.rsplit("/", 1)[-1]
            path.write_bytes(body)
            tracker.log_artifact(path)
            tracker.set_tag(f"dermascan.{path.name}", address)
    tracker.finish()


def promote_model(  # noqa: PLR0913  # three things that are promoted, and three for its surroundings
    store: Store,
    training: str,
    model: str,
    by: str,
    *,
    approval: str = "",
    tracking_uri: str | None = None,
    load: Callable[[Path], Scorer] = load_scorer,
) -> Promotion:
    """Publish a training run's model as a new version and make it the champion.

    The version is claimed once for a training run, and published once, with the verdict of
    that time. The champion moves only after every file of the version was read back and found
    equal to its SHA-256, and the copy scored the golden images as the networks did that were
    exported.

    Args:
        store: the bucket.
        training: fingerprint of the training run; it must have passed the gate.
        model: the model's name.
        by: who or what promotes it.
        approval: who approved where, for the history; empty if nobody was asked.
        tracking_uri: of the MLflow server, None for none.
        load: makes a scorer of the version's files; replaced in tests.

    Raises:
        GateFailedError: the gate's latest verdict is against it.
        ConflictError: the champion is no longer the one that the gate compared with.
        IntegrityError: what was read back is not what was published.
    """
    candidacy = TrainingKeys(training).candidacy(model)
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
        _publish(store, training, model, version, load)
    require_proven(store, model, version, load)
    reason = f"training run {training} passed the gate" + (f", {approval}" if approval else "")
    promote(store, model, version, Decision(by, reason, f"training/{training}"), guard)
    promotion = Promotion(model, version, training)
    if tracking_uri:
        _tell_promotion(store, tracking_uri, promotion)
        mirror_champion(store, model, tracking_uri)
    store.put_json(candidacy.promotion, asdict(promotion))
    return promotion


def promote_by_hand(
    store: Store,
    model: str,
    version: int,
    decision: Decision,
    load: Callable[[Path], Scorer] = load_scorer,
) -> bool:
    """Make any complete version the champion, after it was read back and proven.

    A version that was champion before was proven then: its files are compared with the
    manifest, and TensorFlow is not needed.

    Returns:
        True if the pointer moved, False if the version was champion already.

    Raises:
        NotFoundError: there is no such version.
        IntegrityError: what was read back is not what was published.
        ConflictError: somebody else moved the pointer at the same time; nothing was changed.
    """
    if version in former_champions(store, model):
        require_intact(store, model, version)
    else:
        require_proven(store, model, version, load)
    return promote(store, model, version, decision)


def require_proven(
    store: Store, model: str, version: int, load: Callable[[Path], Scorer] = load_scorer
) -> None:
    """Read a version back, and let the copy score its golden images.

    Raises:
        NotFoundError: there is no such version.
        IntegrityError: a file does not match the manifest, or a score does not match its record.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = fetch_version(store, model, version, Path(name))
        require_golden(folder, load(folder).score, f"{model} version {version}")


def _tell_promotion(store: Store, uri: str, promotion: Promotion) -> None:
    tracker = _tracker(store, uri, promotion.training)
    tracker.set_tag("dermascan.version", f"{promotion.model}/{promotion.version}")
    prefix = ModelKeys(promotion.model).version(promotion.version)
    for key in TrainingKeys(promotion.training).candidacy(promotion.model).documents:
        name = Path(key).name
        tracker.set_tag(f"dermascan.{name}", store.address(prefix + name))
    tracker.finish()


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
    store: Store, training: str, model: str, version: int, load: Callable[[Path], Scorer]
) -> None:
    keys = TrainingKeys(training)
    candidacy = keys.candidacy(model)
    with tempfile.TemporaryDirectory() as name:
        folder = store.get_folder(keys.model, Path(name))
        if not (folder / GOLDEN_FILE).exists():  # exported before there were golden images
            scorer = load(folder)
            write_golden(folder, scorer.metadata.preprocessing.image_size, scorer.score)
        drop_unusable_twin(folder)
        for key in (keys.evaluation, candidacy.gate, candidacy.report):
            (folder / Path(key).name).write_bytes(store.get(key))
        if (reference := store.get_if_present(keys.reference)) is not None:
            (folder / REFERENCE_FILE).write_bytes(reference)
        card = make_card(store, training, model, str(version))
        (folder / Path(candidacy.card_html).name).write_bytes(card.html)
        (folder / Path(candidacy.card_markdown).name).write_bytes(card.markdown)
        publish_version(store, model, version, folder)
