"""One self-describing SavedModel: networks, their views and calibration, and how to use them."""

import platform
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from dermascan.errors import InputError, IntegrityError, NotFoundError
from dermascan.model.ensemble import activation_model, averaged_outputs, image_size_of
from dermascan.model.golden import write_golden
from dermascan.model.metadata import METADATA_FILE, ModelMetadata, read_metadata
from dermascan.model.scorer import SCORING_BATCH, Arrays, Scorer, Scores, in_parts
from dermascan.model.serving_graph import calibrated, fitted
from dermascan.model.signatures import (
    EXPLAIN_SIGNATURE,
    FLOAT_SIGNATURE,
    UINT8_SIGNATURE,
    describe_signatures,
    input_shape,
)

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

__all__ = [
    "METADATA_FILE",
    "SCORING_BATCH",
    "ModelMetadata",
    "SavedModelScorer",
    "Scorer",
    "Scores",
    "export",
    "load_scorer",
    "read_metadata",
]

_REPORTED_PACKAGES = ("dermascan", "tensorflow", "keras", "numpy", "opencv-python-headless")


class SavedModelScorer(Scorer):
    """A SavedModel in TensorFlow; made by `load_scorer`."""

    def __init__(self, loaded: object, metadata: ModelMetadata) -> None:
        super().__init__(metadata, f"TensorFlow {version('tensorflow')}")
        self._loaded = loaded  # a signature does not keep its model's variables alive
        self._signatures = cast("Any", loaded).signatures

    def offers(self, signature: str) -> bool:
        """Tell whether the model has a signature."""
        return signature in self._signatures

    def signature(self, name: str) -> Any:
        """Return a signature, to be called with `images`."""
        return self._signatures[name]

    def _parts(self, signature: str, images: NDArray[np.uint8], batch_size: int) -> list[Arrays]:
        call = self._signatures[signature]
        return [_called(call, part) for part in in_parts(images, batch_size)]


def _called(signature: Any, images: NDArray[np.uint8]) -> Arrays:
    import tensorflow as tf  # noqa: PLC0415  # TensorFlow takes 10 s to import

    outputs = signature(images=tf.constant(images, tf.uint8))
    return {name: tensor.numpy() for name, tensor in outputs.items()}


def export(
    networks: "Sequence[keras.Model]", metadata: ModelMetadata, folder: Path
) -> ModelMetadata:
    """Write a SavedModel, its `metadata.json`, and golden images scored by the networks themselves.

    Signatures, each with one input `images` (N, h, w, 3) RGB, 0..255: `serving_default` takes
    float32 and `serve_uint8` uint8 and give the arrays of `Scores`; `explain` takes uint8 and
    gives `activation`, see `Scorer.explain`. N is free, and so are h and w, unless the
    preprocessing corrects colours or removes hairs, which the graph cannot. Images of another
    size than the network's are brought to it, see `dermascan.model.serving_graph.fitted`.

    Args:
        networks: from `dermascan.learning.network.build_network`, trained, one or more.
        metadata: number of networks, signatures and versions are filled in here.
        folder: where to write; made if it is not there.

    Returns:
        The metadata as written.

    Raises:
        InputError: networks and preprocessing differ in image size.
    """
    import keras  # noqa: PLC0415  # TensorFlow takes 10 s to import
    import tensorflow as tf  # noqa: PLC0415  # likewise

    size = _agreed_size(networks, metadata)
    score, explain = _graph(networks, metadata)
    shape = input_shape(metadata)
    archive = keras.export.ExportArchive()  # finds the endpoints' variables by itself
    endpoints = (
        (FLOAT_SIGNATURE, tf.float32, score),
        (UINT8_SIGNATURE, tf.uint8, score),
        (EXPLAIN_SIGNATURE, tf.uint8, explain),
    )
    for name, dtype, function in endpoints:
        spec = tf.TensorSpec(shape, dtype, name="images")
        archive.add_endpoint(name, _of_any_size(function, size), input_signature=[spec])
    archive.write_out(str(folder), verbose=False)
    described = _described(metadata, networks, score, explain)
    (folder / METADATA_FILE).write_text(described.model_dump_json(indent=2))
    write_golden(folder, metadata.preprocessing.image_size, _scoring(_of_any_size(score, size)))
    return described


def _scoring(endpoint: Any) -> Callable[[NDArray[np.uint8]], Scores]:
    def score(images: NDArray[np.uint8]) -> Scores:
        import tensorflow as tf  # noqa: PLC0415  # TensorFlow takes 10 s to import

        outputs = endpoint(tf.constant(images, tf.uint8))
        return Scores(**{name: outputs[name].numpy() for name in Scores.__annotations__})

    return score


def _of_any_size(function: Any, size: tuple[int, int]) -> Any:
    def endpoint(images: "tf.Tensor") -> dict[str, "tf.Tensor"]:
        return cast("dict[str, tf.Tensor]", function(fitted(images, size)))

    return endpoint


def _graph(networks: "Sequence[keras.Model]", metadata: ModelMetadata) -> tuple[Any, Any]:
    """Return the functions that score and explain fitted images, shared by the signatures."""
    import tensorflow as tf  # noqa: PLC0415  # TensorFlow takes 10 s to import

    averaged = averaged_outputs(networks, metadata.views)
    activation = activation_model(networks)
    spec = tf.TensorSpec((None, *image_size_of(networks), 3), tf.float32)

    @tf.function(input_signature=[spec])  # type: ignore[untyped-decorator]  # TensorFlow has no types here
    def score(images: "tf.Tensor") -> dict[str, "tf.Tensor"]:
        outputs = averaged(images, training=False)
        probabilities, p_malignant = calibrated(
            outputs["logits"], metadata.calibration, metadata.malignant_indices()
        )
        return {
            "probabilities": probabilities,
            "p_malignant": p_malignant,
            "embedding": outputs["embedding"],
        }

    @tf.function(input_signature=[spec])  # type: ignore[untyped-decorator]  # likewise
    def explain(images: "tf.Tensor") -> dict[str, "tf.Tensor"]:
        return {"activation": activation(images, training=False)}

    return score, explain


def _agreed_size(networks: "Sequence[keras.Model]", metadata: ModelMetadata) -> tuple[int, int]:
    size, wanted = image_size_of(networks), metadata.preprocessing.image_size
    if size != (wanted.height, wanted.width):
        raise InputError(
            f"the networks take images of {size}, but the preprocessing makes {wanted}"
        )
    return size


def load_scorer(folder: Path) -> SavedModelScorer:
    """Load an exported model into TensorFlow.

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
        return SavedModelScorer(tf.saved_model.load(str(folder)), metadata)
    except (tf.errors.OpError, OSError, KeyError) as error:
        raise IntegrityError(f"the SavedModel in {folder} cannot be read: {error}") from error


def _described(
    metadata: ModelMetadata, networks: "Sequence[keras.Model]", score: Any, explain: Any
) -> ModelMetadata:
    embedding = score.get_concrete_function().structured_outputs["embedding"]
    activation = explain.get_concrete_function().structured_outputs["activation"]
    changes = {
        "networks": len(networks),
        "signatures": describe_signatures(
            metadata, tuple(embedding.shape), tuple(activation.shape)
        ),
        "versions": dict(_versions()),
    }
    return metadata.model_copy(update=changes)


def _versions() -> Iterator[tuple[str, str]]:
    yield "python", platform.python_version()
    for package in _REPORTED_PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            continue
