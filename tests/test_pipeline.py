"""The library calls of all DAGs in their order, on drawn images and a real S3 server."""

import io
import logging
import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from archives import serving
from hostile import EXPECTED, hostile_images
from planted import MARKERS, as_png, plant, planted
from traces import traces

from dermascan.errors import GateFailedError, InputError, NotFoundError, ValidationFailedError
from dermascan.evaluation import Evaluation
from dermascan.example_set import ExampleSet, preprocess, read_split, split
from dermascan.experiment import evaluate_model, judge, promote_model, train_examples
from dermascan.imaging import ImageSize, Preprocessing
from dermascan.inference.batch import (
    PREDICTIONS_SCHEMA,
    BatchPlan,
    isic_id_of,
    predict,
    resolve,
    summarise,
)
from dermascan.ingest.downloading import download
from dermascan.ingest.planning import IngestRequest, plan
from dermascan.ingest.publishing import publish_manifest
from dermascan.ingest.uploading import upload
from dermascan.isic.client import IsicClient
from dermascan.isic.synthetic import write_archive
from dermascan.layout import TrainingKeys
from dermascan.learning.network import NetworkSpec
from dermascan.learning.training import TrainingConfig
from dermascan.model.metadata import METADATA_FILE, ModelMetadata
from dermascan.registry import ModelReference, champion, list_versions
from dermascan.splits import hash_numbers, leaks
from dermascan.storage import Store
from dermascan.taxonomy import LESION_CLASSES
from dermascan.validation import validate

SUITES = Path(__file__).parents[1] / "include" / "expectations"
PREPROCESSING = Preprocessing(ImageSize(48, 64))
CONFIG = TrainingConfig(
    members=1, network=NetworkSpec("small_cnn", "none"), epochs=1, warm_start_epochs=0
)
CHAMPION = ModelReference("tiny", "champion")
LENIENT = """
rules:
  - name: enough images
    metric: images
    comparison: at_least
    threshold: 1
    why: the test wants any model to pass
"""


@dataclass(frozen=True)
class Pipeline:
    store: Store
    examples: ExampleSet
    training: str
    rules: Path


def ingest(store: Store, url: str, dataset: str) -> None:
    with IsicClient(url) as client:
        planned = plan(store, client, IngestRequest(dataset))
        for shard in range(planned.shards):
            download(store, client, planned, shard)
            upload(store, planned, shard)
        pointer = publish_manifest(store, client, planned)
    validate(store, pointer, SUITES).require()


@pytest.fixture(scope="module")
def pipeline(storage_settings, tmp_path_factory) -> Pipeline:
    folder = tmp_path_factory.mktemp("pipeline")
    store = Store(storage_settings, f"pipeline-{uuid.uuid4().hex[:12]}")
    store.ensure_bucket()
    write_archive(folder / "archive", images=120, seed=3)
    plant(folder / "archive")
    with serving(folder / "archive") as url:
        ingest(store, url, "drawn")
    examples = split(store, "drawn", PREPROCESSING, SUITES)
    for shard in range(len(examples.shards)):
        preprocess(store, examples, shard)
    training = train_examples(store, examples, CONFIG, None, "test").fingerprint
    evaluate_model(store, examples, training)
    rules = folder / "gate.yaml"
    rules.write_text(LENIENT)
    judge(store, training, "tiny", rules)
    promote_model(store, training, "tiny", "test")
    return Pipeline(store, examples, training, rules)


def infer(store: Store, prefix: str) -> BatchPlan:
    planned = resolve(store, prefix, CHAMPION)
    for shard in range(planned.shards):
        predict(store, planned, shard)
    summarise(store, planned)
    return planned


def read_predictions(store: Store, planned: BatchPlan) -> pd.DataFrame:
    return pd.read_parquet(io.BytesIO(store.get(f"{planned.output}predictions.parquet")))


def snapshot(store: Store) -> dict[str, str]:
    return {found.key: found.etag for found in store.list("")}


def test_split_divides_no_lesion_patient_or_near_duplicate(pipeline):
    table = pd.concat(
        [read_split(pipeline.store, pipeline.examples, s) for s in ("train", "val", "test")]
    )
    lesions = table.dropna(subset="lesion_id").groupby("lesion_id")["split"].nunique()
    assert lesions.max() == 1
    assert len(table) == sum(sum(c.values()) for c in pipeline.examples.counts.values())
    manifest = pd.read_parquet(
        io.BytesIO(
            pipeline.store.get(
                next(
                    f.key
                    for f in pipeline.store.list("raw/drawn/manifests/")
                    if f.key.endswith(".parquet")
                )
            )
        )
    )
    for name in ("lesion_id", "patient_id", "sha256"):
        manifest[name] = pd.factorize(manifest[name])[0]  # -1 for null
    manifest["perceptual_hash"] = hash_numbers(manifest["perceptual_hash"])
    assignment = dict(zip(table["isic_id"], table["split"], strict=True))
    assert leaks(manifest[manifest["isic_id"].isin(assignment)], assignment) == []


def test_trained_model_says_what_it_was_trained_on(pipeline):
    key = TrainingKeys(pipeline.training).model + METADATA_FILE

    metadata = ModelMetadata.model_validate_json(pipeline.store.get(key))

    assert metadata.dataset == "drawn"
    assert (
        metadata.class_counts
        == dict.fromkeys(LESION_CLASSES, 0) | pipeline.examples.counts["train"]
    )
    assert metadata.dataset_fingerprint == pipeline.examples.manifest_fingerprint


def test_split_when_the_dataset_was_not_validated_is_refused(pipeline, tmp_path):
    (tmp_path / "other.yaml").write_text((SUITES / "metadata.yaml").read_text())
    with pytest.raises(ValidationFailedError, match="ingest_isic"):
        split(pipeline.store, "drawn", PREPROCESSING, tmp_path)


def test_everything_when_run_again_finds_its_work_done(pipeline, caplog):
    store, training = pipeline.store, pipeline.training
    before = snapshot(store)
    caplog.set_level(logging.INFO, "dermascan")
    examples = split(store, "drawn", PREPROCESSING, SUITES)
    assert all(preprocess(store, examples, shard).skipped for shard in range(len(examples.shards)))
    assert train_examples(store, examples, CONFIG, None, "test").fingerprint == training
    evaluate_model(store, examples, training)
    judge(store, training, "tiny", pipeline.rules)
    promote_model(store, training, "tiny", "test")
    assert snapshot(store) == before
    assert caplog.text.count("nothing to do") >= 3


def test_promotion_publishes_one_version_that_serves_as_it_is(pipeline):
    (version,) = list_versions(pipeline.store, "tiny")
    current = champion(pipeline.store, "tiny")
    assert current
    assert current.version == version
    names = {
        f.key.removeprefix(f"models/tiny/{version}/")
        for f in pipeline.store.list(f"models/tiny/{version}/")
    }
    assert {
        "saved_model.pb",
        "metadata.json",
        "evaluation.json",
        "report.html",
        "gate.json",
        "reference.npz",
        "MANIFEST.json",
    } <= names


def test_promotion_of_one_training_under_two_names_makes_a_version_of_each(pipeline):
    judge(pipeline.store, pipeline.training, "twin", pipeline.rules)
    promoted = promote_model(pipeline.store, pipeline.training, "twin", "test")
    assert promoted.model == "twin"
    assert list_versions(pipeline.store, "twin") == [promoted.version]


def test_judge_when_a_rule_fails_publishes_nothing_and_shows_the_table(pipeline, tmp_path):
    strict = tmp_path / "gate.yaml"
    strict.write_text(LENIENT.replace("threshold: 1", "threshold: 100000"))
    keys = TrainingKeys(pipeline.training).candidacy("tiny")
    promotion = pipeline.store.get(keys.promotion)
    pipeline.store.delete([keys.promotion])  # as if it had not been promoted yet
    before = list_versions(pipeline.store, "tiny")
    try:
        with pytest.raises(GateFailedError, match="enough images"):
            judge(pipeline.store, pipeline.training, "tiny", strict)
        with pytest.raises(GateFailedError):
            promote_model(pipeline.store, pipeline.training, "tiny", "test")
    finally:
        judge(pipeline.store, pipeline.training, "tiny", pipeline.rules)
        pipeline.store.put(keys.promotion, promotion)
    assert list_versions(pipeline.store, "tiny") == before


def test_batch_inference_on_test_images_equals_the_evaluation(pipeline):
    store = pipeline.store
    test = read_split(store, pipeline.examples, "test")
    for key in test["key"]:
        store.put(f"incoming/test/{Path(key).name}", store.get(key))
    predictions = read_predictions(store, infer(store, "incoming/test/")).set_index("isic_id")
    scores = pd.read_parquet(io.BytesIO(store.get(TrainingKeys(pipeline.training).scores)))
    ordered = predictions.loc[scores["isic_id"]]
    np.testing.assert_allclose(ordered["p_malignant"], scores["p_malignant"], atol=1e-4)
    evaluation = Evaluation.model_validate_json(
        store.get(TrainingKeys(pipeline.training).evaluation)
    )
    assert evaluation.images == len(predictions)


def test_batch_inference_when_objects_are_hostile_accounts_for_each_once(pipeline, store):
    odd = [
        "a b.jpg",
        "100%.jpg",
        "日本/ünï.jpg",
        "q?x=1#f.jpg",
        "new\nline.jpg",
        "<b>&.jpg",
        "..jpg",
    ]
    good = pipeline.store.get(read_split(pipeline.store, pipeline.examples, "test")["key"][0])
    for name in odd:
        store._s3.put_object(Bucket=store.bucket, Key=f"new/{name}", Body=good)
    for name, data in hostile_images().items():
        store.put(f"new/{name}", data)
    store._s3.put_object(Bucket=store.bucket, Key="new/folder/", Body=b"")
    planned = infer(pipeline.store, f"s3://{store.bucket}/new/")
    table = read_predictions(pipeline.store, planned).set_index("image_key")
    assert sorted(table.index) == sorted(found.key for found in store.list("new/"))
    for name in odd:
        assert table.loc[f"new/{name}", "status"] == "ok", name
    for name, reason in EXPECTED.items():
        assert table.loc[f"new/{name}", "status"] == "rejected", name
        assert reason in table.loc[f"new/{name}", "reason"], name
    assert table.loc["new/folder/", "status"] == "rejected"
    report = pipeline.store.get(f"{planned.output}report.html").decode()
    assert "<b>&.jpg" not in report


def test_nothing_that_is_made_of_images_holds_what_cameras_and_clinics_wrote_into_them(pipeline):
    store = pipeline.store
    original = store.get(read_split(store, pipeline.examples, "test")["key"][0])
    store.put("incoming/planted/ISIC_0000001.jpg", original)
    store.put("incoming/planted/ISIC_0000002.png", as_png(original))
    store.put("incoming/planted/refused.jpg", planted(hostile_images()["cmyk_jpeg"]))
    planned = infer(store, "incoming/planted/")
    report = store.get(f"{planned.output}report.html")
    assert report.count(b"data:image/jpeg;base64,") == 4  # two images, each with its heat map
    kept = {found.key: traces(store.get(found.key), MARKERS) for found in store.list("")}
    originals = {key for key in kept if key.startswith(("raw/drawn/images/", "incoming/"))}
    assert set.union(*(kept[key] for key in originals)) == set(MARKERS)
    made = {key: names for key, names in kept.items() if names and key not in originals}
    assert made == {}
    assert any(key.endswith("evaluation.json") for key in kept)


def test_batch_inference_writes_the_contract_columns_and_success_last(pipeline):
    good = pipeline.store.get(read_split(pipeline.store, pipeline.examples, "test")["key"][0])
    pipeline.store.put("incoming/one/ISIC_0000001.jpg", good)
    planned = infer(pipeline.store, "incoming/one/")
    body = pipeline.store.get(f"{planned.output}predictions.parquet")
    schema = pq.read_schema(io.BytesIO(body))
    assert schema.names == PREDICTIONS_SCHEMA.names
    csv = pd.read_csv(io.BytesIO(pipeline.store.get(f"{planned.output}predictions.csv")))
    assert list(csv.columns) == PREDICTIONS_SCHEMA.names
    names = {
        found.key.removeprefix(planned.output) for found in pipeline.store.list(planned.output)
    }
    assert names == {
        "predictions.parquet",
        "predictions.csv",
        "quality.parquet",
        "report.html",
        "_SUCCESS",
    }


def test_batch_inference_when_run_again_does_nothing(pipeline, caplog):
    good = pipeline.store.get(read_split(pipeline.store, pipeline.examples, "test")["key"][0])
    pipeline.store.put("incoming/again/x.jpg", good)
    first = infer(pipeline.store, "incoming/again/")
    before = snapshot(pipeline.store)
    caplog.set_level(logging.INFO, "dermascan")
    assert infer(pipeline.store, "incoming/again/") == first
    assert snapshot(pipeline.store) == before
    assert caplog.text.count("nothing to do") == 3


@pytest.mark.parametrize("prefix", ["never/was/", "s3://no-such-bucket-here/x/"])
def test_resolve_when_nothing_is_there_says_so(pipeline, prefix):
    with pytest.raises((InputError, NotFoundError), match=r"nothing is under|does not exist"):
        resolve(pipeline.store, prefix, CHAMPION)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("a/ISIC_0024306.jpg", "ISIC_0024306"),
        ("ISIC_0024306.0123456789abcdef.jpg", "ISIC_0024306"),
        ("ISIC_00243061.jpg", None),
        ("ISIC_0024306/x.jpg", None),
    ],
)
def test_isic_id_of_reads_the_name_of_the_object(key, expected):
    assert isic_id_of(key) == expected
