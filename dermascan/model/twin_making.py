"""Make the twin of a SavedModel for ONNX Runtime, and compare the two before it is kept."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dermascan.errors import IntegrityError
from dermascan.fingerprint import sha256_hex
from dermascan.model.golden import draw_images
from dermascan.model.savedmodel import SavedModelScorer, load_scorer
from dermascan.model.scorer import Scorer
from dermascan.model.signatures import EXPLAIN_SIGNATURE
from dermascan.model.twin import (
    RECORD_FILE,
    SIGNATURES,
    TWIN_FOLDER,
    Differences,
    OnnxScorer,
    TwinRecord,
    graph_path,
    has_twin,
    load_twin,
    runtime_name,
)

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

__all__ = [
    "PROBABILITY_TOLERANCE",
    "RELATIVE_TOLERANCE",
    "add_twin",
    "drop_unusable_twin",
    "write_twin",
]

logger = logging.getLogger(__name__)

OPSET = 18
PROBABILITY_TOLERANCE = 1e-5
RELATIVE_TOLERANCE = 1e-5  # of embeddings and activations

_Images = NDArray[np.uint8]


def add_twin(folder: Path, images: _Images) -> None:
    """Do as `write_twin`; if the twin cannot be made or differs, say so and go without."""
    try:
        write_twin(folder, images)
    except Exception as error:  # noqa: BLE001  # the SavedModel is complete without its twin
        logger.warning("the model gets no twin for ONNX Runtime: %s", error)


def write_twin(folder: Path, images: _Images) -> TwinRecord:
    """Leave a twin beside a SavedModel if it says what the SavedModel says.

    Args:
        folder: of the exported model, with its `metadata.json`.
        images: uint8 (N, H, W, 3) RGB, prepared for the model, that it was not trained on.

    Returns:
        The record as written, last.

    Raises:
        IntegrityError: the two differ by more than `PROBABILITY_TOLERANCE` of a probability or
            `RELATIVE_TOLERANCE` of an embedding or activation.
    """
    import tensorflow as tf  # noqa: PLC0415  # TensorFlow takes 10 s to import

    with tf.device("/CPU:0"):  # an accelerator may round float32 products
        model = load_scorer(folder)
        graphs = {
            name: _converted(model, name).SerializeToString(deterministic=True)
            for name in SIGNATURES
            if model.offers(name)
        }
        twin = OnnxScorer(model.metadata, graphs)
        differences = _compared(model, twin, images)
    _require_equal(differences)
    record = TwinRecord(
        runtime=runtime_name(),
        opset=OPSET,
        training=model.metadata.training_fingerprint,
        files={name: sha256_hex(graph) for name, graph in graphs.items()},
        differences=differences,
    )
    (folder / TWIN_FOLDER).mkdir(exist_ok=True)
    for name, graph in graphs.items():
        graph_path(folder, name).write_bytes(graph)
    (folder / TWIN_FOLDER / RECORD_FILE).write_text(record.model_dump_json(indent=1))
    logger.info("the twin for ONNX Runtime agrees with the SavedModel: %s", differences)
    return record


def drop_unusable_twin(folder: Path) -> None:
    """Remove a twin that cannot be loaded here or scores the golden images differently."""
    if not has_twin(folder):
        return
    try:
        load_twin(folder)
    except IntegrityError as error:
        logger.warning("the model is published without its twin: %s", error)
        for path in (folder / TWIN_FOLDER).iterdir():
            path.unlink()


def _converted(model: SavedModelScorer, signature: str) -> "ModelProto":
    """Write a signature in ONNX's operators, for images of the network's own size."""
    import tensorflow as tf  # noqa: PLC0415  # TensorFlow takes 10 s to import
    from tf2onnx.convert import from_function  # noqa: PLC0415  # likewise

    size = model.metadata.preprocessing.image_size
    spec = tf.TensorSpec((None, size.height, size.width, 3), tf.uint8, name="images")
    call = model.signature(signature)

    def of_own_size(images: "tf.Tensor") -> "dict[str, tf.Tensor]":
        outputs: dict[str, tf.Tensor] = call(images=images)
        return outputs

    traced = tf.function(of_own_size, input_signature=[spec], autograph=False)
    converted, _ = from_function(traced, input_signature=[spec], opset=OPSET)
    _order(converted.graph)
    kept = {value.name for value in (*converted.graph.input, *converted.graph.output)}
    _rename(converted.graph, {name: name for name in kept})
    return converted


def _order(graph: "GraphProto") -> None:
    """Put nodes in the order in which the outputs need them: the converter's own order varies."""
    makers = {value: node for node in graph.node for value in node.output}
    ordered: dict[str, NodeProto] = {}
    waiting = [value.name for value in reversed(graph.output)]
    while waiting:
        node = makers.get(waiting[-1])
        missing = [
            value
            for value in (_needed(node) if node else ())
            if value in makers and makers[value].output[0] not in ordered
        ]
        if node is None or not missing:
            waiting.pop()
            if node:
                ordered.setdefault(node.output[0], node)
        else:
            waiting += reversed(missing)
    nodes = list(ordered.values())
    for branch in (branch for node in nodes for branch in _branches(node)):
        _order(branch)
    del graph.node[:]
    graph.node.extend(nodes)


def _needed(node: "NodeProto") -> "Iterator[str]":
    """Yield the values that a node reads, in its branches too, where their own are among them."""
    yield from node.input
    for branch in _branches(node):
        yield from (value.name for value in branch.output)
        for inner in branch.node:
            yield from _needed(inner)


def _branches(node: "NodeProto") -> "list[GraphProto]":
    return [attribute.g for attribute in node.attribute if attribute.HasField("g")]


def _rename(graph: "GraphProto", names: dict[str, str]) -> None:
    """Number nodes and values in order: the converter's names depend on what it did before."""
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [name and names.setdefault(name, f"v{len(names)}") for name in values]
        node.name = "of_" + "_".join(node.output)
        for branch in _branches(node):
            _rename(branch, names)
    for value in (*graph.initializer, *graph.input, *graph.output):
        value.name = names.setdefault(value.name, f"v{len(names)}")
    for value in (*graph.input, *graph.output):
        for length in value.type.tensor_type.shape.dim:
            length.ClearField("dim_param")
    constants = sorted(graph.initializer, key=lambda value: value.name)
    del graph.initializer[:]
    graph.initializer.extend(constants)
    graph.name, graph.doc_string = "graph", ""
    del graph.value_info[:]


def _compared(model: Scorer, twin: Scorer, images: _Images) -> Differences:
    drawn = draw_images(model.metadata.preprocessing.image_size)
    seen = np.concatenate([drawn, images])
    ours, theirs = model.score(seen), twin.score(seen)
    probability = max(
        _largest(ours.probabilities, theirs.probabilities),
        _largest(ours.p_malignant, theirs.p_malignant),
    )
    return Differences(
        golden_images=len(drawn),
        real_images=len(images),
        probability=probability,
        embedding=_relative(ours.embedding, theirs.embedding),
        activation=_of_explanations(model, twin, seen),
    )


def _of_explanations(model: Scorer, twin: Scorer, images: _Images) -> float | None:
    if not model.offers(EXPLAIN_SIGNATURE):
        return None
    return _relative(model.explain(images), twin.explain(images))


def _largest(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    return float(np.abs(ours - theirs).max())


def _relative(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    scale = float(np.abs(ours).max())
    return _largest(ours, theirs) / scale if scale else _largest(ours, theirs)


def _require_equal(found: Differences) -> None:
    relative = max(found.embedding, found.activation or 0.0)
    if not (found.probability <= PROBABILITY_TOLERANCE and relative <= RELATIVE_TOLERANCE):
        raise IntegrityError(f"the twin for ONNX Runtime differs from the SavedModel: {found}")
