"""The twin of a SavedModel for ONNX Runtime, which scores without TensorFlow.

It lies beside the SavedModel under `onnx/`: a graph for each signature, and `twin.json`, which
names the training that it belongs to and by how much the two differed when they were compared.
The SavedModel stays the contract: whoever cannot use the twin uses that.
"""

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dermascan.cores import usable_cores
from dermascan.errors import IntegrityError, NotFoundError
from dermascan.fingerprint import sha256_hex
from dermascan.model.golden import require_golden
from dermascan.model.metadata import ModelMetadata, read_metadata
from dermascan.model.scorer import Arrays, Scorer, in_parts
from dermascan.model.signatures import EXPLAIN_SIGNATURE, UINT8_SIGNATURE

if TYPE_CHECKING:
    import onnxruntime

logger = logging.getLogger(__name__)

TWIN_FOLDER, RECORD_FILE = "onnx", "twin.json"
SIGNATURES = (UINT8_SIGNATURE, EXPLAIN_SIGNATURE)
# A core that has one or two images at a time keeps their feature maps in its cache: 32 at a time
# take a fifth longer, and ten times the memory.
IMAGES_AT_ONCE = 2


class Differences(BaseModel):
    """By how much a twin and its SavedModel differed at most.

    Attributes:
        golden_images: how many drawings were compared.
        real_images: how many images of the validation split.
        probability: of a probability or of `p_malignant`.
        embedding: of a number in an embedding, divided by the largest of all.
        activation: likewise; None if the model cannot explain.
    """

    model_config = ConfigDict(frozen=True)

    golden_images: int
    real_images: int
    probability: float
    embedding: float
    activation: float | None = None


class TwinRecord(BaseModel):
    """What `twin.json` says.

    Attributes:
        format: version of this record.
        runtime: what the twin was compared in.
        opset: of the operators that it is written in.
        training: fingerprint of the training whose SavedModel it was made of.
        files: SHA-256 of each graph by signature.
        differences: what the comparison found.
    """

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1
    runtime: str
    opset: int
    training: str
    files: dict[str, str] = Field(min_length=1)
    differences: Differences


class OnnxScorer(Scorer):
    """A twin in ONNX Runtime; made by `load_twin`.

    Images are shared out among as many threads as there are cores, each of which computes a few
    at a time by itself.

    Args:
        metadata: of the model.
        graphs: bytes of the graphs by signature; each is read when it is first used.
    """

    def __init__(self, metadata: ModelMetadata, graphs: dict[str, bytes]) -> None:
        super().__init__(metadata, runtime_name())
        self._graphs = graphs
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}
        self._cores = usable_cores()
        self._threads = ThreadPoolExecutor(self._cores, "scoring-core")

    def offers(self, signature: str) -> bool:
        """Tell whether the model has a signature."""
        return signature in self._graphs

    def _parts(self, signature: str, images: NDArray[np.uint8], batch_size: int) -> list[Arrays]:
        if signature not in self._sessions:
            self._sessions[signature] = _session(self._graphs[signature])
        session = self._sessions[signature]
        names = [output.name for output in session.get_outputs()]

        def computed(part: NDArray[np.uint8]) -> Arrays:
            return dict(zip(names, session.run(names, {"images": part}), strict=True))

        at_once = min(batch_size, IMAGES_AT_ONCE, -(-len(images) // self._cores))
        return list(self._threads.map(computed, in_parts(images, at_once)))


def _session(graph: bytes) -> "onnxruntime.InferenceSession":
    import onnxruntime  # noqa: PLC0415  # only those who score need it

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def runtime_name() -> str:
    """Return name and version of what computes a twin.

    Raises:
        NotFoundError: it is not installed.
    """
    try:
        import onnxruntime  # noqa: PLC0415  # only those who score need it
    except ImportError as error:
        raise NotFoundError(f"ONNX Runtime cannot be imported: {error}") from error
    return f"ONNX Runtime {onnxruntime.__version__}"


def has_twin(folder: Path) -> bool:
    """Tell whether a model's folder holds a twin, be it usable or not."""
    return (folder / TWIN_FOLDER / RECORD_FILE).is_file()


def graph_path(folder: Path, signature: str) -> Path:
    """Return where the graph of a signature lies."""
    return folder / TWIN_FOLDER / f"{signature}.onnx"


def read_record(folder: Path) -> TwinRecord:
    """Read `twin.json`.

    Raises:
        NotFoundError: the model has no twin.
        IntegrityError: the record cannot be read, or is of a later format.
    """
    path = folder / TWIN_FOLDER / RECORD_FILE
    if not path.is_file():
        raise NotFoundError("the model has no twin for ONNX Runtime")
    try:
        return TwinRecord.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise IntegrityError(f"{RECORD_FILE} cannot be read: {error}") from error


def load_twin(folder: Path) -> OnnxScorer:
    """Load the twin of the model in a folder, and let it score the golden images.

    Raises:
        NotFoundError: the model has no twin, or ONNX Runtime is not installed.
        IntegrityError: the twin is damaged, belongs to another training, cannot be run by
            the installed ONNX Runtime, or scores differently here.
    """
    record, metadata = read_record(folder), read_metadata(folder)
    if record.training != metadata.training_fingerprint:
        raise IntegrityError(f"the twin for ONNX Runtime belongs to training {record.training}")
    graphs = {name: _read_graph(folder, name, digest) for name, digest in record.files.items()}
    twin = OnnxScorer(metadata, graphs)
    try:
        require_golden(folder, twin.score, "the twin for ONNX Runtime")
    except IntegrityError:
        raise
    except Exception as error:  # ONNX Runtime's errors have no base class of their own
        raise IntegrityError(f"{twin.runtime} cannot run the twin: {error}") from error
    return twin


def _read_graph(folder: Path, signature: str, digest: str) -> bytes:
    path = graph_path(folder, signature)
    data = path.read_bytes() if path.is_file() else b""
    if sha256_hex(data) != digest:
        raise IntegrityError(f"{TWIN_FOLDER}/{path.name} is not the file that {RECORD_FILE} lists")
    return data
