"""The API with models that TensorFlow runs, beside batch inference."""

import asyncio
import base64
import gc
import io
import uuid
import weakref

import httpx
import numpy as np
import pandas as pd
import pytest
from hostile import encoded, photograph
from live import live
from PIL import Image
from serving.service import CLIENTS, GENEROUS, ask_during, images, predict

from dermascan.evaluation.explanation import heatmap
from dermascan.imaging import ImageSize, Preprocessing, decode, prepare
from dermascan.inference.batch import score_objects
from dermascan.learning.network import NetworkSpec, build_network
from dermascan.model.calibration import Calibration
from dermascan.model.metadata import METADATA_FILE, ModelMetadata
from dermascan.model.savedmodel import export, load_scorer
from dermascan.model.twin_making import write_twin
from dermascan.registry import Decision, promote, publish_version
from dermascan.serving.app import create_app
from dermascan.serving.champion import ChampionKeeper
from dermascan.serving.metrics import Metrics
from dermascan.serving.server import Loading
from dermascan.storage import Store
from dermascan.taxonomy import LESION_CLASSES

MODEL = "small"
VERSIONS = (20260101000000, 20260101000001)
SIZE = ImageSize(24, 32)
SPEC = NetworkSpec.of("small_cnn")
METADATA = ModelMetadata(
    malignant_classes=("akiec", "bcc", "mel"),
    threshold=0.5,
    calibration=Calibration(temperature=0.125),
    preprocessing=Preprocessing(image_size=SIZE),
    dataset_fingerprint="d" * 24,
    training_fingerprint="t" * 24,
    network=SPEC.as_plain(),
    licences={},
)
PHOTOS = [encoded(photograph(140 + 9 * n, 90, seed=n), "JPEG") for n in range(24)]
FILES = [*PHOTOS, encoded(photograph(90, 140), "PNG"), PHOTOS[0][:1000], b"no image"]
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def prepared():
    return np.stack([prepare(decode(photo), METADATA.preprocessing) for photo in PHOTOS])


@pytest.fixture(scope="module")
def store(storage_settings):
    store = Store(storage_settings, f"serving-{uuid.uuid4().hex[:12]}")
    store.ensure_bucket()
    return store


@pytest.fixture(scope="module")
def scorers(store, prepared, tmp_path_factory):
    """Publish two models with different weights, and thresholds amidst their scores."""
    scorers = {}
    for version in VERSIONS:
        folder = tmp_path_factory.mktemp("exported") / "model"
        metadata = export([build_network(SPEC, SIZE)], METADATA, folder)
        threshold = float(np.median(load_scorer(folder).score(prepared).p_malignant))
        metadata = metadata.model_copy(update={"threshold": threshold})
        (folder / METADATA_FILE).write_text(metadata.model_dump_json())
        scorers[version] = load_scorer(folder)
        publish_version(store, MODEL, version, folder)
    make_champion(store, VERSIONS[0])
    return scorers


@pytest.fixture(scope="module")
def client(store, scorers):
    metrics = Metrics()
    keeper = ChampionKeeper(store, MODEL, GENEROUS, metrics)
    keeper.poll()
    app = create_app(keeper, metrics, GENEROUS)
    with live(app) as url, httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        yield client


def make_champion(store: Store, version: int) -> None:
    promote(store, MODEL, version, Decision("a test", "because"))


def batch_inference(store: Store, scorer, files: list[bytes]) -> list[dict]:
    keys = [f"new/{number:02d}.jpg" for number in range(len(files))]
    for key, data in zip(keys, files, strict=True):
        store.put(key, data)
    tables = score_objects(store, list(store.list("new/")), scorer, VERSIONS[0])
    return pd.concat(tables).sort_values("image_key").to_dict("records")


def test_predict_says_of_the_same_bytes_what_batch_inference_says(client, store, scorers):
    expected = batch_inference(store, scorers[VERSIONS[0]], FILES)

    body = predict(client, *FILES).json()

    assert body["model"]["version"] == VERSIONS[0]
    assert {row["label"] for row in expected} >= {"malignant", "benign"}
    for result, row in zip(body["results"], expected, strict=True):
        assert (result["sha256"], result["status"]) == (row["sha256"], row["status"])
        if row["status"] == "rejected":
            assert result["reason"] == row["reason"]
            continue
        assert result["label"] == row["label"]
        assert result["p_malignant"] == pytest.approx(row["p_malignant"], abs=TOLERANCE)
        for name in LESION_CLASSES:
            assert result["probabilities"][name] == pytest.approx(row[f"p_{name}"], abs=TOLERANCE)


def test_predict_explains_the_likeliest_class_by_the_models_own_map(client, scorers, prepared):
    answer = predict(client, PHOTOS[0], params={"explain": "true"})

    scorer, image = scorers[VERSIONS[0]], prepared[:1]
    likeliest = int(scorer.score(image).probabilities[0].argmax())
    expected = heatmap(scorer.explain(image)[0], likeliest, SIZE)
    explanation = answer.json()["results"][0]["explanation"]
    with Image.open(io.BytesIO(base64.b64decode(explanation["png"]))) as picture:
        alpha = np.asarray(picture)[..., 3].astype(float)
    assert explanation["image_class"] == LESION_CLASSES[likeliest]
    assert alpha.shape == (SIZE.height, SIZE.width)
    np.testing.assert_allclose(alpha / max(alpha.max(), 1), expected, atol=0.01)


def test_fifty_clients_during_a_change_of_champion_see_no_failure_and_no_mixture(
    client, store, scorers, prepared
):
    expected = {number: scorer.score(prepared).p_malignant for number, scorer in scorers.items()}
    url = str(client.base_url)

    async def ask(client: httpx.AsyncClient, number: int) -> tuple[list[int], httpx.Response]:
        chosen = [(number + step * (number // CLIENTS)) % len(PHOTOS) for step in range(3)]
        form = images(*(PHOTOS[index] for index in chosen))
        return chosen, await client.post("/v1/predict", files=form)

    answers = asyncio.run(
        ask_during(url, ask, lambda: make_champion(store, VERSIONS[1]), VERSIONS[1])
    )

    assert {answer.status_code for _, answer in answers} == {200}
    assert len(answers) >= 200
    seen = set()
    for chosen, answer in answers:
        body = answer.json()
        seen.add(body["model"]["version"])
        risks = [result["p_malignant"] for result in body["results"]]
        wanted = expected[body["model"]["version"]][chosen]
        np.testing.assert_allclose(risks, wanted, atol=TOLERANCE)
    assert seen == set(VERSIONS)


def test_keeper_when_the_version_has_a_twin_serves_that_and_explains(store, prepared, tmp_path):
    folder, model = tmp_path / "model", "with-a-twin"
    export([build_network(SPEC, SIZE)], METADATA, folder)
    write_twin(folder, prepared)
    publish_version(store, model, VERSIONS[0], folder)
    promote(store, model, VERSIONS[0], Decision("a test", "because"))
    keeper = ChampionKeeper(store, model, GENEROUS, Metrics(), load=Loading())

    keeper.poll()

    scorer, original = keeper.served.scorer, load_scorer(folder)
    assert scorer.runtime.startswith("ONNX Runtime")
    for said in ("p_malignant", "probabilities"):
        ours, theirs = (getattr(each.score(prepared), said) for each in (scorer, original))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    np.testing.assert_allclose(scorer.explain(prepared), original.explain(prepared), atol=1e-4)


@pytest.mark.usefixtures("scorers")
def test_keeper_when_it_replaces_a_real_model_lets_its_memory_go(store):
    make_champion(store, VERSIONS[0])
    keeper = ChampionKeeper(store, MODEL, GENEROUS, Metrics(), load=Loading())
    keeper.poll()
    old = weakref.ref(keeper.served.scorer._loaded)

    make_champion(store, VERSIONS[1])
    keeper.poll()

    gc.collect()
    gc.unfreeze()
    assert old() is None
