import logging
import threading
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hostile import encoded, hostile_images, photograph

import dermascan.inference
from dermascan.imaging import ImageSize, Preprocessing, decode
from dermascan.inference import (
    BatchPlan,
    resolve,
    score_objects,
    summarise,
    write_predictions,
)
from dermascan.layout import prediction_staging
from dermascan.model.savedmodel import Scores
from dermascan.registry import ModelReference, publish_version
from dermascan.storage import Store

GOOD = encoded(photograph(), "JPEG")
VERSION = 20260101000000


class StandInScorer:
    """Stands in for a loaded model, since TensorFlow takes ten seconds to import."""

    metadata = SimpleNamespace(preprocessing=Preprocessing(ImageSize(48, 64)), threshold=0.3)

    def score(self, images: np.ndarray) -> Scores:
        risks = np.linspace(0.2, 0.9, len(images), dtype=np.float32)
        shares = np.full((len(images), 7), 1 / 7, np.float32)
        return Scores(shares, risks, np.zeros((len(images), 2), np.float32))


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
    rows = score_objects(store, list(store.list("new/")), StandInScorer(), VERSION)
    write_predictions(tmp_path / "scores", rows)
    store.put_file(planned.staged("scores", 0, ".parquet"), tmp_path / "scores")
    return planned


def publish(store: Store, model: str, folder) -> None:
    files = folder / model
    files.mkdir()
    (files / "saved_model.pb").write_bytes(b"never loaded")
    publish_version(store, model, VERSION, files)


def thumbnails_in(report: bytes) -> int:
    return report.count(b"data:image/jpeg;base64,")


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
        return decode(*arguments)

    monkeypatch.setattr(dermascan.inference, "decode", counted_decode)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    store_images(store, 20)
    assert len(score(store, list(store.list("new/")))) == 20
    assert 1 <= most <= 2


def test_summarise_when_images_are_gone_or_changed_only_lacks_their_thumbnails(
    store: Store, scored: BatchPlan, caplog: pytest.LogCaptureFixture
):
    store.delete(["new/0.jpg"])
    store.put("new/1.jpg", b"no image any more")
    with caplog.at_level(logging.WARNING):
        summary = summarise(store, scored)
    assert (summary.scored, summary.rejected) == (3, 0)
    report = store.get(f"{scored.output}report.html")
    assert thumbnails_in(report) == 1
    assert b"new/0.jpg" in report
    assert {record.args[0] for record in caplog.records} == {
        store.address("new/0.jpg"),
        store.address("new/1.jpg"),
    }


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
