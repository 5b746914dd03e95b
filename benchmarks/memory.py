"""The largest resident size of each task, for more and more images."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.ingest import TASKS_AT_ONCE, served_archive
from benchmarks.tables import Table
from benchmarks.tiny_archive import write_tiny_archive
from benchmarks.workspace import Workspace, object_store
from dermascan.errors import TransientError
from dermascan.isic.catalogue import METADATA_FILE
from dermascan.settings import StorageSettings
from dermascan.stack.airflow import FOR_TASKS

TITLE = "Memory: the largest resident size of each task"
AIM = "within 10 % from 1,000 to 100,000 images; under 1 GiB without TensorFlow"
ORIGIN = "tiny images of random pixels"
SIZES = (1_000, 10_000)
WORKER = "benchmarks.memory_worker"
MEBIBYTE = 1024  # in KiB
NOTE = (
    "MiB of a process that does a task's library calls and nothing else, without Airflow; of a "
    "mapped task, the largest of its shards. Bytes an image: from the fewest images to the most. "
    "Images of 48 x 36 pixels; the model that scores them is the smallest network, on ONNX Runtime."
)

Returned = Any


@dataclass(frozen=True)
class Peak:
    """The largest resident size of any process of a task, KiB."""

    task: str
    kib: int


def tables(workspace: Workspace) -> Iterator[Table]:
    """Walk archives of several sizes through the tasks; `images` asks for one more size."""
    sizes = [size for size in SIZES if size < (workspace.images or SIZES[-1] + 1)]
    sizes += [workspace.images] if workspace.images else []
    found = {size: list(_peaks(workspace, size)) for size in sizes}
    yield peak_table(found)


def peak_table(found: Mapping[int, Sequence[Peak]]) -> Table:
    """Return the peaks by number of images as a table; tasks in the order of the first."""
    by_size = {size: {peak.task: peak.kib for peak in peaks} for size, peaks in found.items()}
    fewest, most = min(by_size), max(by_size)

    def row(task: str) -> tuple[str, ...]:
        peaks = [by_size[size][task] for size in sorted(by_size)]
        each = 1024 * (peaks[-1] - peaks[0]) / max(most - fewest, 1)
        figures = (f"{peak / MEBIBYTE:.0f}" for peak in peaks)
        return (task, *figures, f"{peaks[-1] / peaks[0]:.2f} x", f"{each:.0f}")

    head = ("", *(f"{size:,} images" for size in sorted(by_size)), "growth", "bytes an image")
    return Table("Peak by task, MiB", head, tuple(map(row, by_size[fewest])), NOTE)


def _peaks(workspace: Workspace, images: int) -> Iterator[Peak]:
    folder = workspace.cache / f"tiny-{images}"
    if not (folder / METADATA_FILE).exists():
        workspace.tell(f"writing {images:,} tiny images")
        write_tiny_archive(folder, images)
    scratch = workspace.scratch / f"memory-{images}"
    scratch.mkdir()
    with (
        object_store(scratch / "store") as store,
        served_archive(scratch, folder, latency_ms=0) as url,
    ):
        walk = _Walk(workspace, store.settings, url, images)
        yield from walk.ingest()
        yield from walk.examples()
        yield from walk.inference()


class _Walk:
    """Runs tasks in the order of their DAGs, each in a process of its own."""

    def __init__(
        self, workspace: Workspace, storage: StorageSettings, archive: str, images: int
    ) -> None:
        self._tell, self._images, self._archive = workspace.tell, images, archive
        secret = storage.secret_access_key
        self._storage = {
            **storage.model_dump(mode="json"),
            "secret_access_key": secret.get_secret_value() if secret else None,
        }
        self._pointer: Returned = None

    def ingest(self) -> Iterator[Peak]:
        planned, peak = self._run("plan")
        yield peak
        yield self._run_mapped("download", planned)
        yield self._run_mapped("upload", planned)
        self._pointer, peak = self._run("publish_manifest", **planned[0])
        yield peak
        yield self._run("validate", pointer=self._pointer)[1]

    def examples(self) -> Iterator[Peak]:
        shards, peak = self._run("split", pointer=self._pointer)
        yield peak
        yield self._run_mapped("preprocess", shards)

    def inference(self) -> Iterator[Peak]:
        model, _ = self._run("publish_model")
        resolved, peak = self._run("resolve", model=model)
        yield peak
        yield self._run_mapped("predict", resolved)
        yield self._run("summarise", **resolved[0])[1]

    def _run_mapped(self, task: str, works: Sequence[Mapping[str, Any]]) -> Peak:
        with ThreadPoolExecutor(TASKS_AT_ONCE) as pool:
            peaks = list(pool.map(lambda work: self._run(task, **work)[1].kib, works))
        return Peak(task, max(peaks))

    def _run(self, task: str, **work: Any) -> tuple[Returned, Peak]:
        started = time.perf_counter()
        order = {**work, "task": task, "archive": self._archive, "storage": self._storage}
        done = subprocess.run(  # noqa: S603  # the benchmark's own program
            [sys.executable, "-m", WORKER],
            input=json.dumps(order),
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **FOR_TASKS},
            cwd=Path(__file__).resolve().parents[1],
        )
        if done.returncode:
            raise TransientError(f"{task} failed ({done.returncode}): {done.stderr[-2000:]}")
        answer = json.loads(done.stdout)
        peak, seconds = Peak(task, answer["peak_kib"]), time.perf_counter() - started
        shard = f" {work['shard']}" if "shard" in work else ""
        what = f"{self._images:,} images, {task}{shard}"
        self._tell(f"{what}: {peak.kib / MEBIBYTE:.0f} MiB, {seconds:.1f} s")
        return answer["returned"], peak
