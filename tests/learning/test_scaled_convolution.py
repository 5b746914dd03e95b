import keras
import numpy as np
import pytest

from dermascan.learning.scaled_convolution import ScaledConvolution


def normalised(layer, channels, random):
    """Return a convolution, and a normalisation that is not the identity."""
    norm = keras.layers.BatchNormalization(epsilon=1e-3)
    norm.build((None, None, None, channels))
    norm.set_weights(
        [
            random.uniform(0.5, 2, channels),
            random.normal(size=channels),
            random.normal(size=channels),
            random.uniform(0.5, 2, channels),
        ]
    )
    return keras.Sequential([layer, norm])


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("channels", [6, None])
def test_scaled_convolution_is_a_convolution_and_its_normalisation(channels, kernel, stride):
    random = np.random.default_rng(0)
    settings = {"padding": "same", "use_bias": False}
    if channels is None:
        convolution = keras.layers.DepthwiseConv2D(kernel, stride, **settings)
    else:
        convolution = keras.layers.Conv2D(channels, kernel, stride, **settings)
    images = random.normal(size=(2, 9, 12, 4)).astype(np.float32)
    expected_of = normalised(convolution, channels or 4, random)
    expected = expected_of.predict_on_batch(images)
    scaled = ScaledConvolution(channels, kernel, stride)
    found = scaled(images)

    scaled.fold(convolution.get_weights()[0], expected_of.layers[1].get_weights(), 1e-3)

    np.testing.assert_allclose(np.asarray(scaled(images)), expected, atol=1e-5)
    assert not np.allclose(np.asarray(found), expected, atol=1e-2)
    assert tuple(scaled.compute_output_shape(images.shape)) == expected.shape
    assert [variable.name for variable in scaled.trainable_variables] == ["kernel"]


def test_scaled_convolution_survives_its_configuration():
    layer = ScaledConvolution(8, 3, 2, name="stem", trainable=False)

    again = ScaledConvolution.from_config(layer.get_config())

    assert again.get_config() == layer.get_config()
    assert (again.name, again.trainable, again.is_depthwise) == ("stem", False, False)
