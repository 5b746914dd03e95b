import colorsys

import cv2
import numpy as np
import pytest
from scipy.stats import spearmanr

from dermascan.evaluation.explanation import (
    check_explanations,
    heatmap,
    overlay,
    randomised_activation,
)
from dermascan.imaging import ImageSize
from dermascan.learning.network import NetworkSpec, build_network

SIZE = ImageSize(48, 64)
IMAGES = np.random.default_rng(0).integers(0, 256, (20, 48, 64, 3), np.uint8)


def pooled(images):
    """Return 6 x 8 cells with one map for each class, each another mixture of the colours."""
    cells = images.reshape(len(images), 6, 8, 8, 8, 3).mean(axis=(2, 4)) - 128
    mixture = np.random.default_rng(1).normal(size=(3, 7))
    return (cells @ mixture).astype(np.float32)


def unrelated(images):
    return np.random.default_rng(2).normal(size=(len(images), 6, 8, 7)).astype(np.float32)


def constant(images):
    return np.ones((len(images), 6, 8, 7), np.float32)


def activation_with(class_index, row, column, value):
    activation = np.zeros((6, 8, 7), np.float32)
    activation[row, column, class_index] = value
    return activation


def test_heatmap_peaks_where_the_class_is_active():
    heat = heatmap(activation_with(4, row=1, column=6, value=3.0), 4, SIZE)

    assert (heat.shape, heat.dtype) == ((48, 64), np.float32)
    assert (heat.min(), heat.max()) == (0, 1)
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert (row // 8, column // 8) == (1, 6)


def test_heatmap_of_another_class_is_cold():
    assert not heatmap(activation_with(4, 1, 6, value=3.0), 5, SIZE).any()


def test_heatmap_when_all_speaks_against_the_class_is_cold():
    assert not heatmap(np.full((6, 8, 7), -2, np.float32), 0, SIZE).any()


def test_heatmap_does_not_depend_on_the_scale_of_the_logits():
    activation = pooled(IMAGES[:1])[0]

    np.testing.assert_allclose(
        heatmap(activation, 2, SIZE), heatmap(7 * activation, 2, SIZE), atol=1e-6
    )


def test_overlay_where_cold_is_the_image_and_where_hot_is_coloured():
    heat = np.zeros((48, 64), np.float32)
    heat[:, 32:] = 1

    laid = overlay(IMAGES[0], heat)

    np.testing.assert_array_equal(laid[:, :32], IMAGES[0][:, :32])
    hue, saturation, _ = colorsys.rgb_to_hsv(*(laid[:, 32:].mean(axis=(0, 1)) / 255))
    assert 1 / 8 < hue < 1 / 4  # yellow, the top of viridis
    assert saturation > 0.4


def test_overlay_is_lighter_where_it_is_hotter():
    black = np.zeros((8, 64, 3), np.uint8)
    heat = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (8, 1))

    lightness = cv2.cvtColor(overlay(black, heat), cv2.COLOR_RGB2LAB)[0, :, 0].astype(int)

    assert (np.diff(lightness) >= 0).all()
    assert lightness[-1] > lightness[0] + 50


def test_check_when_random_weights_destroy_the_maps_passes():
    check = check_explanations(pooled, unrelated, IMAGES)

    assert check.images == 20
    assert abs(check.similarity_randomised) < 0.1
    assert check.similarity_repeated == 1
    assert check.passed is True


def test_check_when_the_maps_do_not_depend_on_weights_fails():
    check = check_explanations(pooled, pooled, IMAGES)

    assert check.similarity_randomised == 1
    assert check.passed is False


def test_check_when_maps_are_turned_around_by_random_weights_sees_their_likeness():
    check = check_explanations(pooled, lambda images: -pooled(images), IMAGES)

    assert check.similarity_randomised == 1


def test_check_when_the_map_does_not_follow_the_image_fails():
    def stuck(images):
        return np.tile(pooled(IMAGES[:1]), (len(images), 1, 1, 1))

    check = check_explanations(stuck, unrelated, IMAGES)

    assert check.similarity_repeated < 0.5
    assert check.passed is False


@pytest.mark.parametrize(
    ("trained", "randomised"), [(constant, unrelated), (pooled, constant), (constant, constant)]
)
def test_check_when_maps_are_constant_is_undefined(trained, randomised):
    check = check_explanations(trained, randomised, IMAGES)

    assert check.similarity_randomised is None
    assert check.passed is None


@pytest.mark.parametrize(("flat", "passed"), [(1, True), (3, None)])
def test_check_when_some_maps_are_constant_needs_nine_in_ten(flat, passed):
    images = IMAGES.copy()
    images[:flat] = 200

    assert check_explanations(pooled, unrelated, images).passed is passed


def test_check_when_there_are_no_images_is_undefined():
    check = check_explanations(pooled, unrelated, IMAGES[:0])

    assert (check.images, check.similarity_repeated, check.passed) == (0, None, None)


def test_similarity_is_the_mean_of_spearman_s_correlation_of_absolute_values():
    check = check_explanations(pooled, unrelated, IMAGES)

    maps, others = pooled(IMAGES), unrelated(IMAGES)
    loudest = maps.mean(axis=(1, 2)).argmax(axis=-1)
    expected = [
        spearmanr(abs(one[..., name]).ravel(), abs(other[..., name]).ravel()).statistic
        for one, other, name in zip(maps, others, loudest, strict=True)
    ]
    assert check.similarity_randomised == pytest.approx(np.mean(expected), abs=1e-6)


def test_randomised_activation_is_repeatable_and_differs_between_seeds():
    plain = NetworkSpec.of("small_cnn").as_plain()

    first, again, other = (randomised_activation(plain, SIZE, seed)(IMAGES) for seed in (0, 0, 1))

    assert (first.shape, first.dtype) == ((20, 6, 8, 7), np.float32)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1


def test_randomised_activation_of_a_deep_network_keeps_its_size():
    plain = NetworkSpec.of("efficientnet_lite0").as_plain()

    activation = randomised_activation(plain, SIZE)(IMAGES[:2])

    assert activation.shape == (2, 2, 2, 7)
    assert 0.01 < activation.std() < 100


def test_maps_of_a_network_that_has_learned_from_spots_are_hot_there():
    images, labels = dark_or_bright_spots(64)
    network = build_network(NetworkSpec("small_cnn", "none", dropout=0.0), SIZE)
    learn(network, images, labels)

    dark = images[labels == 4]
    for image, activation in zip(dark, activation_of(network)(dark), strict=True):
        heat = heatmap(activation, 4, SIZE)
        spot = image.min(axis=-1) < 100
        assert heat[spot].mean() > 2 * heat[~spot].mean()


def dark_or_bright_spots(count):
    """Return images with one spot somewhere: dark ones are class 4, bright ones class 5."""
    random = np.random.default_rng(3)
    images = random.integers(140, 160, (count, 48, 64, 3)).astype(np.uint8)
    labels = np.array([4, 5] * (count // 2))
    for image, label in zip(images, labels, strict=True):
        centre = (int(random.integers(12, 52)), int(random.integers(12, 36)))
        cv2.circle(image, centre, 8, (20, 20, 20) if label == 4 else (250, 250, 250), -1)
    return images, labels


def learn(network, images, labels):
    import keras  # noqa: PLC0415  # TensorFlow takes 10 s to import

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.Adam(0.01), loss)
    network.fit(images.astype(np.float32), labels, epochs=12, verbose=0, shuffle=False)


def activation_of(network):
    import keras  # noqa: PLC0415  # TensorFlow takes 10 s to import

    features = keras.Model(network.input, network.get_layer("embedding").input)
    kernel = network.get_layer("logits").kernel.numpy()
    return lambda images: features.predict(images.astype(np.float32), verbose=0) @ kernel
