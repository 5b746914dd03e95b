import numpy as np
import pytest

from dermascan.errors import InputError, IntegrityError, NotFoundError
from dermascan.imaging import ImageSize, Preprocessing, prepare
from dermascan.learning.network import NetworkSpec, build_network
from dermascan.model.calibration import Calibration, apply
from dermascan.model.ensemble import TestTimeViews
from dermascan.model.golden import require_golden
from dermascan.model.savedmodel import ModelMetadata, export, load_scorer, read_metadata

SIZE = ImageSize(24, 32)
SPEC = NetworkSpec.of("small_cnn")
MALIGNANT = (0, 1, 4)
METADATA = ModelMetadata(
    malignant_classes=("akiec", "bcc", "mel"),
    threshold=0.25,
    calibration=Calibration(temperature=0.125),
    preprocessing=Preprocessing(image_size=SIZE),
    dataset_fingerprint="d" * 24,
    training_fingerprint="t" * 24,
    network=SPEC.as_plain(),
    licences={"training data": "CC-0"},
)
OF_TWO = METADATA.model_copy(
    update={
        "views": TestTimeViews(mirrors=True),
        "calibration": Calibration(
            temperature=0.2,
            class_offsets=(0.5, -0.5, 1.0, 0.0, 0.25, -1.0, 2.0),
            malignant_slope=1.5,
            benign_slope=0.7,
            malignant_offset=-0.5,
        ),
    }
)


def images_of(count, height=24, width=32):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def networks():
    return [build_network(SPEC, SIZE) for _ in range(2)]


@pytest.fixture(scope="module")
def folder(networks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "model"
    export(networks[:1], METADATA, folder)
    return folder


@pytest.fixture(scope="module")
def scorer(folder):
    return load_scorer(folder)


@pytest.fixture(scope="module")
def ensemble(networks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ensemble") / "model"
    export(networks, OF_TWO, folder)
    return load_scorer(folder)


def signature_of(scorer, name):
    return scorer._loaded.signatures[name]


def test_loaded_model_scores_as_the_network_in_memory(networks, scorer):
    images = images_of(37)

    scores = scorer.score(images)

    logits = networks[0].predict_on_batch(images)
    expected = apply(logits, METADATA.calibration, MALIGNANT)
    np.testing.assert_allclose(scores.probabilities, expected, atol=1e-5)
    np.testing.assert_allclose(scores.p_malignant, expected[:, MALIGNANT].sum(axis=1), atol=1e-5)
    assert scores.embedding.shape == (37, 64)
    assert scores.probabilities.dtype == scores.embedding.dtype == np.float32


def test_loaded_ensemble_scores_as_its_networks_on_all_mirrorings(networks, ensemble):
    images = images_of(37)
    mirrorings = [images, images[:, ::-1], images[:, :, ::-1], images[:, ::-1, ::-1]]

    scores = ensemble.score(images)

    each = [network.predict_on_batch(view) for network in networks for view in mirrorings]
    expected = apply(np.mean(each, axis=0), OF_TWO.calibration, MALIGNANT)
    np.testing.assert_allclose(scores.probabilities, expected, atol=1e-5)
    np.testing.assert_allclose(scores.p_malignant, expected[:, MALIGNANT].sum(axis=1), atol=1e-5)
    assert scores.embedding.shape == (37, 128)


def test_export_stores_every_weight_once(networks, folder):
    from tensorflow import train  # noqa: PLC0415  # takes seconds to import

    stored = train.load_checkpoint(str(folder / "variables" / "variables"))
    shapes = stored.get_variable_to_shape_map()
    numbers = [int(np.prod(shape)) for name, shape in shapes.items() if "VARIABLE" in name]
    assert sum(numbers) == networks[0].count_params()


def test_export_leaves_golden_images_that_a_loaded_copy_scores_as_the_networks_did(
    folder, scorer, ensemble
):
    require_golden(folder, scorer.score, "the copy")

    with pytest.raises(IntegrityError, match="another model scores its golden images differently"):
        require_golden(folder, ensemble.score, "another model")


def test_score_when_batches_differ_gives_the_same(ensemble):
    images = images_of(7)

    whole, halves = ensemble.score(images), ensemble.score(images, batch_size=4)

    np.testing.assert_allclose(whole.probabilities, halves.probabilities, atol=1e-6)


def test_score_when_there_are_no_images_gives_no_rows(scorer):
    scores = scorer.score(images_of(0))

    assert scores.probabilities.shape == (0, 7)
    assert scores.p_malignant.shape == (0,)
    assert scorer.explain(images_of(0)).shape == (0, 3, 4, 7)


@pytest.mark.parametrize("height", [24, 48])
def test_float_signature_gives_the_same_as_bytes(scorer, height):
    images = images_of(3, height, 64 * height // 48)

    floats = signature_of(scorer, "serving_default")(images=images.astype(np.float32))

    as_bytes = signature_of(scorer, "serve_uint8")(images=images)
    np.testing.assert_allclose(floats["p_malignant"], as_bytes["p_malignant"], atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(150, 200), (200, 150), (97, 240), (20, 20)])
def test_signature_when_images_have_another_size_scores_nearly_as_if_prepared(
    scorer, height, width
):
    images = images_of(4, height, width)

    outputs = signature_of(scorer, "serve_uint8")(images=images)

    prepared = np.stack([prepare(image, METADATA.preprocessing) for image in images])
    np.testing.assert_allclose(
        outputs["p_malignant"], scorer.score(prepared).p_malignant, atol=0.005
    )


def test_signature_when_images_have_the_size_scores_them_as_they_are(scorer):
    images = images_of(4)

    outputs = signature_of(scorer, "serve_uint8")(images=images)

    np.testing.assert_allclose(
        outputs["probabilities"], scorer.score(images).probabilities, atol=1e-6
    )


def test_explain_averages_to_the_logits_of_the_networks_without_views(networks, ensemble):
    images = images_of(5)

    activation = ensemble.explain(images, batch_size=2)

    logits = np.mean([network.predict_on_batch(images) for network in networks], axis=0)
    assert activation.shape == (5, 3, 4, 7)
    np.testing.assert_allclose(activation.mean(axis=(1, 2)), logits, atol=1e-5)


@pytest.mark.parametrize("ask", ["score", "explain"])
@pytest.mark.parametrize(
    "images",
    [images_of(2).astype(np.float32), images_of(2)[:, :20], images_of(2)[..., :1], images_of(1)[0]],
)
def test_scorer_when_images_are_of_another_kind_says_what_it_takes(scorer, ask, images):
    with pytest.raises(InputError, match=r"\(N, 24, 32, 3\)"):
        getattr(scorer, ask)(images)


def test_metadata_after_export_describes_the_model(folder):
    metadata = read_metadata(folder)

    assert metadata.threshold == 0.25
    images = metadata.signatures["serve_uint8"].inputs["images"]
    assert (images.shape, images.dtype) == ((None, None, None, 3), "uint8")
    assert images.value_range == (0, 255)
    assert {"tensorflow", "keras", "python"} <= set(metadata.versions)


def test_metadata_after_export_has_the_shapes_and_dtypes_of_the_signatures(ensemble):
    described = ensemble.metadata.signatures

    assert set(described) == set(ensemble._loaded.signatures)
    for name, description in described.items():
        signature = signature_of(ensemble, name)
        images = signature.structured_input_signature[1]["images"]
        for arrays, specs in (
            (description.inputs, {"images": images}),
            (description.outputs, signature.structured_outputs),
        ):
            found = {key: (tuple(spec.shape), spec.dtype.name) for key, spec in specs.items()}
            assert {key: (array.shape, array.dtype) for key, array in arrays.items()} == found
    assert ensemble.metadata.networks == 2


def test_export_when_the_graph_cannot_prepare_takes_prepared_images_only(networks, tmp_path):
    preprocessing = Preprocessing(image_size=SIZE, colour_constancy=True)
    metadata = METADATA.model_copy(update={"preprocessing": preprocessing})

    described = export(networks[:1], metadata, tmp_path / "model")

    assert described.signatures["serve_uint8"].inputs["images"].shape == (None, 24, 32, 3)
    assert load_scorer(tmp_path / "model").score(images_of(2)).p_malignant.shape == (2,)


def test_export_when_sizes_differ_refuses(networks, tmp_path):
    preprocessing = Preprocessing(image_size=ImageSize(32, 32))
    metadata = METADATA.model_copy(update={"preprocessing": preprocessing})

    with pytest.raises(InputError, match="32x32"):
        export(networks, metadata, tmp_path / "model")


def test_model_of_format_1_scores_but_does_not_explain(networks, tmp_path):
    import tensorflow as tf  # noqa: PLC0415  # TensorFlow takes 10 s to import

    network, folder = networks[0], tmp_path / "model"

    @tf.function(input_signature=[tf.TensorSpec((None, 24, 32, 3), tf.uint8, name="images")])
    def score(images):
        probabilities = tf.nn.softmax(network(tf.cast(images, tf.float32)))
        p_malignant = tf.reduce_sum(tf.gather(probabilities, MALIGNANT, axis=1), axis=1)
        outputs = {"probabilities": probabilities, "p_malignant": p_malignant}
        return outputs | {"embedding": probabilities}

    module = tf.Module()
    module.variables_used = [v.value for v in network.variables]
    tf.saved_model.save(module, str(folder), signatures={"serve_uint8": score})
    (folder / "metadata.json").write_text(METADATA.model_dump_json())
    scorer = load_scorer(folder)

    assert scorer.score(images_of(3)).probabilities.shape == (3, 7)
    with pytest.raises(InputError, match="cannot explain"):
        scorer.explain(images_of(3))


def test_load_scorer_when_nothing_was_exported_says_so(tmp_path):
    with pytest.raises(NotFoundError, match=r"metadata\.json"):
        load_scorer(tmp_path)


def test_load_scorer_when_the_graph_is_missing_says_so(tmp_path):
    (tmp_path / "metadata.json").write_text(METADATA.model_dump_json())

    with pytest.raises(NotFoundError, match="SavedModel"):
        load_scorer(tmp_path)


def test_load_scorer_when_the_graph_is_damaged_says_so(tmp_path):
    (tmp_path / "metadata.json").write_text(METADATA.model_dump_json())
    (tmp_path / "saved_model.pb").write_bytes(b"no graph")

    with pytest.raises(IntegrityError, match="cannot be read"):
        load_scorer(tmp_path)
