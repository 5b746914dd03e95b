"""An exported network, untrained to save time, evaluated on drawn images; a real S3 server."""

import logging
import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from archives import serving

from dermascan.assessment.gallery import Gallery, read_gallery
from dermascan.assessment.measurement import (
    AssessmentPlan,
    evaluate_model,
    run_metrics,
    skin_tones,
)
from dermascan.assessment.score_tables import SplitRecords, score_originals, score_split
from dermascan.drift.features import decode_reference
from dermascan.errors import InputError
from dermascan.evaluation import Estimate, Evaluation, evaluate
from dermascan.evaluation.schema import EVALUATION_VERSION
from dermascan.example_set import ExampleSet, preprocess, read_split, split
from dermascan.imaging import ImageSize, Preprocessing, decode
from dermascan.ingest.downloading import download
from dermascan.ingest.planning import IngestRequest, plan
from dermascan.ingest.publishing import publish_manifest
from dermascan.ingest.uploading import upload
from dermascan.isic.client import IsicClient
from dermascan.isic.synthetic import write_archive
from dermascan.layout import TrainingKeys
from dermascan.learning.network import NetworkSpec, build_network
from dermascan.model.savedmodel import ModelMetadata, Scorer, export, load_scorer
from dermascan.scores import read_scores, write_scores
from dermascan.storage import Store
from dermascan.validation import validate

SUITES = Path(__file__).parents[2] / "include" / "expectations"
SIZE = ImageSize(48, 64)
SMALL = AssessmentPlan(network_passes=1, least_corrupted=10, explained=6)
TRAINING = "made-by-hand"


@dataclass(frozen=True)
class Evaluated:
    store: Store
    examples: ExampleSet
    model: Path
    evaluation: Evaluation

    @property
    def keys(self) -> TrainingKeys:
        return TrainingKeys(TRAINING)

    @property
    def scores(self) -> pd.DataFrame:
        return read_scores(self.store, self.keys.scores)

    @property
    def gallery(self) -> Gallery:
        return read_gallery(self.store, self.keys.gallery)


def make_examples(store: Store, folder: Path) -> ExampleSet:
    write_archive(folder, images=120, seed=3)
    with serving(folder) as url, IsicClient(url) as client:
        planned = plan(store, client, IngestRequest("drawn"))
        for shard in range(planned.shards):
            download(store, client, planned, shard)
            upload(store, planned, shard)
        pointer = publish_manifest(store, client, planned)
    validate(store, pointer, SUITES).require()
    examples = split(store, "drawn", Preprocessing(SIZE), SUITES)
    for shard in range(len(examples.shards)):
        preprocess(store, examples, shard)
    return examples


def export_untrained(folder: Path, size: ImageSize = SIZE) -> Path:
    spec = NetworkSpec("small_cnn", "none")
    metadata = ModelMetadata(
        malignant_classes=("mel", "bcc", "akiec"),
        threshold=0.43,
        calibration={"temperature": 1.5, "malignant_slope": 0.8, "malignant_offset": 0.1},
        preprocessing=Preprocessing(size),
        dataset_fingerprint="d" * 24,
        training_fingerprint=TRAINING,
        network=spec.as_plain(),
        licences={},
    )
    export([build_network(spec, size)], metadata, folder)
    return folder


@pytest.fixture(scope="module")
def evaluated(storage_settings, tmp_path_factory) -> Evaluated:
    folder = tmp_path_factory.mktemp("assessment")
    store = Store(storage_settings, f"assessment-{uuid.uuid4().hex[:12]}")
    store.ensure_bucket()
    examples = make_examples(store, folder / "archive")
    model = export_untrained(folder / "model")
    for path in (path for path in model.rglob("*") if path.is_file()):
        store.put_file(f"{TrainingKeys(TRAINING).model}{path.relative_to(model)}", path)
    records = SplitRecords.fetch(store, examples, "val", folder)
    write_scores(
        store, TrainingKeys(TRAINING).validation_scores, score_split(records, load_scorer(model))
    )
    return Evaluated(store, examples, model, evaluate_model(store, examples, TRAINING, SMALL))


def test_evaluation_is_of_the_test_split_with_the_models_threshold_and_temperature(evaluated):
    test = read_split(evaluated.store, evaluated.examples, "test")
    assert set(evaluated.scores["isic_id"]) == set(test["isic_id"])
    assert evaluated.evaluation.images == len(test)
    assert evaluated.evaluation.threshold == 0.43
    assert evaluated.evaluation.temperature == 1.5
    assert evaluated.evaluation.dataset == "drawn"


def test_evaluation_takes_the_thresholds_of_operating_points_from_validation(evaluated):
    scores = read_scores(evaluated.store, evaluated.keys.validation_scores)
    known = read_split(evaluated.store, evaluated.examples, "val")
    validation = known.merge(scores, on="isic_id", validate="1:1")
    assert len(validation) == len(known) == len(scores)
    given = evaluate(evaluated.scores, 0.43, validation=validation).operating_points
    assert any(point.threshold is not None for point in given)
    assert evaluated.evaluation.operating_points == given
    leaked = evaluate(evaluated.scores, 0.43, validation=evaluated.scores).operating_points
    assert evaluated.evaluation.operating_points != leaked


def test_evaluation_undoes_the_calibration_for_the_figures_before_it(evaluated):
    figures = evaluated.evaluation
    assert figures.uncalibrated.brier != figures.calibrated.brier


def test_evaluation_has_slices_by_metadata_image_quality_and_estimated_skin_tone(evaluated):
    groups = {g.name: sum(s.images for s in g.slices) for g in evaluated.evaluation.slices}
    for name in ("sex", "age", "site", "confirmation", "skin_tone", "sharpness"):
        assert groups[name] == evaluated.evaluation.images, name
    assert evaluated.scores["ita"].notna().any()


def test_evaluation_measures_robustness_explanations_and_cost(evaluated):
    figures = evaluated.evaluation
    assert figures.robustness
    assert 7 <= figures.robustness.images < figures.images
    assert figures.robustness.images_at_3 == figures.images
    assert figures.robustness.malignant_at_3 == figures.malignant.images
    assert len(figures.robustness.corruptions) == 25
    assert figures.explanation
    assert figures.explanation.similarity_repeated is not None
    assert figures.efficiency
    stored = [f.size for f in evaluated.store.list(evaluated.keys.model)]
    assert figures.efficiency.bytes == sum(stored)


def test_evaluation_leaves_a_gallery_with_overlays_and_credit(evaluated):
    gallery, scores = evaluated.gallery, evaluated.scores.set_index("isic_id")
    assert gallery.items
    for item in gallery.items:
        assert item.p_malignant == pytest.approx(scores.loc[item.isic_id, "p_malignant"])
        image, overlay = decode(item.image_jpeg), decode(item.overlay_jpeg)
        assert image.shape == overlay.shape == (48, 64, 3)
        assert item.truth == scores.loc[item.isic_id, "lesion_class"]
    assert "(CC-0)" in gallery.credit


def test_evaluation_leaves_a_sample_of_test_images_to_compare_batches_with(evaluated, tmp_path):
    reference = decode_reference(evaluated.store.get(evaluated.keys.reference))
    records = SplitRecords.fetch(evaluated.store, evaluated.examples, "test", tmp_path)
    images = np.stack([record.image for record in records])
    scores = load_scorer(evaluated.model).score(images)
    expected = reference.features(images, scores.embedding)
    assert len(reference.sample) == records.images // 2
    distances = np.abs(reference.sample[:, None] - expected).max(axis=2)
    np.testing.assert_allclose(distances.min(axis=1), 0, atol=1e-3)


def test_evaluation_when_run_again_does_nothing(evaluated, caplog):
    before = {found.key: found.etag for found in evaluated.store.list("")}
    caplog.set_level(logging.INFO, "dermascan")
    again = evaluate_model(evaluated.store, evaluated.examples, TRAINING, SMALL)
    assert again == evaluated.evaluation
    assert {found.key: found.etag for found in evaluated.store.list("")} == before
    assert "nothing to do" in caplog.text


def test_evaluation_of_an_earlier_form_is_made_anew(evaluated):
    evaluated.store.put(evaluated.keys.evaluation, b'{"dataset": "drawn", "images": 3}')
    again = evaluate_model(evaluated.store, evaluated.examples, TRAINING, SMALL)
    assert again.malignant == evaluated.evaluation.malignant


def test_evaluation_by_another_version_of_the_code_is_made_anew(evaluated):
    stale = evaluated.evaluation.model_copy(
        update={"version": EVALUATION_VERSION - 1, "accuracy": Estimate(value=0.123)}
    )
    evaluated.store.put(evaluated.keys.evaluation, stale.model_dump_json().encode())
    again = evaluate_model(evaluated.store, evaluated.examples, TRAINING, SMALL)
    assert again.version == EVALUATION_VERSION
    assert again.accuracy == evaluated.evaluation.accuracy


@pytest.mark.parametrize("correction", ["colour_constancy", "hair_removal"])
def test_skin_tone_is_not_estimated_from_corrected_pixels(evaluated, tmp_path, correction):
    records = SplitRecords.fetch(evaluated.store, evaluated.examples, "test", tmp_path)
    plain = load_scorer(evaluated.model).metadata
    corrected = plain.model_copy(
        update={"preprocessing": Preprocessing(SIZE, **{correction: True})}
    )
    assert len(skin_tones(plain, records)) == records.images
    assert skin_tones(corrected, records) == {}


def test_originals_prepared_anew_have_the_scores_of_the_records(evaluated, tmp_path):
    scorer = load_scorer(evaluated.model)
    records = SplitRecords.fetch(evaluated.store, evaluated.examples, "test", tmp_path)
    test = read_split(evaluated.store, evaluated.examples, "test")
    originals = score_originals(evaluated.store, test, scorer).set_index("isic_id")
    prepared = score_split(records, scorer).set_index("isic_id").loc[originals.index]
    np.testing.assert_allclose(originals, prepared, atol=1e-6)


def test_originals_are_prepared_for_a_model_of_another_image_size(evaluated, tmp_path):
    scorer: Scorer = load_scorer(export_untrained(tmp_path, ImageSize(32, 40)))
    test = read_split(evaluated.store, evaluated.examples, "test")
    assert len(score_originals(evaluated.store, test, scorer)) == len(test)


def test_pick_returns_images_in_the_order_asked_for(evaluated, tmp_path):
    records = SplitRecords.fetch(evaluated.store, evaluated.examples, "test", tmp_path)
    images = {record.isic_id: record.image for record in records}
    names = list(images)[5:0:-2]
    np.testing.assert_array_equal(records.pick(names), np.stack([images[n] for n in names]))
    with pytest.raises(InputError, match="ISIC_nowhere"):
        records.pick([names[0], "ISIC_nowhere"])


def test_plan_corrupts_fewer_images_the_more_each_costs(evaluated):
    scorer = load_scorer(evaluated.model)
    cheap = scorer.metadata
    costly = cheap.model_copy(update={"networks": 3})
    plan_ = AssessmentPlan(network_passes=30_000, least_corrupted=100)
    thrice = 3 * plan_.corrupted_images(costly)
    assert plan_.corrupted_images(cheap) == pytest.approx(thrice, abs=3)
    assert plan_.corrupted_images(cheap.model_copy(update={"networks": 500})) == 100


def test_run_metrics_leave_out_what_is_not_defined(evaluated):
    evaluation = evaluated.evaluation
    assert "test.malignant.roc_auc" in run_metrics(evaluation)
    without = evaluation.model_copy(update={"robustness": None})
    assert "test.robustness.mean_auc_lost_at_3" not in run_metrics(without)
