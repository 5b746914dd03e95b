import cv2
import numpy as np
import pytest
import skimage.data

from dermascan.errors import InputError, IntegrityError
from dermascan.imaging import ImageSize
from dermascan.network import (
    NetworkSpec,
    build_imagenet_lite0,
    build_network,
    freeze_for_fine_tuning,
)
from dermascan.pretrained import (
    assign_efficientnet_lite,
    packaged_weights,
    read_torch_weights,
)

SIZE = ImageSize(224, 224)

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
    return build_imagenet_lite0(SIZE)


@pytest.fixture(scope="module")
def tensors():
    return read_torch_weights(packaged_weights())


@pytest.mark.parametrize(("name", "_meaning", "number", "logits"), GOLDEN)
def test_pretrained_network_when_shown_a_photograph_recognises_it(
    imagenet, name, _meaning, number, logits
):
    found = imagenet.predict_on_batch(photograph(name)[None])[0]

    assert found.argmax() == number
    np.testing.assert_allclose(found[list(logits)], list(logits.values()), atol=0.02)


def test_assign_when_a_tensor_is_left_over_names_it(imagenet, tensors):
    with pytest.raises(IntegrityError, match=r"_blocks\.16\._bn0\.bias"):
        assign_efficientnet_lite(imagenet, tensors | {"_blocks.16._bn0.bias": np.zeros(1)})


def test_assign_when_a_tensor_is_missing_names_it(imagenet, tensors):
    rest = {name: value for name, value in tensors.items() if name != "_fc.bias"}

    with pytest.raises(IntegrityError, match=r"_fc\.bias"):
        assign_efficientnet_lite(imagenet, rest)


def test_assign_when_a_tensor_has_another_shape_names_both(imagenet, tensors):
    with pytest.raises(IntegrityError, match=r"_fc.bias.*\(999,\), not \(1000,\)"):
        assign_efficientnet_lite(imagenet, tensors | {"_fc.bias": np.zeros(999, np.float32)})


def test_build_network_by_default_has_the_pretrained_features_and_seven_logits(imagenet):
    import keras  # noqa: PLC0415  # TensorFlow takes 10 s to import

    images = photograph("coffee")[None]
    network = build_network(NetworkSpec(), SIZE)

    both = [keras.Model(n.input, n.get_layer("embedding").output) for n in (network, imagenet)]
    features, expected = (model.predict_on_batch(images) for model in both)
    assert features.shape == (1, 1280)
    np.testing.assert_allclose(features, expected, atol=1e-6)
    assert network.output.shape == (None, 7)


def test_freeze_for_fine_tuning_from_a_block_leaves_it_and_what_follows_trainable():
    network = build_network(NetworkSpec(weights="none"), ImageSize(32, 32))

    freeze_for_fine_tuning(network, first_block=11)

    trained = {layer.name for layer in network.layers if layer.trainable_variables}
    assert {"block_11_expand", "block_15_project", "head", "logits"} <= trained
    assert not trained & {"stem", "block_00_depthwise", "block_10_project"}
    assert not any(name.endswith("_norm") for name in trained)


def test_small_cnn_of_any_rgb_gives_the_same_for_bytes_and_floats():
    images = np.random.default_rng(0).integers(0, 256, (3, 24, 32, 3), np.uint8)

    network = build_network(NetworkSpec.of("small_cnn"), ImageSize(24, 32))

    logits = network.predict_on_batch(images)
    assert logits.shape == (3, 7)
    np.testing.assert_array_equal(logits, network.predict_on_batch(images.astype(np.float32)))


@pytest.mark.parametrize(
    ("architecture", "weights"),
    [("resnet", "none"), ("small_cnn", "imagenet-pypi"), ("efficientnet_lite0", "imagenett")],
)
def test_network_spec_when_unknown_says_what_there_is(architecture, weights):
    with pytest.raises(InputError, match="use"):
        NetworkSpec(architecture, weights)
