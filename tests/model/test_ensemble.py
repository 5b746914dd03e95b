import numpy as np
import pytest
from pydantic import ValidationError

from dermascan.errors import InputError
from dermascan.imaging import ImageSize
from dermascan.learning.network import NetworkSpec, build_network
from dermascan.model.ensemble import (
    TestTimeViews,
    activation_model,
    averaged_logits,
    averaged_outputs,
)

IMAGES = np.random.default_rng(1).integers(0, 256, (5, 24, 32, 3)).astype(np.float32)
ACROSS, DOWN = np.s_[:, :, ::-1], np.s_[:, ::-1]


@pytest.fixture(scope="module")
def networks():
    spec, size = NetworkSpec.of("small_cnn"), ImageSize(24, 32)
    networks = [build_network(spec, size) for _ in range(2)]
    for seed, network in enumerate(networks):  # an untrained bias is 0, which would hide it
        bias = np.random.default_rng(seed).normal(size=7)
        network.get_layer("logits").bias.assign(bias)
    return networks


def mirrorings(images):
    return [images, images[ACROSS], images[DOWN], images[ACROSS][DOWN]]


def test_averaged_logits_of_one_network_without_views_are_its_own(networks):
    model = averaged_logits(networks[:1], TestTimeViews())

    np.testing.assert_array_equal(
        model.predict_on_batch(IMAGES), networks[0].predict_on_batch(IMAGES)
    )


def test_averaged_logits_are_the_mean_over_networks_and_mirrorings(networks):
    model = averaged_logits(networks, TestTimeViews(mirrors=True))

    each = [n.predict_on_batch(view) for n in networks for view in mirrorings(IMAGES)]
    np.testing.assert_allclose(model.predict_on_batch(IMAGES), np.mean(each, axis=0), atol=1e-5)


def test_averaged_logits_of_a_mirrored_image_are_those_of_the_image(networks):
    model = averaged_logits(networks, TestTimeViews(mirrors=True, zooms=(1.0, 0.75)))

    expected = model.predict_on_batch(IMAGES)
    for mirrored in mirrorings(IMAGES):
        np.testing.assert_allclose(model.predict_on_batch(mirrored), expected, atol=1e-5)


def test_averaged_logits_of_a_zoom_are_those_of_the_enlarged_centre(networks):
    import tensorflow as tf  # noqa: PLC0415  # TensorFlow takes 10 s to import

    model = averaged_logits(networks[:1], TestTimeViews(zooms=(0.5,)))

    centre = tf.image.resize(IMAGES[:, 6:18, 8:24], (24, 32)).numpy()
    expected = networks[0].predict_on_batch(centre)
    np.testing.assert_allclose(model.predict_on_batch(IMAGES), expected, atol=1e-5)


def test_averaged_outputs_join_the_embeddings_of_the_networks(networks):
    outputs = averaged_outputs(networks, TestTimeViews(mirrors=True)).predict_on_batch(IMAGES)

    import keras  # noqa: PLC0415  # TensorFlow takes 10 s to import

    features = keras.Model(networks[1].input, networks[1].get_layer("embedding").output)
    expected = np.mean([features.predict_on_batch(v) for v in mirrorings(IMAGES)], axis=0)
    assert outputs["embedding"].shape == (5, 128)
    np.testing.assert_allclose(outputs["embedding"][:, 64:], expected, atol=1e-4)


def test_averaged_logits_follow_the_weights_of_the_networks(networks):
    model = averaged_logits(networks[:1], TestTimeViews())
    before, bias = model.predict_on_batch(IMAGES), networks[0].get_layer("logits").bias

    bias.assign(bias + 1)
    after = model.predict_on_batch(IMAGES)
    bias.assign(bias - 1)

    np.testing.assert_allclose(after, before + 1, atol=1e-5)


def test_activation_averages_to_the_logits_without_their_bias(networks):
    activation = activation_model(networks).predict_on_batch(IMAGES)

    biases = np.mean([n.get_layer("logits").bias.numpy() for n in networks], axis=0)
    logits = np.mean([n.predict_on_batch(IMAGES) for n in networks], axis=0)
    assert activation.shape == (5, 3, 4, 7)
    np.testing.assert_allclose(activation.mean(axis=(1, 2)) + biases, logits, atol=1e-5)


def test_activation_enlarges_coarser_maps_and_keeps_their_means(networks):
    coarse = build_network(NetworkSpec.of("small_cnn").of_member(1), ImageSize(24, 32))
    mixed = [networks[0], coarse]

    activation = activation_model(mixed).predict_on_batch(IMAGES)

    biases = np.mean([n.get_layer("logits").bias.numpy() for n in mixed], axis=0)
    logits = np.mean([n.predict_on_batch(IMAGES) for n in mixed], axis=0)
    assert activation.shape == (5, 3, 4, 7)
    np.testing.assert_allclose(activation.mean(axis=(1, 2)) + biases, logits, atol=1e-5)


def test_networks_of_two_sizes_are_refused(networks):
    other = build_network(NetworkSpec.of("small_cnn"), ImageSize(32, 32))

    with pytest.raises(InputError, match="one image size"):
        averaged_logits([networks[0], other], TestTimeViews())


def test_no_network_is_refused():
    with pytest.raises(InputError, match="there is none"):
        averaged_logits([], TestTimeViews())


@pytest.mark.parametrize("zooms", [(), (1.0, 1.0), (0.0,), (1.5,)])
def test_zooms_that_make_no_sense_are_refused(zooms):
    with pytest.raises(ValidationError):
        TestTimeViews(zooms=zooms)


@pytest.mark.parametrize(
    ("views", "count"),
    [
        (TestTimeViews(), 1),
        (TestTimeViews(mirrors=True), 4),
        (TestTimeViews(mirrors=True, zooms=(1.0, 0.8)), 8),
    ],
)
def test_count_says_how_often_an_image_goes_through(views, count):
    assert views.count == count
