"""A trained model measured on the held-out lesions of its dataset.

Validation images give the thresholds of the operating points, by the scores that the training
left, of networks that had not seen them; test images are only measured.
"""

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from pydantic import ValidationError

from dermascan.assessment.gallery import make_gallery, write_gallery
from dermascan.assessment.score_tables import (
    SplitRecords,
    before_calibration,
    score_split,
    with_metadata,
)
from dermascan.dataset import decode_manifest
from dermascan.drift.features import Reference, ReferenceMaker, encode_reference
from dermascan.evaluation import Evaluation, ExplanationCheck, Robustness, evaluate, figure
from dermascan.evaluation.corruption import (
    CORRUPTIONS,
    IMAGES_AT_3,
    STRENGTHS,
    measure_robustness,
    stratified_subset,
)
from dermascan.evaluation.efficiency import measure_efficiency
from dermascan.evaluation.explanation import check_explanations, randomised_activation
from dermascan.evaluation.schema import EVALUATION_VERSION
from dermascan.example_set import ExampleSet
from dermascan.layout import DatasetKeys, TrainingKeys
from dermascan.model.savedmodel import ModelMetadata, Scorer, load_scorer
from dermascan.scores import read_scores, write_scores
from dermascan.skin_tone import individual_typology_angle
from dermascan.storage import Store
from dermascan.taxonomy import Taxonomy

logger = logging.getLogger(__name__)

# What the archive says of an image and what was measured of it when it entered, and its column
# in the scored table.
_MANIFEST_COLUMNS = {
    "attribution": "attribution",
    "copyright_license": "copyright_license",
    "fitzpatrick_skin_type": "skin_tone",
    "sharpness": "sharpness",
    "brightness": "brightness",
}
_PIXELS_OF_A_PASS = 144 * 192
_VARIANTS = 1 + len(CORRUPTIONS) * len(STRENGTHS)
_METRICS = (
    "malignant.roc_auc",
    "malignant.roc_auc.low",
    "malignant.sensitivity_at_90_specificity",
    "malignant.accuracy",
    "malignant.sensitivity",
    "malignant.specificity",
    "malignant.ece",
    "balanced_accuracy",
    "classes.mel.roc_auc",
    "robustness.mean_auc_lost_at_3",
    "robustness.mean_auc_lost_at_3.high",
)


@dataclass(frozen=True)
class AssessmentPlan:
    """How much is measured; nearly all of an evaluation's time goes into corrupted images.

    Attributes:
        network_passes: how often the images that are corrupted in every way may go through a
            network of 144x192 pixels, all together: about 6 minutes of EfficientNet-Lite0 on two
            cores. Larger images, several networks and several views use them up sooner.
        least_corrupted: images that are corrupted in every way whatever it costs.
        images_at_3: images that are corrupted at strength 3, whatever it costs; each is scored
            once for every corruption and once as it is.
        explained: images on which explanations are checked.
    """

    network_passes: int = 30_000
    least_corrupted: int = 150
    images_at_3: int = IMAGES_AT_3
    explained: int = 48

    def corrupted_images(self, metadata: ModelMetadata) -> int:
        """Return about how many test images to corrupt in every way and strength."""
        size = metadata.preprocessing.image_size
        pixels = size.height * size.width / _PIXELS_OF_A_PASS
        passes = metadata.networks * metadata.views.count * pixels
        return max(self.least_corrupted, round(self.network_passes / (_VARIANTS * passes)))


DEFAULT_PLAN = AssessmentPlan()


@dataclass(frozen=True)
class _Subject:
    """What is measured: an exported model and the prepared test images, on local disk."""

    scorer: Scorer
    model: Path
    test: SplitRecords
    table: pd.DataFrame

    @property
    def taxonomy(self) -> Taxonomy:
        return Taxonomy(malignant=self.scorer.metadata.malignant_classes)


def evaluate_model(
    store: Store, examples: ExampleSet, training: str, plan: AssessmentPlan = DEFAULT_PLAN
) -> Evaluation:
    """Score the test split with the exported model, and measure it.

    Leaves the scores, the gallery, a sample of the test images in few numbers to compare later
    batches with, a reference to the examples and, last, the evaluation. What is there already is
    not done again, unless an earlier version made it.

    Args:
        store: the bucket.
        examples: the examples that the model was trained on.
        training: fingerprint of the training run.
        plan: how much is measured.
    """
    keys = TrainingKeys(training)
    done = _read_evaluation(store, keys)
    if done is not None:
        logger.info("evaluated already, nothing to do")
        return done
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = store.get_folder(keys.model, folder / "model")
        scorer = load_scorer(model)
        sample = ReferenceMaker()
        test = SplitRecords.fetch(store, examples, "test", folder)
        scores = score_split(test, scorer, sample.add)
        scored = with_metadata(store, examples, "test", scores)
        chosen_by = read_scores(store, keys.validation_scores)
        validation = with_metadata(store, examples, "val", chosen_by)
        table = _with_image_facts(store, examples, scored, skin_tones(scorer.metadata, test))
        subject = _Subject(scorer, model, test, table)
        evaluation = _measured(subject, validation, examples.dataset, plan)
        write_scores(store, keys.scores, table)
        write_gallery(store, keys.gallery, make_gallery(scorer, test, table))
        _leave_reference(store, keys, sample.reference())
    reference = {"dataset": examples.dataset, "name": examples.fingerprint}
    store.put_json(keys.examples, reference)
    body = evaluation.model_dump_json(indent=1).encode()
    store.put(keys.evaluation, body, "application/json")
    logger.info("%s", headline(evaluation))
    return evaluation


def headline(evaluation: Evaluation) -> str:
    """Return the figures that matter most in one line."""
    figures = (
        ("AUC", "malignant.roc_auc"),
        ("accuracy malignant/benign", "malignant.accuracy"),
        ("balanced accuracy, seven classes", "balanced_accuracy"),
        ("sensitivity", "malignant.sensitivity"),
        ("specificity", "malignant.specificity"),
    )
    values = [(name, figure(evaluation, path)) for name, path in figures]
    text = ", ".join(f"{name} {'n/a' if x is None else f'{x:.3f}'}" for name, x in values)
    return f"{evaluation.images} test images: {text}"


def run_metrics(evaluation: Evaluation) -> dict[str, float]:
    """Return the figures for comparing training runs that are defined, by name."""
    values = {f"test.{path}": figure(evaluation, path) for path in _METRICS}
    return {name: value for name, value in values.items() if value is not None}


def _read_evaluation(store: Store, keys: TrainingKeys) -> Evaluation | None:
    body = store.get_if_present(keys.evaluation)
    if body is None:
        return None
    try:
        found = Evaluation.model_validate_json(body)
    except ValidationError:
        found = None
    if found is not None and found.version == EVALUATION_VERSION:
        return found
    logger.info("the evaluation is of another version: evaluating again")
    return None


def _leave_reference(store: Store, keys: TrainingKeys, reference: Reference | None) -> None:
    """Keep what later batches are compared with, see `dermascan.drift`."""
    if reference is not None:
        store.put(keys.reference, encode_reference(reference))


def _with_image_facts(
    store: Store, examples: ExampleSet, table: pd.DataFrame, tones: dict[str, float]
) -> pd.DataFrame:
    key = DatasetKeys(examples.dataset).manifest(examples.manifest_fingerprint)
    manifest = decode_manifest(store.get(key))[["isic_id", *_MANIFEST_COLUMNS]]
    known = table.merge(manifest.rename(columns=_MANIFEST_COLUMNS), on="isic_id", validate="1:1")
    return known.assign(ita=known["isic_id"].map(tones).astype(float))


def skin_tones(metadata: ModelMetadata, records: SplitRecords) -> dict[str, float]:
    """Estimate skin tones; none where preparation changes colours or paints over hair.

    The angle would then describe the correction: `colour_constancy` brings every image to the
    same light, `hair_removal` replaces skin.
    """
    if metadata.preprocessing.colour_constancy or metadata.preprocessing.hair_removal:
        return {}
    return {record.isic_id: individual_typology_angle(record.image) for record in records}


def _measured(
    subject: _Subject, validation: pd.DataFrame, dataset: str, plan: AssessmentPlan
) -> Evaluation:
    metadata = subject.scorer.metadata
    logger.info("figures and their intervals")
    evaluation = evaluate(
        subject.table,
        metadata.threshold,
        dataset=dataset,
        uncalibrated=before_calibration(subject.table, metadata),
        temperature=metadata.temperature,
        validation=validation,
        taxonomy=subject.taxonomy,
    )
    logger.info("speed and size")
    efficiency = measure_efficiency(
        subject.scorer, subject.model, metadata.preprocessing.image_size
    )
    logger.info("explanations")
    explanation = _explanation(subject, plan.explained)
    parts = {
        "efficiency": efficiency,
        "explanation": explanation,
        "robustness": _robustness(subject, plan),
    }
    return evaluation.model_copy(update=parts)


def _robustness(subject: _Subject, plan: AssessmentPlan) -> Robustness:
    return measure_robustness(
        ((record.isic_id, record.image) for record in subject.test),
        subject.scorer,
        subject.table,
        subset=plan.corrupted_images(subject.scorer.metadata),
        images_at_3=plan.images_at_3,
        taxonomy=subject.taxonomy,
    )


def _explanation(subject: _Subject, images: int) -> ExplanationCheck:
    chosen = stratified_subset(subject.table, images, seed=0)["isic_id"].astype(str)
    metadata = subject.scorer.metadata
    size = metadata.preprocessing.image_size
    randomised = randomised_activation(metadata.network, size)
    return check_explanations(subject.scorer.explain, randomised, subject.test.pick(list(chosen)))
