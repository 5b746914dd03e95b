import pickle
import struct
import sys
import types
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from dermascan.errors import IntegrityError, NotFoundError
from dermascan.learning.pretrained import packaged_weights, read_torch_weights

HEADER = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]


class FloatStorage:
    """Stands for the class of this name in torch, which is not installed."""


def _rebuild_tensor_v2():
    """Stands for the function of this name in torch._utils."""


class Tensor:
    def __init__(self, key, count, offset, shape, strides):
        self.arguments = (Reference(key, count), offset, shape, strides, False, OrderedDict())

    def __reduce__(self):
        return _rebuild_tensor_v2, self.arguments


class Reference:
    def __init__(self, key, count):
        self.pid = ("storage", FloatStorage, key, "cpu", count, None)


class LegacyPickler(pickle.Pickler):
    def persistent_id(self, obj):
        return obj.pid if isinstance(obj, Reference) else None


@pytest.fixture
def write_legacy(tmp_path, monkeypatch):
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    torch.FloatStorage, utils._rebuild_tensor_v2 = FloatStorage, _rebuild_tensor_v2
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    monkeypatch.setattr(FloatStorage, "__module__", "torch")
    monkeypatch.setattr(_rebuild_tensor_v2, "__module__", "torch._utils")

    def write(tensors: dict[str, object], storages: dict[str, list[float]]) -> Path:
        path = tmp_path / "weights.pth"
        with path.open("wb") as file:
            for part in (*HEADER, OrderedDict(tensors), list(storages)):
                LegacyPickler(file, protocol=2).dump(part)
            for values in storages.values():
                file.write(struct.pack(f"<q{len(values)}f", len(values), *values))
        return path

    return write


def test_read_torch_weights_when_tensors_share_a_storage_follows_offset_and_strides(write_legacy):
    tensors = {"first": Tensor("7", 6, 0, (2, 3), (1, 2)), "last": Tensor("7", 6, 4, (2,), (1,))}

    found = read_torch_weights(write_legacy(tensors, {"7": [0, 1, 2, 3, 4, 5]}))

    assert found["first"].tolist() == [[0, 2, 4], [1, 3, 5]]
    assert found["last"].tolist() == [4, 5]
    assert found["first"].dtype == np.float32


def test_read_torch_weights_when_a_tensor_reaches_beyond_its_storage_refuses(write_legacy):
    path = write_legacy({"greedy": Tensor("7", 6, 4, (3,), (1,))}, {"7": [0, 1, 2, 3, 4, 5]})

    with pytest.raises(IntegrityError, match=r"weights\.pth"):
        read_torch_weights(path)


def test_read_torch_weights_when_a_storage_is_promised_but_not_listed_refuses(write_legacy):
    path = write_legacy({"lost": Tensor("8", 1, 0, (1,), (1,))}, {"7": [0]})

    with pytest.raises(IntegrityError, match="legacy format"):
        read_torch_weights(path)


@pytest.mark.parametrize("kept", [0, 1, 20, 60, 200, -1])
def test_read_torch_weights_when_cut_short_refuses(write_legacy, kept):
    path = write_legacy({"all": Tensor("7", 6, 0, (6,), (1,))}, {"7": [0, 1, 2, 3, 4, 5]})
    path.write_bytes(path.read_bytes()[:kept])

    with pytest.raises(IntegrityError, match="legacy format"):
        read_torch_weights(path)


def test_read_torch_weights_when_the_pickle_calls_a_function_does_not_call_it(tmp_path):
    class Attack:
        def __reduce__(self):
            return Path.touch, (tmp_path / "harmed",)

    path = tmp_path / "weights.pth"
    path.write_bytes(b"".join(pickle.dumps(part) for part in (*HEADER, {"a": Attack()}, [])))

    with pytest.raises(IntegrityError, match="no place among weights"):
        read_torch_weights(path)

    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("name", ["torch.load", "torch.hub.load", "builtins.eval", "os.system"])
def test_unpickler_when_asked_for_another_global_refuses(tmp_path, name):
    module, _, attribute = name.rpartition(".")
    path = tmp_path / "weights.pth"
    path.write_bytes(f"c{module}\n{attribute}\n.".encode())

    with pytest.raises(IntegrityError, match="no place among weights"):
        read_torch_weights(path)


def test_packaged_weights_when_the_package_is_missing_says_what_to_install():
    with pytest.raises(NotFoundError, match="install efficientnet-lite9-pytorch-model"):
        packaged_weights("efficientnet_lite9")


def test_read_torch_weights_of_the_package_finds_every_tensor_of_lite0():
    tensors = read_torch_weights(packaged_weights("efficientnet_lite0"))

    trained = [v for name, v in tensors.items() if not name.endswith("num_batches_tracked")]
    assert len(tensors) == 296
    assert tensors["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert sum(value.size for value in trained) == 4_694_024
