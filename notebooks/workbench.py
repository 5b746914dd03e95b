"""What the notebooks stand on: object storage with one validated dataset in it."""

import atexit
import csv
import fcntl
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa

from dermascan.assessment.measurement import AssessmentPlan
from dermascan.dataset import DatasetPointer, read_manifest, read_pointer
from dermascan.errors import InputError, NotFoundError
from dermascan.example_set import ExampleSet, preprocess, split
from dermascan.imaging import ImageSize, Preprocessing
from dermascan.ingest.downloading import download
from dermascan.ingest.planning import IngestRequest, plan
from dermascan.ingest.publishing import publish_manifest
from dermascan.ingest.uploading import upload
from dermascan.isic.archive import serve
from dermascan.isic.client import IsicClient
from dermascan.isic.synthetic import write_archive
from dermascan.learning.augmentation import Augmentation
from dermascan.learning.training import TrainingConfig
from dermascan.splits import NUMBERED, hash_numbers, trainable
from dermascan.stack import object_store
from dermascan.stack.credentials import load_or_create
from dermascan.stack.embedded import EmbeddedStack
from dermascan.stack.layout import StackPaths, find_project
from dermascan.stack.ports import Ports, any_free, save, with_internal_ports
from dermascan.storage import Store
from dermascan.validation import validate

if TYPE_CHECKING:
    import numpy as np
    from IPython.display import SVG
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

PROJECT = Path(__file__).resolve().parents[1]
SUITES = PROJECT / "include" / "expectations"
GATE = PROJECT / "include" / "gate.yaml"
STATE_VARIABLE = "DERMASCAN_NOTEBOOKS_STATE"
DRAWN, STACK = "drawn", "stack"
DRAWN_IMAGES, SEED = 240, 1
SIZE = ImageSize(64, 96)
TRIAL_PLAN = AssessmentPlan(network_passes=2000, least_corrupted=20)
START_SECONDS = 60.0
CHART_WIDTH = 460
# Runs a program until the notebook is gone, however that ended.
GUARD = """
import subprocess, sys
server = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
sys.stdin.read()
server.terminate()
try:
    server.wait(2)
except subprocess.TimeoutExpired:
    server.kill()
"""

# The charts of the reports take their colours from the page; a notebook has none to give.
COLOURS = {
    "ink": "#15202c",
    "muted": "#56657a",
    "line": "#dbe1e9",
    "malignant": "#bf4514",
    "benign": "#1f5fa8",
    "surface": "#ffffff",
    "series-1": "#1f5fa8",
    "series-2": "#bf4514",
    "series-3": "#1b7048",
    "series-4": "#8a3f9e",
    "series-5": "#8a6a00",
    "series-6": "#0f7a8a",
    "series-7": "#a8326b",
    "series-8": "#56657a",
}


@dataclass(frozen=True)
class Bench:
    """An object storage, and the name of a validated dataset in it."""

    store: Store
    dataset: str

    @property
    def pointer(self) -> DatasetPointer:
        """Return what the dataset's `current.json` says."""
        return read_pointer(self.store, self.dataset)

    def manifest(self) -> pd.DataFrame:
        """Return the manifest, one row an image."""
        return read_manifest(self.store, self.pointer)

    def examples(self, preprocessing: Preprocessing) -> ExampleSet:
        """Deal the images to splits and preprocess them; what was done is not done again."""
        examples = split(self.store, self.dataset, preprocessing, SUITES)
        for shard in range(len(examples.shards)):
            preprocess(self.store, examples, shard)
        return examples


def open_bench(source: str = DRAWN, dataset: str = "notebooks") -> Bench:
    """Open the data that a notebook is to look at.

    Args:
        source: `drawn` draws a small archive; `stack` reads from the running stack; anything
            else is a folder as the official ISIC client writes it, `metadata.csv` beside images.
        dataset: name of the dataset; with `stack`, of one that `ingest_isic` published.

    Raises:
        DermaScanError: there is no such folder, stack or dataset, or its data are not fit.
    """
    logging.basicConfig(level=logging.WARNING)  # else TensorFlow speaks of its files in the cells
    if source == STACK:
        stack = EmbeddedStack(StackPaths.of_project(find_project(PROJECT)))
        stack.require_running()
        return _published(Bench(Store(stack.storage_settings()), dataset))
    state = _state_folder()
    bench = Bench(_own_store(state / "store"), dataset)
    folder = Path(source)
    with suppress(NotFoundError):
        return _published(bench)
    if source == DRAWN:
        folder = state / "archive"
        draw_archive(folder)
    _ingest(bench, folder)
    return bench


def _published(bench: Bench) -> Bench:
    """Return the bench if there is such a dataset.

    Raises:
        NotFoundError: there is none.
    """
    read_pointer(bench.store, bench.dataset)
    return bench


def draw_archive(folder: Path) -> None:
    """Draw lesions, and add what real archives hold too: a copy, a smaller copy, a broken file.

    The copies name no lesion, as if a second clinic had sent them in.
    """
    write_archive(folder, DRAWN_IMAGES, SEED)
    with (folder / "metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    files = {
        "ISIC_9900001": (rows[0], (folder / f"{rows[0]['isic_id']}.jpg").read_bytes()),
        "ISIC_9900002": (rows[1], _smaller(folder / f"{rows[1]['isic_id']}.jpg")),
        "ISIC_9900003": (rows[2], (folder / f"{rows[2]['isic_id']}.jpg").read_bytes()[:2000]),
    }
    with (folder / "metadata.csv").open("a", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        for isic_id, (row, data) in files.items():
            (folder / f"{isic_id}.jpg").write_bytes(data)
            writer.writerow({**row, "isic_id": isic_id, "lesion_id": "", "patient_id": ""})


def _smaller(path: Path) -> bytes:
    image = cv2.resize(cv2.imread(str(path)), None, fx=0.8, fy=0.8, interpolation=cv2.INTER_AREA)
    return bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 70])[1])


def _state_folder() -> Path:
    """Return a folder that goes when the notebook ends, or the one that the environment names."""
    kept = os.environ.get(STATE_VARIABLE)
    if not kept:
        temporary = tempfile.TemporaryDirectory(prefix="dermascan-notebook-")
        atexit.register(temporary.cleanup)
        return Path(temporary.name)
    folder = Path(kept)
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(f"another notebook is at work in {folder}: end its kernel") from error
    atexit.register(lock.close)
    return folder


def _own_store(state: Path) -> Store:
    """Start the S3 server that comes with the library, for as long as the notebook runs."""
    paths = StackPaths(PROJECT, state, PROJECT / "dags", PROJECT / "plugins")
    paths.create()
    ports = with_internal_ports(Ports(s3=any_free()))
    save(paths.ports, ports)
    keys = load_or_create(paths)
    launch = object_store.launch(paths, ports.object_store, keys, os.environ)
    with (paths.logs / "s3.log").open("ab") as log:
        guard = subprocess.Popen(  # noqa: S603  # the command is built by the library
            [sys.executable, "-c", GUARD, *launch.command],
            env=launch.environment,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    atexit.register(guard.communicate)
    settings = EmbeddedStack(paths).storage_settings()
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            Store(settings.impatient()).ensure_bucket()
        except Exception:
            if time.monotonic() > deadline or guard.poll() is not None:
                raise
            time.sleep(0.2)
        else:
            return Store(settings)


def _ingest(bench: Bench, folder: Path) -> None:
    """Take a folder in by the steps of `ingest_isic`, one after the other."""
    port = any_free()
    server = threading.Thread(target=serve, args=(folder,), kwargs={"port": port}, daemon=True)
    server.start()
    with IsicClient(f"http://{object_store.LOOPBACK}:{port}") as archive:
        planned = plan(bench.store, archive, IngestRequest(bench.dataset))
        for shard in range(planned.shards):
            download(bench.store, archive, planned, shard)
            upload(bench.store, planned, shard)
        pointer = publish_manifest(bench.store, archive, planned)
    validate(bench.store, pointer, SUITES).require()


def trainable_rows(manifest: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a manifest that can train or test."""
    asked = pa.Table.from_pandas(manifest[["lesion_class", "image_type"]], preserve_index=False)
    return manifest[trainable(asked).to_numpy()].reset_index(drop=True)


def numbered(images: pd.DataFrame) -> pd.DataFrame:
    """Return images with numbers in place of what ties them together, for `dermascan.splits`."""
    numbers = {name: pd.factorize(images[name])[0].astype(np.int32) for name in NUMBERED}
    return images.assign(**numbers, perceptual_hash=hash_numbers(images["perceptual_hash"]))


def trial(*, augmented: bool = True) -> TrainingConfig:
    """Return settings that take a minute on two cores, with or without augmentation."""
    changes = Augmentation() if augmented else None
    return TrainingConfig(members=1, epochs=8, warm_start_epochs=10, augmentation=changes)


def svg(chart: str) -> "SVG":
    """Show a chart of `dermascan.figures`, which brings no colours of its own."""
    from IPython.display import SVG  # noqa: PLC0415  # only in a notebook

    for name, colour in COLOURS.items():
        chart = chart.replace(f"var(--{name})", colour)
    paper = f'<svg width="{CHART_WIDTH}" style="background: {COLOURS["surface"]}" '
    return SVG(chart.replace("<svg ", paper, 1))


def sheet(
    images: "Sequence[NDArray[np.uint8]]", titles: Sequence[str], columns: int = 6
) -> "Figure":
    """Lay images, uint8 (height, width, 3) RGB, out in rows, each under its title."""
    import matplotlib.pyplot as plt  # noqa: PLC0415  # slow

    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(1.8 * columns, 1.6 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, title in zip(axes.flat, images, titles, strict=False):
        axis.imshow(image)
        axis.set_title(title, fontsize=9)
    return figure
