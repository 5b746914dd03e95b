"""What a verdict leaves for people to read: the evaluation's report and the model card."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dermascan.assessment.gallery import credit_line, read_gallery
from dermascan.assessment.measurement import headline
from dermascan.dataset import decode_manifest
from dermascan.evaluation import Evaluation
from dermascan.example_set import ExampleSet
from dermascan.fingerprint import Plain
from dermascan.gate import ChampionComparison, GateResult
from dermascan.layout import DatasetKeys, TrainingKeys
from dermascan.learning.fitting import EpochRecord, best_epoch
from dermascan.model.calibration import Calibration
from dermascan.model.savedmodel import METADATA_FILE, ModelMetadata
from dermascan.model_card import (
    CardContext,
    card_html,
    card_markdown,
    load_reporting_items,
    model_card,
)
from dermascan.progress import format_seconds
from dermascan.reporting import LearningCurve, ReportContext, evaluation_report
from dermascan.scores import read_scores
from dermascan.storage import Store
from dermascan.taxonomy import Taxonomy

logger = logging.getLogger(__name__)

REPORTING_ITEMS = Path(__file__).parents[2] / "include" / "reporting_items.yaml"

_CONTENT_TYPES = {".html": "text/html; charset=utf-8", ".md": "text/markdown; charset=utf-8"}


@dataclass(frozen=True)
class Verdict:
    """All that was found out about a candidate.

    Attributes:
        evaluation: on the test split.
        gate: what the rules came to.
        champion: the comparison with the champion, None without one.
    """

    evaluation: Evaluation
    gate: GateResult
    champion: ChampionComparison | None


@dataclass(frozen=True)
class ModelCard:
    """A model card in its two forms."""

    html: bytes
    markdown: bytes


def write_documents(
    store: Store, training: str, model: str, verdict: Verdict, items: Path = REPORTING_ITEMS
) -> dict[str, bytes]:
    """Write report and model card of a candidate, and return them by key.

    Args:
        store: the bucket.
        training: fingerprint of the training run; it must have been evaluated.
        model: the model's name.
        verdict: what was found out.
        items: file that says which item of a reporting guideline is answered where.
    """
    keys = TrainingKeys(training).candidacy(model)
    card = make_card(store, training, model, items=items)
    made = {
        keys.report: _report(store, training, verdict).encode(),
        keys.card_html: card.html,
        keys.card_markdown: card.markdown,
    }
    for key, body in made.items():
        store.put(key, body, _CONTENT_TYPES[PurePosixPath(key).suffix])
        logger.info("%s", store.address(key))
    return made


def make_card(
    store: Store, training: str, model: str, version: str = "", items: Path = REPORTING_ITEMS
) -> ModelCard:
    """Make the model card of a training run.

    Args:
        store: the bucket.
        training: fingerprint of the training run; it must have been evaluated.
        model: the model's name.
        version: of the model, empty as long as it is not published.
        items: file that says which item of a reporting guideline is answered where.
    """
    keys = TrainingKeys(training)
    evaluation = Evaluation.model_validate_json(store.get(keys.evaluation))
    context = _card_context(store, keys, evaluation, model, version)
    card = model_card(_metadata(store, keys), evaluation, context, load_reporting_items(items))
    return ModelCard(card_html(card).encode(), card_markdown(card).encode())


def _metadata(store: Store, keys: TrainingKeys) -> ModelMetadata:
    return ModelMetadata.model_validate_json(store.get(keys.model + METADATA_FILE))


def _card_context(
    store: Store, keys: TrainingKeys, evaluation: Evaluation, model: str, version: str
) -> CardContext:
    dataset = evaluation.dataset or "not recorded"
    reference = store.get_if_present(keys.examples)
    if reference is None:
        return CardContext(model, dataset, version)
    examples = ExampleSet.read(store, **json.loads(reference))
    manifest = DatasetKeys(examples.dataset).manifest(examples.manifest_fingerprint)
    return CardContext(
        model=model,
        dataset=dataset,
        version=version,
        counts=examples.counts,
        set_aside=examples.set_aside,
        left_out=examples.left_out,
        image_credit=credit_line(decode_manifest(store.get(manifest))),
        training=_training_facts(store.get_json(keys.done)),
    )


def _training_facts(summary: Mapping[str, Plain]) -> tuple[tuple[str, str], ...]:
    return (
        ("Parameters", f"{int(str(summary['parameters'])):,}"),
        ("Time to train", format_seconds(float(str(summary["seconds"])))),
    )


def _report(store: Store, training: str, verdict: Verdict) -> str:
    keys = TrainingKeys(training)
    metadata = _metadata(store, keys)
    gallery = read_gallery(store, keys.gallery)
    context = ReportContext(
        "Evaluation on held-out lesions",
        headline(verdict.evaluation),
        _report_facts(metadata, training),
        gallery.credit,
    )
    return evaluation_report(
        verdict.evaluation,
        read_scores(store, keys.scores),
        verdict.gate,
        context,
        taxonomy=Taxonomy(malignant=metadata.malignant_classes),
        gallery=gallery.items,
        comparison=verdict.champion,
        history=learning_curves(store, keys),
    )


def _report_facts(metadata: ModelMetadata, training: str) -> tuple[tuple[str, str], ...]:
    return (
        ("Training run", training),
        ("Training data", metadata.dataset_fingerprint),
        ("Network", str(metadata.network.get("architecture"))),
        ("Networks averaged", str(metadata.networks)),
        ("Views averaged", str(metadata.views.count)),
        ("Image size", str(metadata.preprocessing.image_size)),
        ("Operating threshold", f"{metadata.threshold:.3f} ({metadata.threshold_choice})"),
        *_calibration_facts(metadata.calibration),
    )


def _calibration_facts(calibration: Calibration) -> tuple[tuple[str, str], ...]:
    offsets = ", ".join(f"{offset:.3f}" for offset in calibration.class_offsets) or "none"
    malignant, benign = calibration.slopes
    line = f"{malignant:.3f}, {benign:.3f}, {calibration.malignant_offset:.3f}"
    return (
        ("Temperature", f"{calibration.temperature:.3f} (fitted on validation)"),
        ("Slopes and offset of p_malignant", f"{line} (1, 1 and 0 change nothing)"),
        ("Class offsets, from training images", offsets),
    )


def learning_curves(store: Store, keys: TrainingKeys) -> tuple[LearningCurve, ...]:
    """Return how training went, one curve for each network of an ensemble; none if not kept."""
    body = store.get_if_present(keys.history)
    rows: list[dict[str, Plain]] = json.loads(body)["epochs"] if body else []
    members = sorted({_member(row) for row in rows})
    return tuple(_curve(m, [row for row in rows if _member(row) == m]) for m in members)


def _member(row: Mapping[str, Plain]) -> int:
    return int(str(row.get("member", 0)))


def _curve(member: int, rows: list[dict[str, Plain]]) -> LearningCurve:
    def column(name: str) -> tuple[float | None, ...]:
        return tuple(None if row[name] is None else float(str(row[name])) for row in rows)

    return LearningCurve(
        name=f"network {member + 1}",
        epochs=tuple(int(str(row["epoch"])) for row in rows),
        losses=column("loss"),
        val_losses=column("val_loss"),
        val_aucs=column("val_malignant_auc"),
        chosen=best_epoch([EpochRecord.model_validate(row) for row in rows]).epoch,
    )
