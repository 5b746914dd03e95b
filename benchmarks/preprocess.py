"""From the bytes of a file to what the network sees, on one core."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import cv2
import numpy as np

from benchmarks.rounds import Contender, Role, Trial
from benchmarks.workspace import Worker, Workspace, image_files
from dermascan.imaging import Preprocessing

TITLE = "Preprocess: bytes to model input, on one core"
AIM = "within 1.15x of the limit; at least 2.5x the full decode at 1024 pixels"
IMAGES = 64
QUALITY = 90
# Width, height, and how many files of that size one run takes.
SIZES = ((200, 150, 600), (600, 450, 200), (1024, 683, 60), (1024, 768, 60), (6000, 4000, 4))
PROGRAM = Path(__file__).with_name("preprocess_worker.py")
CONTENDERS: Sequence[tuple[str, Role, str]] = (
    ("DermaScan", "ours", "dermascan"),
    ("OpenCV, full decode and resize", "peer", "opencv"),
    ("Pillow, full decode and resize", "peer", "pillow"),
    ("tf.io, full decode and resize", "peer", "tensorflow"),
    ("libjpeg-turbo, scaled decode and resize", "limit", "turbo"),
)


def trials(workspace: Workspace) -> Iterator[Trial]:
    """Compare at each size; files are made from the images at hand."""
    sources = image_files(workspace.folder(IMAGES))
    for width, height, amount in SIZES:
        folder = workspace.scratch / f"{width}x{height}"
        copies = _resized(sources, folder, width, height, amount)
        with _Workers(workspace, folder) as workers:
            contenders = [
                Contender(name, role, workers.start(key, amount).run)
                for name, role, key in CONTENDERS
            ]
            yield Trial(f"{width} x {height}, {copies} files", amount, "images", contenders)


def _resized(sources: list[Path], folder: Path, width: int, height: int, most: int) -> int:
    folder.mkdir()
    for number, source in enumerate(sources[:most]):
        image = cv2.imdecode(np.frombuffer(source.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
        assert image is not None  # noqa: S101  # the archive's own images
        shrinks = image.shape[1] > width
        method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        image = cv2.resize(image, (width, height), interpolation=method)
        data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
        (folder / f"{number:04d}.jpg").write_bytes(data.tobytes())
    return min(most, len(sources))


class _Workers:
    """Programs that wait with their libraries loaded and all files in memory."""

    def __init__(self, workspace: Workspace, folder: Path) -> None:
        self._workspace, self._folder = workspace, folder
        self._started: list[Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._started:
            worker.close()

    def start(self, key: str, amount: int) -> Worker:
        python = str(self._workspace.peers / "python") if key == "turbo" else sys.executable
        size = str(Preprocessing().image_size)
        command = [python, str(PROGRAM), key, str(self._folder), str(amount), size]
        self._started.append(Worker(command, {"TF_CPP_MIN_LOG_LEVEL": "3"}))
        return self._started[-1]
