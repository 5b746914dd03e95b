"""The state of a training in object storage, so that a killed one goes on where it was."""

import logging
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from dermascan.fingerprint import Plain
from dermascan.storage import Store

logger = logging.getLogger(__name__)

Arrays = list[NDArray[np.generic]]

_KEPT = 2
_EPOCH_IN_KEY = re.compile(r"/epoch-(\d{4,})\.npz$")


@dataclass(frozen=True)
class TrainingState:
    """Everything that the next epoch depends on, besides the configuration.

    Attributes:
        network: all variables of the network, random generators included.
        optimizer: all variables of the optimizer.
        average: running averages of the trainable variables, which are what is scored.
    """

    network: Arrays
    optimizer: Arrays
    average: Arrays


class Checkpoints:
    """The checkpoints of one training.

    After every epoch a file is written, and only when it is complete the pointer
    `latest.json` moves to it. Kept are the last two epochs and the best one.

    Args:
        store: the bucket.
        prefix: ends with "/".
        owner: names the training; checkpoints of another are not taken up.
    """

    def __init__(self, store: Store, prefix: str, owner: str) -> None:
        self._store, self._prefix, self._owner = store, prefix, owner
        self._pointer = f"{prefix}latest.json"

    def latest(self) -> tuple[int, dict[str, Plain]] | None:
        """Return the last complete epoch and what was noted with it, None at the beginning."""
        value, _ = self._store.read_pointer(self._pointer)
        if value is None:
            return None
        if value["owner"] != self._owner:
            logger.warning("%s belongs to another training, starting anew", self._pointer)
            return None
        return cast("int", value["epoch"]), cast("dict[str, Plain]", value["notes"])

    def load(self, epoch: int) -> TrainingState:
        """Return the state at the end of an epoch."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "checkpoint.npz"
            self._store.get_file(self._key(epoch), path)
            with np.load(path) as arrays:
                return TrainingState(
                    **{part: _unpack(arrays, part) for part in TrainingState.__annotations__}
                )

    def save(self, epoch: int, state: TrainingState, notes: Mapping[str, Plain], best: int) -> None:
        """Write a checkpoint, move the pointer to it, and delete what is no longer needed.

        Args:
            epoch: the epoch that has just ended; 0 before the first.
            state: at its end.
            notes: come back from `latest`.
            best: the best epoch so far, which is kept.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "checkpoint.npz"
            np.savez(path, allow_pickle=False, **_pack(state))
            self._store.put_file(self._key(epoch), path)
        pointer: Plain = {"owner": self._owner, "epoch": epoch, "notes": notes}
        self._store.put_json(self._pointer, pointer)
        self._forget({best, *range(epoch - _KEPT + 1, epoch + 1)})

    def _forget(self, kept: set[int]) -> None:
        keys = [found.key for found in self._store.list(self._prefix)]
        epochs = {key: int(m.group(1)) for key in keys if (m := _EPOCH_IN_KEY.search(key))}
        old = [key for key, epoch in epochs.items() if epoch not in kept]
        if old:
            self._store.delete(old)

    def _key(self, epoch: int) -> str:
        return f"{self._prefix}epoch-{epoch:04d}.npz"


def _pack(state: TrainingState) -> dict[str, NDArray[np.generic]]:
    parts = {"network": state.network, "optimizer": state.optimizer, "average": state.average}
    return {
        f"{part}-{index:05d}": array
        for part, arrays in parts.items()
        for index, array in enumerate(arrays)
    }


def _unpack(arrays: Mapping[str, NDArray[np.generic]], part: str) -> Arrays:
    return [arrays[name] for name in sorted(arrays) if name.startswith(f"{part}-")]
