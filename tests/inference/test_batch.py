import io
import threading
import time
import weakref
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hostile import encoded, hostile_images, photograph
from PIL import Image

import dermascan.inference.batch
import dermascan.inference.scoring
from dermascan.drift.features import REFERENCE_FILE, ReferenceMaker, encode_reference
from dermascan.errors import InputError
from dermascan.imaging import ImageSize, Preprocessing, decode, decode_for, measure
from dermascan.inference.batch import (
    PREDICTIONS_SCHEMA,
    QUALITY_SCHEMA,
    BatchPlan,
    predict,
    resolve,
    score_objects,
    summarise,
    write_predictions,
)
from dermascan.inference.scoring import BATCH, EXTENDED_SCHEMA, TABLES_HELD
from dermascan.layout import prediction_staging
from dermascan.model.metadata import METADATA_FILE, ModelMetadata
from dermascan.model.savedmodel import Scores
from dermascan.quality import quality_warnings
from dermascan.registry import ModelReference, publish_version
from dermascan.storage import Store

GOOD = encoded(photograph(), "JPEG")
VERSION = 20260101000000
METADATA = ModelMetadata(
    malignant_classes=("akiec", "bcc", "mel"),
    threshold=0.3,
    preprocessing=Preprocessing(ImageSize(48, 64)),
    dataset_fingerprint="d" * 24,
    training_fingerprint="t" * 24,
    network={"architecture": "none"},
    licences={},
)


class StandInScorer:
    """Stands in for a loaded model, since TensorFlow takes ten seconds to import."""

    runtime = "a stand-in 1.0"
    metadata = SimpleNamespace(preprocessing=Preprocessing(ImageSize(48, 64)), threshold=0.3)

    def score(self, images: np.ndarray) -> Scores:
        risks = np.linspace(0.2, 0.9, len(images), dtype=np.float32)
        shares = np.full((len(images), 7), 1 / 7, np.float32)
        embedding = images.reshape(len(images), -1)[:, :40].astype(np.float32)
        return Scores(shares, risks, embedding)

    def explain(self, images: np.ndarray) -> np.ndarray:
        return np.ones((len(images), 3, 4, 7), np.float32)


def score(store: Store, objects) -> pd.DataFrame:
    return pd.concat(score_objects(store, objects, StandInScorer(), VERSION), ignore_index=True)


def store_images(store: Store, count: int) -> None:
    for number in range(count):
        store.put(f"new/{number}.jpg", GOOD)


@pytest.fixture
def scored(store: Store, tmp_path) -> BatchPlan:
    """Return a run whose only shard, of three images, is scored and not summarised yet."""
    publish(store, "tiny", tmp_path)
    store_images(store, 3)
    planned = resolve(store, "new/", ModelReference("tiny", str(VERSION)))
    assert predict(store, planned, 0)
    return planned


@pytest.fixture(autouse=True)
def stand_in_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dermascan.model.savedmodel.load_scorer", lambda _: StandInScorer())


def publish(store: Store, model: str, folder, **more: bytes) -> None:
    files = folder / model
    files.mkdir()
    for name, body in ({"saved_model.pb": b"never loaded"} | more).items():
        (files / name).write_bytes(body)
    publish_version(store, model, VERSION, files)


def infer(store: Store, model: str = "tiny") -> str:
    """Score all under `new/` and return the report."""
    planned = resolve(store, "new/", ModelReference(model, str(VERSION)))
    for shard in range(planned.shards):
        predict(store, planned, shard)
    summarise(store, planned)
    return store.get(f"{planned.output}report.html").decode()


def pictures_in(report: str) -> int:
    return report.count("data:image/jpeg;base64,")


def test_score_objects_when_one_is_gone_rejects_it_and_scores_the_others(store: Store):
    store_images(store, 3)
    objects = list(store.list("new/"))
    store.delete(["new/1.jpg"])
    table = score(store, objects).set_index("image_key")
    assert table["status"].to_dict() == {
        "new/0.jpg": "ok",
        "new/1.jpg": "rejected",
        "new/2.jpg": "ok",
    }
    gone = table.loc["new/1.jpg"]
    assert gone["reason"].startswith("gone: ")
    assert gone[["sha256", "p_malignant", "label"]].isna().all()


def test_score_objects_when_an_image_is_refused_begins_with_the_code(store: Store):
    store.put("new/odd.jpg", hostile_images()["cmyk_jpeg"])
    (row,) = score(store, list(store.list("new/"))).to_dict("records")
    assert row["status"] == "rejected"
    assert row["reason"].startswith("wrong_mode: ")
    assert len(row["sha256"]) == 64


def test_score_objects_when_there_are_many_images_decodes_few_at_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    lock, under_way, most = threading.Lock(), 0, 0

    def counted_decode(*arguments):
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.01)
        with lock:
            under_way -= 1
        return decode_for(*arguments)

    monkeypatch.setattr(dermascan.inference.scoring, "decode_for", counted_decode)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    store_images(store, 20)
    assert len(score(store, list(store.list("new/")))) == 20
    assert 1 <= most <= 2


def test_write_predictions_of_many_tables_lets_go_of_each(tmp_path):
    made: list[weakref.ref[pd.DataFrame]] = []
    most = 0

    def tables():
        nonlocal most
        for number in range(3 * TABLES_HELD):
            row = pd.DataFrame({"image_key": [f"new/{number}"]})
            table = row.reindex(columns=PREDICTIONS_SCHEMA.names)
            made.append(weakref.ref(table))
            yield table
            del table
            most = max(most, sum(each() is not None for each in made))

    write_predictions(tmp_path / "scores", tables())

    assert most <= 1
    written = pq.ParquetFile(tmp_path / "scores")
    assert written.num_row_groups == 3
    keys = written.read()["image_key"].to_pylist()
    assert keys == [f"new/{number}" for number in range(3 * TABLES_HELD)]


def test_predict_gives_the_pictures_of_the_highest_risks_to_their_rows(
    store: Store, tmp_path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(dermascan.inference.scoring, "TABLES_HELD", 1)
    monkeypatch.setattr(dermascan.inference.batch, "PICTURED", 3)
    publish(store, "tiny", tmp_path)
    for number, image in enumerate(noise(BATCH + 8, 5)):
        store.put(f"new/{number:02}.png", encoded(Image.fromarray(image), "PNG"))
    planned = resolve(store, "new/", ModelReference("tiny", str(VERSION)))

    assert predict(store, planned, 0)

    staged = pq.ParquetFile(io.BytesIO(store.get(planned.staged("scores", 0, ".parquet"))))
    assert staged.schema_arrow.equals(EXTENDED_SCHEMA)
    assert staged.num_row_groups == 2
    table = staged.read().to_pandas().set_index("image_key")
    highest = sorted(table.index, key=lambda key: (-table.loc[key, "p_malignant"], key))[:3]
    assert table.index[table["picture"].notna()].tolist() == sorted(highest)
    assert table.index[table["overlay"].notna()].tolist() == sorted(highest)
    for key in highest:
        shown = np.asarray(Image.open(io.BytesIO(table.loc[key, "picture"])).resize((64, 48)), int)
        original = np.asarray(Image.open(io.BytesIO(store.get(key))), int)
        others = np.asarray(Image.open(io.BytesIO(store.get("new/00.png"))), int)
        assert np.abs(shown - original).mean() < np.abs(shown - others).mean()


def test_summarise_when_images_are_gone_or_changed_shows_them_as_they_were_scored(
    store: Store, scored: BatchPlan
):
    store.delete(["new/0.jpg"])
    store.put("new/1.jpg", b"no image any more")
    summary = summarise(store, scored)
    assert (summary.scored, summary.rejected) == (3, 0)
    report = store.get(f"{scored.output}report.html").decode()
    assert pictures_in(report) == 6  # each as it is, and under its heat map
    assert "new/0.jpg" in report


def test_summarise_when_images_were_measured_leaves_their_quality_beside_the_predictions(
    store: Store, scored: BatchPlan
):
    summarise(store, scored)
    read = {
        name: pq.read_table(io.BytesIO(store.get(f"{scored.output}{name}.parquet")))
        for name in ("predictions", "quality")
    }
    assert read["predictions"].schema.names == PREDICTIONS_SCHEMA.names
    assert read["quality"].schema.names == QUALITY_SCHEMA.names
    (row, *_) = read["quality"].to_pylist()
    facts = measure(GOOD, decode(GOOD))
    assert (row["width"], row["height"], row["format"]) == (facts.width, facts.height, "JPEG")
    assert row["sharpness"] == facts.sharpness
    assert row["warnings"].split() == [warning.code for warning in quality_warnings(facts)]


def test_report_and_table_name_the_runtime(store: Store, scored: BatchPlan):
    summarise(store, scored)

    assert "a stand-in 1.0" in store.get(f"{scored.output}report.html").decode()
    table = pq.read_table(io.BytesIO(store.get(f"{scored.output}predictions.parquet")))
    assert table.schema.metadata[b"dermascan.runtime"] == b"a stand-in 1.0"


def test_summarise_when_an_earlier_release_staged_the_scores_reports_without_measures(
    store: Store, tmp_path
):
    publish(store, "tiny", tmp_path)
    store_images(store, 2)
    planned = resolve(store, "new/", ModelReference("tiny", str(VERSION)))
    rows = score_objects(store, list(store.list("new/")), StandInScorer(), VERSION)
    write_predictions(tmp_path / "scores", rows)
    store.put_file(planned.staged("scores", 0, ".parquet"), tmp_path / "scores")
    assert summarise(store, planned).scored == 2
    report = store.get(f"{planned.output}report.html").decode()
    assert pictures_in(report) == 0
    assert "With a quality warning" not in report


def test_summarise_when_every_object_is_rejected_reports_them(store: Store, tmp_path):
    publish(store, "tiny", tmp_path)
    for number in range(3):
        store.put(f"new/{number}.txt", b"no image")
    report = infer(store)
    assert "No image was scored." in report
    assert "not_an_image" in report or "unknown" in report


def noise(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 48, 64, 3), dtype=np.uint8)


def reference_of(images: np.ndarray) -> bytes:
    maker = ReferenceMaker()
    maker.add(images, StandInScorer().score(images).embedding)
    reference = maker.reference()
    assert reference
    return encode_reference(reference)


def test_summarise_when_the_version_has_a_reference_compares_the_batch_with_it(
    store: Store, tmp_path
):
    publish(store, "tiny", tmp_path, **{REFERENCE_FILE: reference_of(noise(120, 0))})
    store.put("new/none.txt", b"no image")
    for number, image in enumerate(noise(12, 1)):
        store.put(f"new/{number}.png", encoded(Image.fromarray(image), "PNG"))
    assert "Like the training data" in infer(store)
    for number, image in enumerate(noise(12, 2)):
        store.put(f"new/{number}.png", encoded(Image.fromarray(image // 3), "PNG"))
    report = infer(store)
    assert "Different from the training data" in report
    assert "darker" in report
    (written,) = {
        store.get_json(found.key)["verdict"]
        for found in store.list("predictions/")
        if found.key.endswith("drift.json")
    } - {"like"}
    assert written == "different"


def test_summarise_when_the_version_has_no_reference_says_that_nothing_is_known(
    store: Store, scored: BatchPlan
):
    summarise(store, scored)
    assert "published without a sample" in store.get(f"{scored.output}report.html").decode()
    assert not store.exists(f"{scored.output}drift.json")


def test_summarise_when_the_version_is_described_quotes_its_card(store: Store, tmp_path):
    publish(store, "tiny", tmp_path, **{METADATA_FILE: METADATA.model_dump_json().encode()})
    store_images(store, 1)
    report = infer(store)
    assert METADATA.intended_use in report
    assert "no evaluation was published with this version" in report


def test_predict_when_the_model_cannot_explain_draws_pictures_without_heat_maps(
    store: Store, tmp_path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: object) -> None:
        raise InputError("the model cannot explain")

    monkeypatch.setattr(StandInScorer, "explain", refuse)
    publish(store, "tiny", tmp_path)
    store_images(store, 2)
    report = infer(store)
    assert pictures_in(report) == 2
    assert "Heat maps on all images" not in report


def test_summarise_when_killed_before_it_tidied_up_does_so_on_the_next_run(
    store: Store, scored: BatchPlan
):
    staged = [(found.key, store.get(found.key)) for found in store.list("staging/")]
    first = summarise(store, scored)
    for key, body in staged:  # as if the first had been killed once its result was written
        store.put(key, body)
    assert summarise(store, scored) == first
    assert list(store.list(prediction_staging(scored.run))) == []


def test_resolve_when_two_models_share_a_version_number_names_two_runs(store: Store, tmp_path):
    store_images(store, 1)
    for model in ("one", "two"):
        publish(store, model, tmp_path)
    one, again, two = (
        resolve(store, "new/", ModelReference(model, str(VERSION)))
        for model in ("one", "one", "two")
    )
    assert one == again
    assert one.run != two.run
    assert one.version == two.version
