"""The Keras network: RGB images to the logits of seven lesion classes.

Written in backend-neutral Keras 3 with built-in layers only. Every network takes
(N, H, W, 3) RGB, 0..255, of one height and width, normalises inside, and has a layer
`embedding` (N, D) before the layer `logits` (N, classes).
"""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from dermascan.errors import InputError
from dermascan.fingerprint import Plain
from dermascan.imaging import ImageSize
from dermascan.pretrained import (
    assign_efficientnet_lite,
    packaged_weights,
    read_torch_weights,
)
from dermascan.taxonomy import LESION_CLASSES

if TYPE_CHECKING:
    import keras

EFFICIENTNET_LITE0 = "efficientnet_lite0"
SMALL_CNN = "small_cnn"
IMAGENET = "imagenet-pypi"
NO_WEIGHTS = "none"

_IMAGENET_CLASSES = 1000
_BATCH_NORM_EPSILON = 1e-3
_BATCH_NORM_MOMENTUM = 0.99


@dataclass(frozen=True)
class NetworkSpec:
    """Which network, and what it knows before training.

    Attributes:
        architecture: `efficientnet_lite0`, or `small_cnn`: tiny, for tests and trials.
        weights: `imagenet-pypi` (in the installed package, offline) or `none`.
        dropout: share of the embedding that training hides, 0..1.
    """

    architecture: str = EFFICIENTNET_LITE0
    weights: str = IMAGENET
    dropout: float = 0.2

    def __post_init__(self) -> None:
        known = {EFFICIENTNET_LITE0: (IMAGENET, NO_WEIGHTS), SMALL_CNN: (NO_WEIGHTS,)}
        if self.architecture not in known:
            message = f"unknown architecture {self.architecture!r}: use one of {sorted(known)}"
            raise InputError(message)
        if self.weights not in known[self.architecture]:
            usable = ", ".join(known[self.architecture])
            message = f"no weights {self.weights!r} for {self.architecture}: use {usable}"
            raise InputError(message)

    @classmethod
    def of(cls, architecture: str) -> "NetworkSpec":
        """Return an architecture with the best weights that can be had offline."""
        return cls(architecture, NO_WEIGHTS if architecture == SMALL_CNN else IMAGENET)

    @property
    def pretrained(self) -> bool:
        """Tell whether the network has learned from other images before."""
        return self.weights != NO_WEIGHTS

    def as_plain(self) -> dict[str, Plain]:
        """Return the specification as a JSON-ready mapping."""
        return asdict(self)


@dataclass(frozen=True)
class _Stage:
    repeats: int
    kernel: int
    stride: int
    expand: int
    channels: int


# EfficientNet-Lite0: the B0 stages of Tan and Le (ICML 2019, table 1) without squeeze and
# excitation, ReLU6 for swish, as published in Google's TPU repository.
_LITE0_STAGES: Final = (
    _Stage(repeats=1, kernel=3, stride=1, expand=1, channels=16),
    _Stage(repeats=2, kernel=3, stride=2, expand=6, channels=24),
    _Stage(repeats=2, kernel=5, stride=2, expand=6, channels=40),
    _Stage(repeats=3, kernel=3, stride=2, expand=6, channels=80),
    _Stage(repeats=3, kernel=5, stride=1, expand=6, channels=112),
    _Stage(repeats=4, kernel=5, stride=2, expand=6, channels=192),
    _Stage(repeats=1, kernel=3, stride=1, expand=6, channels=320),
)
_STEM_CHANNELS = 32
_HEAD_CHANNELS = 1280
LITE0_BLOCKS = sum(stage.repeats for stage in _LITE0_STAGES)


def build_network(spec: NetworkSpec, image_size: ImageSize) -> "keras.Model":
    """Build a network for the lesion classes.

    Args:
        spec: architecture and initial weights.
        image_size: height and width in pixels of what it will be given.

    Returns:
        A model from (N, H, W, 3) RGB, 0..255, float32 or uint8, to logits (N, 7) in the order
        of `LESION_CLASSES`. Its layers `embedding` and `logits` can be taken by name.

    Raises:
        NotFoundError: the package that carries the weights is not installed.
    """
    if spec.architecture == SMALL_CNN:
        return _small_cnn(spec, image_size)
    if not spec.pretrained:
        return _efficientnet_lite0(image_size, len(LESION_CLASSES), spec.dropout)
    imagenet = build_imagenet_lite0(image_size)
    embedding = imagenet.get_layer("embedding").output
    return _classifier(imagenet.input, embedding, len(LESION_CLASSES), spec.dropout)


def build_imagenet_lite0(image_size: ImageSize) -> "keras.Model":
    """Build EfficientNet-Lite0 as it was trained on ImageNet: logits (N, 1000)."""
    network = _efficientnet_lite0(image_size, _IMAGENET_CLASSES, dropout=0.0)
    assign_efficientnet_lite(network, read_torch_weights(packaged_weights()))
    return network


def freeze_for_fine_tuning(network: "keras.Model", first_block: int) -> None:
    """Leave what a pretrained network should still learn trainable, and freeze the rest.

    Batch normalisation is frozen everywhere: its ImageNet statistics come from far larger
    batches than fine-tuning has, and in inference mode it makes training repeatable.

    Args:
        network: a pretrained EfficientNet-Lite.
        first_block: blocks before this one are frozen with the stem; 0 frees everything.
    """
    for layer in network.layers:
        kept = layer.name.endswith("_norm") or _block_of(layer.name) < first_block
        layer.trainable = not kept


def _block_of(layer_name: str) -> int:
    """Return a layer's block; -1 for the stem, one past the last for head and classifier."""
    kind, *rest = layer_name.split("_")
    if kind == "block":
        return int(rest[0])
    return -1 if kind == "stem" else LITE0_BLOCKS


def _efficientnet_lite0(image_size: ImageSize, classes: int, dropout: float) -> "keras.Model":
    from keras import layers  # noqa: PLC0415  # TensorFlow takes 10 s to import

    images, x = _images(image_size)
    x = _convolution(x, _STEM_CHANNELS, 3, 2, "stem")
    block = 0
    for stage in _LITE0_STAGES:
        for repeat in range(stage.repeats):
            stride = stage.stride if repeat == 0 else 1
            x = _inverted_residual(x, stage, stride, f"block_{block:02d}")
            block += 1
    x = _convolution(x, _HEAD_CHANNELS, 1, 1, "head")
    x = layers.GlobalAveragePooling2D(name="embedding")(x)
    return _classifier(images, x, classes, dropout)


def _small_cnn(spec: NetworkSpec, image_size: ImageSize) -> "keras.Model":
    from keras import layers  # noqa: PLC0415  # TensorFlow takes 10 s to import

    images, x = _images(image_size)
    for index, channels in enumerate((16, 32, 64)):
        convolution = layers.Conv2D(
            channels, 3, 2, "same", activation="relu", name=f"convolution_{index}"
        )
        x = convolution(x)
    x = layers.GlobalAveragePooling2D(name="embedding")(x)
    return _classifier(images, x, len(LESION_CLASSES), spec.dropout)


def _images(image_size: ImageSize) -> tuple["keras.KerasTensor", "keras.KerasTensor"]:
    import keras  # noqa: PLC0415  # TensorFlow takes 10 s to import

    images = keras.Input((image_size.height, image_size.width, 3), name="images")
    return images, keras.layers.Rescaling(1 / 128, offset=-127 / 128, name="normalised")(images)


def _classifier(
    images: "keras.KerasTensor", embedding: "keras.KerasTensor", classes: int, dropout: float
) -> "keras.Model":
    import keras  # noqa: PLC0415  # TensorFlow takes 10 s to import

    x = keras.layers.Dropout(dropout, name="dropout")(embedding)
    logits = keras.layers.Dense(classes, dtype="float32", name="logits")(x)
    return keras.Model(images, logits)


def _inverted_residual(
    inputs: "keras.KerasTensor", stage: _Stage, stride: int, name: str
) -> "keras.KerasTensor":
    from keras import layers  # noqa: PLC0415  # TensorFlow takes 10 s to import

    channels_in = inputs.shape[-1]
    x = inputs
    if stage.expand > 1:
        x = _convolution(x, channels_in * stage.expand, 1, 1, f"{name}_expand")
    depthwise = layers.DepthwiseConv2D(
        stage.kernel, stride, "same", use_bias=False, name=f"{name}_depthwise"
    )
    x = _norm_and_relu6(depthwise(x), f"{name}_depthwise")
    project = layers.Conv2D(stage.channels, 1, use_bias=False, name=f"{name}_project")
    x = _norm(project(x), f"{name}_project")
    if stride == 1 and channels_in == stage.channels:
        x = layers.Add(name=f"{name}_add")([inputs, x])
    return x


def _convolution(
    inputs: "keras.KerasTensor", channels: int, kernel: int, stride: int, name: str
) -> "keras.KerasTensor":
    from keras import layers  # noqa: PLC0415  # TensorFlow takes 10 s to import

    convolution = layers.Conv2D(channels, kernel, stride, "same", use_bias=False, name=name)
    return _norm_and_relu6(convolution(inputs), name)


def _norm_and_relu6(inputs: "keras.KerasTensor", name: str) -> "keras.KerasTensor":
    from keras import layers  # noqa: PLC0415  # TensorFlow takes 10 s to import

    return layers.ReLU(6.0, name=f"{name}_relu")(_norm(inputs, name))


def _norm(inputs: "keras.KerasTensor", name: str) -> "keras.KerasTensor":
    from keras import layers  # noqa: PLC0415  # TensorFlow takes 10 s to import

    norm = layers.BatchNormalization(
        momentum=_BATCH_NORM_MOMENTUM, epsilon=_BATCH_NORM_EPSILON, name=f"{name}_norm"
    )
    return norm(inputs)
