"""One self-describing SavedModel: a network with its temperature, classes and threshold."""

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dermascan.errors import InputError, IntegrityError, NotFoundError
from dermascan.imaging import Preprocessing
from dermascan.taxonomy import LESION_CLASSES

if TYPE_CHECKING:
    import keras

METADATA_FILE = "metadata.json"
FLOAT_SIGNATURE = "serving_default"
UINT8_SIGNATURE = "serve_uint8"
SCORING_BATCH = 32
_FORMAT = 1
_REPORTED_PACKAGES = ("dermascan", "tensorflow", "keras", "numpy", "opencv-python-headless")


class ArrayDescription(BaseModel):
    """What an input or output of a signature holds."""

    model_config = ConfigDict(frozen=True)

    shape: tuple[int | None, ...]
    dtype: str
    meaning: str


class ModelMetadata(BaseModel):
    """What somebody who has only the SavedModel must know to use it rightly.

    Attributes:
        format: version of this description.
        classes: meaning of the columns of `probabilities`, in order.
        malignant_classes: classes whose probabilities add up to `p_malignant`.
        threshold: `p_malignant` from which an image is called malignant, chosen on validation.
        temperature: the logits are divided by it inside the model (already done).
        preprocessing_plain: how bytes become pixels, as `Preprocessing.as_plain()` gives it.
        dataset_fingerprint: names the training data.
        training_fingerprint: names the run that made it.
        network: architecture and initial weights.
        inputs: of each signature.
        outputs: the same for every signature.
        licences: of training data and initial weights.
        versions: of the software that made it.
        intended_use: what it may be used for.
    """

    model_config = ConfigDict(frozen=True)

    format: int = _FORMAT
    classes: tuple[str, ...] = LESION_CLASSES
    malignant_classes: tuple[str, ...]
    threshold: float = Field(ge=0, le=1)
    temperature: float = Field(gt=0)
    preprocessing_plain: dict[str, Any] = Field(alias="preprocessing")
    dataset_fingerprint: str
    training_fingerprint: str
    network: dict[str, Any]
    inputs: dict[str, ArrayDescription] = Field(default_factory=dict)
    outputs: dict[str, ArrayDescription] = Field(default_factory=dict)
    licences: dict[str, str]
    versions: dict[str, str] = Field(default_factory=dict)
    intended_use: str = "Research and education. Not a medical device; not for diagnosis."

    @property
    def preprocessing(self) -> Preprocessing:
        """Return the settings with which `dermascan.imaging.prepare` must make the images."""
        return Preprocessing.from_plain(self.preprocessing_plain)

    def malignant_indices(self) -> tuple[int, ...]:
        """Return the columns of `probabilities` that add up to `p_malignant`."""
        return tuple(self.classes.index(name) for name in self.malignant_classes)


@dataclass(frozen=True)
class Scores:
    """What a model says of N images.

    Attributes:
        probabilities: float32 (N, 7), rows add up to 1, columns as `LESION_CLASSES`.
        p_malignant: float32 (N,), 0..1.
        embedding: float32 (N, D), the features before the classifier.
    """

    probabilities: NDArray[np.float32]
    p_malignant: NDArray[np.float32]
    embedding: NDArray[np.float32]


class Scorer:
    """A loaded model; made by `load_scorer`."""

    def __init__(self, loaded: object, metadata: ModelMetadata) -> None:
        self.metadata = metadata
        self._loaded = loaded  # a signature does not keep its model's variables alive
        self._signature = cast("Any", loaded).signatures[UINT8_SIGNATURE]

    def score(self, images: NDArray[np.uint8], batch_size: int = SCORING_BATCH) -> Scores:
        """Score images, some at a time.

        Args:
            images: uint8 (N, H, W, 3) RGB, 0..255, from `dermascan.imaging.prepare` with
                `metadata.preprocessing`; N may be 0.
            batch_size: how many go through the network together.

        Returns:
            One row for each image, in order; the same whatever the batch size, to 1e-6.

        Raises:
            InputError: the array has another type or shape.
        """
        self._check(images)
        if not len(images):  # TensorFlow's convolutions refuse an empty batch
            one = self.score(np.zeros((1, *images.shape[1:]), np.uint8))
            return Scores(one.probabilities[:0], one.p_malignant[:0], one.embedding[:0])
        starts = range(0, len(images), batch_size)
        parts = [self._score_batch(images[start : start + batch_size]) for start in starts]
        columns = ("probabilities", "p_malignant", "embedding")
        return Scores(*(np.concatenate([part[name] for part in parts]) for name in columns))

    def _score_batch(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        import tensorflow as tf  # noqa: PLC0415  # TensorFlow takes 10 s to import

        outputs = self._signature(images=tf.constant(images, tf.uint8))
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    def _check(self, images: NDArray[np.uint8]) -> None:
        size = self.metadata.preprocessing.image_size
        wanted = (size.height, size.width, 3)
        if images.dtype != np.uint8 or images.shape[1:] != wanted:
            message = (
                f"the model takes uint8 images (N, {size.height}, {size.width}, 3), "
                f"not {images.dtype} {images.shape}: prepare them with its preprocessing"
            )
            raise InputError(message)


def scoring_model(network: "keras.Model", metadata: ModelMetadata) -> "keras.Model":
    """Wrap a network so that it gives calibrated probabilities.

    Args:
        network: from `dermascan.network.build_network`, trained.
        metadata: temperature and malignant classes are built in.

    Returns:
        A model from float32 (N, H, W, 3) to a mapping with the arrays of `Scores`.
    """
    import keras  # noqa: PLC0415  # TensorFlow takes 10 s to import

    logits = network.output / metadata.temperature
    probabilities = keras.layers.Activation("softmax", name="probabilities")(logits)
    columns = list(metadata.malignant_indices())
    p_malignant = keras.ops.sum(keras.ops.take(probabilities, columns, axis=-1), axis=-1)
    outputs = {
        "probabilities": probabilities,
        "p_malignant": p_malignant,
        "embedding": network.get_layer("embedding").output,
    }
    return keras.Model(network.input, outputs)


def export(network: "keras.Model", metadata: ModelMetadata, folder: Path) -> ModelMetadata:
    """Write a SavedModel and its `metadata.json`.

    Signatures: `serving_default` takes float32, `serve_uint8` takes uint8, both one input
    `images` (N, H, W, 3) RGB, 0..255, N free.

    Args:
        network: from `dermascan.network.build_network`, trained.
        metadata: inputs, outputs and versions are filled in here.
        folder: where to write; made if it is not there.

    Returns:
        The metadata as written.
    """
    import keras  # noqa: PLC0415  # TensorFlow takes 10 s to import
    import tensorflow as tf  # noqa: PLC0415  # likewise

    model = scoring_model(network, metadata)
    shape = network.input.shape

    def score(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return cast("dict[str, tf.Tensor]", model(tf.cast(images, tf.float32), training=False))

    archive = keras.export.ExportArchive()
    archive.track(model)
    for name, dtype in ((FLOAT_SIGNATURE, tf.float32), (UINT8_SIGNATURE, tf.uint8)):
        spec = tf.TensorSpec(shape, dtype, name="images")
        archive.add_endpoint(name, score, input_signature=[spec])
    archive.write_out(str(folder), verbose=False)
    described = _described(metadata, model, shape)
    (folder / METADATA_FILE).write_text(described.model_dump_json(by_alias=True, indent=2))
    return described


def read_metadata(folder: Path) -> ModelMetadata:
    """Read the description beside a SavedModel; needs no TensorFlow.

    Raises:
        NotFoundError: there is no `metadata.json`.
        IntegrityError: it does not say what it must.
    """
    path = folder / METADATA_FILE
    if not path.is_file():
        raise NotFoundError(f"{path} does not exist: not a model that DermaScan exported")
    try:
        return ModelMetadata.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise IntegrityError(f"{path} is not a model's description: {error}") from error


def load_scorer(folder: Path) -> Scorer:
    """Load an exported model.

    Args:
        folder: holds `saved_model.pb` and `metadata.json`.

    Raises:
        NotFoundError: one of the two is not there.
        IntegrityError: the model cannot be read.
    """
    metadata = read_metadata(folder)
    if not (folder / "saved_model.pb").is_file():
        raise NotFoundError(f"{folder} holds no SavedModel")
    import tensorflow as tf  # noqa: PLC0415  # TensorFlow takes 10 s to import

    try:
        return Scorer(tf.saved_model.load(str(folder)), metadata)
    except (tf.errors.OpError, OSError, KeyError) as error:
        raise IntegrityError(f"the SavedModel in {folder} cannot be read: {error}") from error


def _described(
    metadata: ModelMetadata, model: "keras.Model", shape: tuple[int | None, ...]
) -> ModelMetadata:
    meanings = {
        "probabilities": "calibrated class probabilities, rows add up to 1, columns as `classes`",
        "p_malignant": "sum of the probabilities of `malignant_classes`, 0..1",
        "embedding": "features before the classifier, for search and for drift",
    }
    outputs = {
        name: ArrayDescription(shape=tuple(tensor.shape), dtype="float32", meaning=meanings[name])
        for name, tensor in model.output.items()
    }
    images = "RGB, 0..255, channels last, made by `preprocessing`"
    inputs = {
        name: ArrayDescription(shape=tuple(shape), dtype=dtype, meaning=images)
        for name, dtype in ((FLOAT_SIGNATURE, "float32"), (UINT8_SIGNATURE, "uint8"))
    }
    changes = {"inputs": inputs, "outputs": outputs, "versions": dict(_versions())}
    return metadata.model_copy(update=changes)


def _versions() -> Iterator[tuple[str, str]]:
    yield "python", platform.python_version()
    for package in _REPORTED_PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            continue
