"""Which of several hosts this process is, as `TF_CONFIG` says; read without TensorFlow."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, Field, NonNegativeInt, ValidationError

from dermascan.errors import InputError

VARIABLE = "TF_CONFIG"


@dataclass(frozen=True)
class Share:
    """Every `of`-th item from number `index` on: what one of several takes of a sequence."""

    index: int = 0
    of: int = 1

    @property
    def is_first(self) -> bool:
        """Tell whether this is the share of the first, who also writes what all have made."""
        return self.index == 0

    def places(self, whole: int) -> range:
        """Return the positions of the share in a sequence of `whole` items."""
        return range(self.index, whole, self.of)

    def part(self, index: int, of: int) -> "Share":
        """Return the share that one of several has of this share."""
        return Share(self.index + index * self.of, self.of * of)


class _Cluster(BaseModel):
    chief: tuple[str, ...] = Field(default=(), max_length=1)
    worker: tuple[str, ...] = ()


class _Task(BaseModel):
    type: Literal["chief", "worker"]
    index: NonNegativeInt


class _TfConfig(BaseModel):
    cluster: _Cluster = _Cluster()
    task: _Task | None = None


def share_of_host(environment: Mapping[str, str] = os.environ) -> Share:
    """Return this host's share of the work, all of it unless `TF_CONFIG` names other hosts.

    The chief is first, or the first worker where no chief is named.

    Raises:
        InputError: `TF_CONFIG` is not understood, or names a task that has no part in training.
    """
    text = environment.get(VARIABLE)
    if not text:
        return Share()
    try:
        config = _TfConfig.model_validate_json(text)
    except ValidationError as error:
        raise InputError(f"{VARIABLE} is not that of a host that trains: {error}") from error
    hosts = [
        *(("chief", index) for index in range(len(config.cluster.chief))),
        *(("worker", index) for index in range(len(config.cluster.worker))),
    ]
    if len(hosts) < 2:
        return Share()
    return Share(_rank(config.task, hosts), len(hosts))


def _rank(task: _Task | None, hosts: Sequence[tuple[str, int]]) -> int:
    named = (task.type, task.index) if task else None
    if named not in hosts:
        message = f"the task of {VARIABLE} is {named}, which is none of its {len(hosts)} hosts"
        raise InputError(message)
    return hosts.index(named)
