"""Many small images through the real scheduler: what each step costs, and what memory it takes.

    .venv/bin/python -m benchmarks.scale IMAGES [STATE]

Writes an archive of IMAGES tiny JPEG files with drawn metadata, ingests it, promotes a model that
was trained on a few drawn lesions, and scores all images as a new prefix, in a stack of its own
whose state is in STATE (default: a temporary folder). The images are of no use for learning; the
seconds are those of everything but the pixels.
"""

import logging
import os
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import psutil
from pydantic import JsonValue

from benchmarks.tiny_archive import write_tiny_archive
from dermascan.commands.trigger import observer, show_outcome
from dermascan.isic.synthetic import write_archive
from dermascan.stack.embedded import EmbeddedStack
from dermascan.stack.layout import StackPaths
from dermascan.stack.runs import RunOutcome
from dermascan.walkthrough import Audience, Session, Walkthrough

PROJECT = Path(__file__).resolve().parents[1]
TRAINING_IMAGES = 600
SAMPLE_SECONDS = 0.5


@dataclass
class Memory:
    """The largest resident size of any process of a kind, sampled while a block runs.

    A worker that Airflow forks shares pages with its parent; they count in full.
    """

    peaks: dict[str, float] = field(default_factory=dict)
    _ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            for process in psutil.Process().children(recursive=True):
                try:
                    name, size = _kind(process), process.memory_info().rss / 1e6
                except psutil.Error:
                    continue  # it ended meanwhile
                self.peaks[name] = max(self.peaks.get(name, 0.0), size)


def _kind(process: psutil.Process) -> str:
    words = " ".join(process.cmdline())
    kinds = {"worker -- ": "a worker", "archive serve": "archive"}
    kinds |= {"scheduler": "scheduler", "weed": "object storage", "mlflow": "MLflow"}
    kinds |= {"api_server": "API server", "dag-processor": "DAG processor"}
    return next((kind for word, kind in kinds.items() if word in words), "others")


@dataclass(frozen=True)
class Measured:
    """A run that ended, and the largest process of each kind meanwhile, MB."""

    outcome: RunOutcome
    peaks: dict[str, float]


def main() -> None:
    images = int(sys.argv[1])
    with _folder(sys.argv[2:]) as state:
        write_tiny_archive(state / "tiny", images)
        write_archive(state / "drawn", TRAINING_IMAGES, seed=1)
        with walkthrough(own_stack(state)).begin() as session:
            runs = _through(session, state)
    print(f"\n{images} images, {os.cpu_count()} cores\n\n{_costs(runs, images)}\n")
    print(_memory(runs))


def own_stack(state: Path) -> EmbeddedStack:
    """Return a stack of the project's DAGs whose state is in a folder of its own."""
    paths = StackPaths(PROJECT, state, PROJECT / "dags", PROJECT / "plugins")
    return EmbeddedStack(paths, tell=print)


def walkthrough(stack: EmbeddedStack) -> Walkthrough:
    """Return a walkthrough of a stack that prints what happens and bears a busy Airflow."""
    return Walkthrough(stack, Audience(observer, show_outcome, print), 300.0)


def _through(session: Session, state: Path) -> list[Measured]:
    def measured(dag_id: str, **params: JsonValue) -> Measured:
        with Memory() as memory:
            outcome = session.trigger(dag_id, params)
        return Measured(outcome, memory.peaks)

    with session.archive(state / "drawn", state / "drawn.log"):
        measured("ingest_isic", dataset="drawn", start_training=False)
    small: dict[str, JsonValue] = {"image_size": "96x128", "epochs": 3, "networks": 1}
    measured("train_model", dataset="drawn", model="scale", **small)
    with session.archive(state / "tiny", state / "tiny.log"):
        twice = [measured("ingest_isic", dataset="tiny", start_training=False) for _ in range(2)]
    scored = measured("batch_inference", prefix="raw/tiny/images/", model="scale/champion")
    return [*twice, scored]


def _costs(runs: list[Measured], images: int) -> str:
    """Return a table: the seconds of workers that each step took, for an image."""
    lines = ["| run | step | tasks | seconds | ms an image |", "|---|---|---|---|---|"]
    for outcome in (run.outcome for run in runs):
        seconds: dict[str, list[float]] = defaultdict(list)
        for task in outcome.tasks:
            seconds[task.task_id].append(task.duration or 0.0)
        each = f"{1000 * outcome.seconds / images:.2f}"
        lines.append(f"| {outcome.dag_id} | the whole run | | {outcome.seconds:.0f} | {each} |")
        lines += [
            f"| | {step} | {len(spent)} | {sum(spent):.0f} | {1000 * sum(spent) / images:.2f} |"
            for step, spent in seconds.items()
        ]
    return "\n".join(lines)


def _memory(runs: list[Measured]) -> str:
    """Return a table of the largest processes."""
    kinds = sorted({kind for run in runs for kind in run.peaks})
    lines = [f"| peak MB | {' | '.join(kinds)} |", "|---|" + "---|" * len(kinds)]
    for run in runs:
        cells = " | ".join(f"{run.peaks.get(kind, 0):.0f}" for kind in kinds)
        lines.append(f"| {run.outcome.dag_id} | {cells} |")
    return "\n".join(lines)


@contextmanager
def _folder(arguments: list[str]) -> Iterator[Path]:
    if arguments:
        yield Path(arguments[0]).resolve()
        return
    with tempfile.TemporaryDirectory(prefix="dermascan-scale-") as name:
        yield Path(name)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("benchmarks").setLevel(logging.INFO)
    main()
