"""Decode the files of a folder one after the other, saying what became of each.

A program of its own, so that a crash of a decoder is seen as one: the last line names the file.

    python -m hostile.examine ours|theirs|mirror FOLDER OUTPUT < names, one a line
"""

import io
import json
import resource
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from dermascan.errors import InputError
from dermascan.imaging import (
    Decoded,
    ImageRefusedError,
    ImageSize,
    Preprocessing,
    decode,
    decode_for,
    prepare_decoded,
)
from dermascan.isic.thumbnail import make_thumbnail
from dermascan.quality import measure
from hostile.specimen import SCORED

INDEPENDENT_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
PREPROCESSING = Preprocessing(ImageSize(96, 128))


@dataclass(frozen=True)
class Examined:
    """What became of one file.

    Attributes:
        name: of the file.
        outcome: `SCORED`, or the reason of the refusal, or `refused` by the archive's mirror.
        detail: of the refusal, or the error of an independent decoder.
        width: of the upright image, 0 without one.
        height: of the upright image, 0 without one.
        cpu_seconds: of processor time.
        peak_mb: most memory that the process held meanwhile, in MB.
        grown_mb: how much of that it did not hold before.
    """

    name: str
    outcome: str
    detail: str
    width: int
    height: int
    cpu_seconds: float
    peak_mb: float
    grown_mb: float


def _ours(path: Path) -> Decoded:
    data = path.read_bytes()
    measure(data, decode(data))
    return decode_for(data, PREPROCESSING)


def _mirror(path: Path) -> Decoded:
    with Image.open(io.BytesIO(make_thumbnail(path))) as image:
        return _whole(np.asarray(image))


def _theirs(path: Path) -> Decoded:
    with Image.open(path) as image:
        return _whole(np.asarray(ImageOps.exif_transpose(image).convert("RGB")))


def _whole(pixels: NDArray[np.uint8]) -> Decoded:
    return Decoded(pixels, *pixels.shape[:2])


def _examined(path: Path, output: Path, read: Callable[[Path], Decoded]) -> Examined:
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before, started = _memory_mb("VmRSS"), _cpu_seconds()
    width = height = 0
    outcome, detail = SCORED, ""
    try:
        decoded = read(path)
        height, width = decoded.height, decoded.width
        np.save(output / path.name, prepare_decoded(decoded, PREPROCESSING))
    except ImageRefusedError as refusal:
        outcome, detail = refusal.reason, refusal.detail
    except InputError as error:
        outcome, detail = "refused", str(error)
    except INDEPENDENT_ERRORS as error:
        if read is not _theirs:
            raise
        outcome, detail = "error", f"{type(error).__name__}: {error}"
    used, peak = _cpu_seconds() - started, _memory_mb("VmHWM")
    return Examined(path.name, outcome, detail, width, height, used, peak, peak - before)


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _memory_mb(field: str) -> float:
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) / 1000


def main() -> None:
    """Examine the files whose names come in."""
    read = {"ours": _ours, "theirs": _theirs, "mirror": _mirror}[sys.argv[1]]
    folder, output = Path(sys.argv[2]), Path(sys.argv[3])
    for line in sys.stdin:
        name = line.rstrip("\n")
        _say({"begun": name})
        _say(asdict(_examined(folder / name, output, read)))


def _say(what: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
