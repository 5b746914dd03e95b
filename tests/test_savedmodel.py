import json

import numpy as np
import pytest

from dermascan.errors import InputError, IntegrityError, NotFoundError
from dermascan.imaging import ImageSize, Preprocessing
from dermascan.network import NetworkSpec, build_network
from dermascan.savedmodel import (
    ModelMetadata,
    export,
    load_scorer,
    read_metadata,
    scoring_model,
)

SIZE = ImageSize(24, 32)
SPEC = NetworkSpec.of("small_cnn")
METADATA = ModelMetadata(
    malignant_classes=("akiec", "bcc", "mel"),
    threshold=0.25,
    temperature=0.125,
    preprocessing=Preprocessing(image_size=SIZE).as_plain(),
    dataset_fingerprint="d" * 24,
    training_fingerprint="t" * 24,
    network=SPEC.as_plain(),
    licences={"training data": "CC-0"},
)


def images_of(count):
    return np.random.default_rng(0).integers(0, 256, (count, 24, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def network():
    return build_network(SPEC, SIZE)


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "model"
    export(network, METADATA, folder)
    return folder


@pytest.fixture(scope="module")
def scorer(folder):
    return load_scorer(folder)


def test_loaded_model_scores_as_the_one_in_memory(network, scorer):
    images = images_of(37)

    scores = scorer.score(images)

    expected = scoring_model(network, METADATA).predict_on_batch(images.astype(np.float32))
    for name, values in expected.items():
        assert getattr(scores, name).shape == values.shape
        np.testing.assert_allclose(getattr(scores, name), values, atol=1e-5)


def test_probabilities_are_the_softmax_of_logits_over_temperature(network, scorer):
    images = images_of(5)

    scores = scorer.score(images)

    powers = np.exp(network.predict_on_batch(images) / METADATA.temperature)
    expected = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(scores.probabilities, expected, atol=1e-5)
    np.testing.assert_allclose(scores.p_malignant, expected[:, [0, 1, 4]].sum(axis=1), atol=1e-5)
    assert scores.embedding.shape == (5, 64)


def test_score_when_batches_differ_gives_the_same(scorer):
    images = images_of(7)

    whole, halves = scorer.score(images), scorer.score(images, batch_size=4)

    np.testing.assert_allclose(whole.probabilities, halves.probabilities, atol=1e-6)


def test_score_when_there_are_no_images_gives_no_rows(scorer):
    scores = scorer.score(images_of(0))

    assert scores.probabilities.shape == (0, 7)
    assert scores.p_malignant.shape == (0,)


def test_float_signature_gives_the_same_as_bytes(scorer):
    images = images_of(3)

    outputs = scorer._loaded.signatures["serving_default"](images=images.astype(np.float32))

    np.testing.assert_allclose(
        outputs["p_malignant"].numpy(), scorer.score(images).p_malignant, atol=1e-6
    )


@pytest.mark.parametrize(
    "images",
    [images_of(2).astype(np.float32), images_of(2)[:, :20], images_of(2)[..., :1], images_of(1)[0]],
)
def test_score_when_images_are_of_another_kind_says_what_it_takes(scorer, images):
    with pytest.raises(InputError, match=r"\(N, 24, 32, 3\)"):
        scorer.score(images)


def test_metadata_after_export_describes_the_model(folder):
    metadata = read_metadata(folder)

    assert metadata.preprocessing == Preprocessing(image_size=SIZE)
    assert metadata.threshold == 0.25
    assert metadata.outputs["probabilities"].shape == (None, 7)
    assert metadata.inputs["serve_uint8"].shape == (None, 24, 32, 3)
    assert metadata.inputs["serve_uint8"].dtype == "uint8"
    assert {"tensorflow", "keras", "python"} <= set(metadata.versions)


def test_metadata_on_disk_is_plain_json_with_classes_in_order(folder):
    plain = json.loads((folder / "metadata.json").read_text())

    assert plain["classes"] == ["akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"]
    assert plain["preprocessing"]["image_size"] == "24x32"


def test_load_scorer_when_nothing_was_exported_says_so(tmp_path):
    with pytest.raises(NotFoundError, match=r"metadata\.json"):
        load_scorer(tmp_path)


def test_load_scorer_when_the_graph_is_missing_says_so(tmp_path):
    (tmp_path / "metadata.json").write_text(METADATA.model_dump_json(by_alias=True))

    with pytest.raises(NotFoundError, match="SavedModel"):
        load_scorer(tmp_path)


@pytest.mark.parametrize("content", ["", "{}", '{"threshold": 2}'])
def test_read_metadata_when_damaged_refuses(tmp_path, content):
    (tmp_path / "metadata.json").write_text(content)

    with pytest.raises(IntegrityError, match="description"):
        read_metadata(tmp_path)
