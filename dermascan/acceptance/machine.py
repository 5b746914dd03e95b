"""What a machine is, without which one it is."""

import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from dermascan.cores import usable_cores

_LINUX_CPU = Path("/proc/cpuinfo")
_LINUX_NVIDIA = Path("/proc/driver/nvidia/gpus")
_GIB = 2**30


@dataclass(frozen=True)
class Machine:
    """What figures of speed depend on.

    Attributes:
        processor: maker and model.
        cores: that this process may use.
        memory_gib: of the machine, rounded.
        gpus: their models.
    """

    processor: str
    cores: int
    memory_gib: int
    gpus: tuple[str, ...]
    python: str
    tensorflow: str

    @classmethod
    def here(cls) -> "Machine":
        """Describe the machine that this runs on."""
        import psutil  # noqa: PLC0415  # only here

        return cls(
            processor=_processor(),
            cores=usable_cores(),
            memory_gib=round(psutil.virtual_memory().total / _GIB),
            gpus=_gpus(),
            python=platform.python_version(),
            tensorflow=version("tensorflow"),
        )

    def __str__(self) -> str:
        gpus = ", ".join(self.gpus) or "no GPU"
        return (
            f"{self.cores} cores of {self.processor}, {self.memory_gib} GiB, {gpus}, "
            f"Python {self.python}, TensorFlow {self.tensorflow}"
        )


def _processor() -> str:
    if not _LINUX_CPU.exists():
        return platform.processor() or platform.machine()
    fields = _fields(_LINUX_CPU.read_text())
    return fields.get("model name") or platform.machine()


def _gpus() -> tuple[str, ...]:
    if not _LINUX_NVIDIA.is_dir():
        return ()
    files = sorted(_LINUX_NVIDIA.glob("*/information"))
    return tuple(_fields(file.read_text()).get("Model", "NVIDIA GPU") for file in files)


def _fields(text: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
