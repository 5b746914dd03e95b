"""What an exported model costs: bytes to ship, milliseconds to run."""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dermascan.cores import usable_cores
from dermascan.evaluation.schema import Efficiency
from dermascan.imaging import ImageSize
from dermascan.model.savedmodel import SCORING_BATCH, Scores

_WARM_UP = 2
_MEASUREMENTS = 9
_MILLISECONDS = 1000


class _Scorer(Protocol):
    def score(self, images: NDArray[np.uint8]) -> Scores: ...


def measure_efficiency(
    scorer: _Scorer,
    folder: Path,
    image_size: ImageSize,
    clock: Callable[[], float] = time.perf_counter,
) -> Efficiency:
    """Measure size and speed of an exported model on this machine.

    Args:
        scorer: the loaded model.
        folder: where it was exported; everything in it counts.
        image_size: height and width in pixels of what the model takes.
        clock: seconds; replaced in tests.

    Returns:
        Medians of nine measurements after two that do not count, since the first batches of a
        kind are slower. They depend on the machine and on what else runs there.
    """
    shape = (SCORING_BATCH, image_size.height, image_size.width, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return Efficiency(
        bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        milliseconds_per_image=_milliseconds(scorer, images, clock),
        milliseconds_single=_milliseconds(scorer, images[:1], clock),
        cores=usable_cores(),
    )


def _milliseconds(scorer: _Scorer, images: NDArray[np.uint8], clock: Callable[[], float]) -> float:
    """Return the median time for one image of a batch."""
    seconds = []
    for _ in range(_WARM_UP + _MEASUREMENTS):
        started = clock()
        scorer.score(images)
        seconds.append(clock() - started)
    return round(_MILLISECONDS * median(seconds[_WARM_UP:]) / len(images), 3)
