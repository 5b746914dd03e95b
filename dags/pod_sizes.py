"""How large a pod each kind of task asks for, where every task has a pod of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow.configuration import conf

GPU = "nvidia.com/gpu"
# Of the node's disk, asked for and at most; a task unpacks a shard or a split of records at a time.
SCRATCH, SCRATCH_LIMIT = {"ephemeral-storage": "2Gi"}, {"ephemeral-storage": "20Gi"}


@dataclass(frozen=True)
class PodSize:
    """What a pod is given, requested and limited alike.

    Attributes:
        cpus: cores, in Kubernetes' notation.
        memory: bytes, in Kubernetes' notation.
        gpus: whole GPUs; "0" for none.
        image: to run in place of the pod template's; empty for that one.
    """

    cpus: str
    memory: str
    gpus: str = "0"
    image: str = ""


def worker_size(environment: Mapping[str, str] = os.environ) -> PodSize:
    """Return the size for tasks that decode or score images, from `DERMASCAN_WORKER_*`."""
    return PodSize(
        cpus=environment.get("DERMASCAN_WORKER_CPUS", "2"),
        memory=environment.get("DERMASCAN_WORKER_MEMORY", "4Gi"),
    )


def training_size(environment: Mapping[str, str] = os.environ) -> PodSize:
    """Return the size for trainings, from `DERMASCAN_TRAIN_*`."""
    return PodSize(
        cpus=environment.get("DERMASCAN_TRAIN_CPUS", "4"),
        memory=environment.get("DERMASCAN_TRAIN_MEMORY", "8Gi"),
        gpus=environment.get("DERMASCAN_TRAIN_GPUS", "0"),
        image=environment.get("DERMASCAN_TRAIN_IMAGE", ""),
    )


def pod(size: PodSize) -> dict[str, Any]:
    """Return a task's `executor_config`; empty unless tasks run as pods.

    Args:
        size: of the pod. Those with a GPU are also let onto nodes that are kept for GPUs.
    """
    if "KubernetesExecutor" not in conf.get("core", "executor"):
        return {}
    from kubernetes.client import models  # noqa: PLC0415  # parsing pays for it with pods alone

    amounts = {"cpu": size.cpus, "memory": size.memory}
    if size.gpus != "0":
        amounts[GPU] = size.gpus
    container = models.V1Container(
        name="base",
        image=size.image or None,
        # All of them, since they replace those of the pod template.
        resources=models.V1ResourceRequirements(
            requests=amounts | SCRATCH, limits=amounts | SCRATCH_LIMIT
        ),
    )
    tolerations = [models.V1Toleration(key=GPU, operator="Exists", effect="NoSchedule")]
    spec = models.V1PodSpec(
        containers=[container], tolerations=tolerations if size.gpus != "0" else None
    )
    return {"pod_override": models.V1Pod(spec=spec)}
