"""The tasks of all DAGs in the order in which one run after the other would come to them."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from reliability.objects import Snapshot, go_back, take
from reliability.task_runner import Ended, Order, TaskRunner

from dermascan.fingerprint import sha256_hex
from dermascan.incoming import IncomingWatcher
from dermascan.layout import IncomingKeys
from dermascan.registry import (
    Decision,
    claim_version,
    fetch_version,
    promote,
    publish_version,
    require_champion,
)
from dermascan.storage import Store

MODEL, OTHER_MODEL = "dermascan", "other"
PARAMS: dict[str, dict[str, Any]] = {
    "ingest_isic": {"dataset": "drawn"},
    "train_model": {
        "dataset": "drawn",
        "image_size": "32x48",
        "architecture": "small_cnn",
        "networks": 1,
        "epochs": 2,
        "batch_size": 8,
    },
    "batch_inference": {"prefix": "incoming/"},
    "rollback_model": {"to_version": "previous"},
    "watch_incoming": {},
}


@dataclass(frozen=True)
class DagTask:
    """A task, and what it is called with.

    Attributes:
        dag, task: its names in Airflow.
        takes: the task whose result is its argument, None for none.
        mapped: it runs once for each item of that result; the first is swept, after the others.
        prepare: something done to the bucket before it, such as images that arrive.
        case: names a further run of the same DAG from another state, empty for the first.
        params: of that run.
    """

    dag: str
    task: str
    takes: str | None = None
    mapped: bool = False
    prepare: Callable[[Store], None] | None = None
    case: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.dag}.{self.task}{self.case}"

    @property
    def sources(self) -> tuple[str, str]:
        """The stages whose result may be the argument: of the same case, else of the first."""
        return f"{self.dag}.{self.takes}{self.case}", f"{self.dag}.{self.takes}"


@dataclass(frozen=True)
class Stage:
    """A task that is about to run: what with, from which state, and to which it leads."""

    order: Order
    before: Snapshot
    after: Snapshot
    undisturbed: Ended


class Chain:
    """Runs the tasks undisturbed, as far as they are asked for, and keeps the states between."""

    def __init__(self, store: Store, runner: TaskRunner, tasks: tuple[DagTask, ...]) -> None:
        self.store, self.runner, self._tasks = store, runner, tasks
        self._stages: dict[str, Stage] = {}
        self._results: dict[str, Any] = {}
        self._digests: dict[str, dict[str, str]] = {}
        self._state = take(store)

    def stage(self, name: str) -> Stage:
        """Return the stage of a task, named `dag.task`."""
        for task in self._tasks[len(self._stages) :]:
            if name in self._stages:
                break
            self._advance(task)
        return self._stages[name]

    def digest(self, files: Mapping[str, bytes]) -> dict[str, str]:
        """Say what a SavedModel is, see `task_worker.digest`; once for equal files."""
        name = sha256_hex(b"".join(files[file] for file in sorted(files)))
        if name not in self._digests:
            with tempfile.TemporaryDirectory() as folder:
                for file, body in files.items():
                    path = Path(folder) / file
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(body)
                self._digests[name] = self.runner.digest(Path(folder))
        return self._digests[name]

    def _advance(self, task: DagTask) -> None:

        go_back(self.store, self._state)
        if task.prepare:
            task.prepare(self.store)
        given = next((self._results[s] for s in task.sources if s in self._results), None)
        arguments = [(item,) for item in given] if task.mapped else [(given,)][: bool(task.takes)]
        orders = [self._order(task, a) for a in arguments or [()]]
        others = [self.runner.run(order).result for order in orders[1:]]
        before = take(self.store)
        ended = self.runner.run(orders[0])
        self._state = take(self.store)
        self._results[task.name] = [ended.result, *others] if task.mapped else ended.result
        self._stages[task.name] = Stage(orders[0], before, self._state, ended)

    @staticmethod
    def _order(task: DagTask, arguments: tuple[Any, ...]) -> Order:
        return Order(task.dag, task.task, {**PARAMS[task.dag], **task.params}, arguments)


def images_arrive(store: Store) -> None:
    """Put a few stored originals, and something that is no image, where they are to be scored."""
    originals = [found.key for found in store.list("raw/drawn/images/")][:3]
    for key in originals:
        store.put(f"incoming/{Path(key).name}", store.get(key))
    store.put("incoming/no-image.jpg", b"not an image")


def folder_arrives(store: Store) -> None:
    """Let a watcher see and claim a folder that is marked complete."""
    store.put("incoming/folder/no-image.jpg", b"not an image")
    store.put(IncomingKeys.ready("incoming/folder/"), b"")
    IncomingWatcher(quiet_seconds=60).poll(store)


def another_champion(store: Store) -> None:
    """Make a later version of the champion's files champion, by hand."""
    copy_champion(store, MODEL, datetime(2026, 1, 2, tzinfo=UTC))


def champion_of_another_name(store: Store) -> None:
    """Make an earlier version, of the champion's files, champion of the other name, by hand."""
    copy_champion(store, OTHER_MODEL, datetime(2025, 12, 31, tzinfo=UTC))


def copy_champion(store: Store, model: str, now: datetime) -> None:
    first = require_champion(store, MODEL).version
    version = claim_version(store, model, "by hand", now)
    with tempfile.TemporaryDirectory() as folder:
        fetch_version(store, MODEL, first, Path(folder))
        publish_version(store, model, version, Path(folder))
    promote(store, model, version, Decision("somebody", "by hand"))


DOWNLOAD, UPLOAD = "shard.download_from_isic", "shard.upload_to_s3"
AGAIN = " onto an older dataset"
AGAINST = " against a champion"
FEWER: dict[str, Any] = {"limit": 20}
OTHER = {"model": OTHER_MODEL}

TASKS = (
    DagTask("ingest_isic", "plan"),
    DagTask("ingest_isic", DOWNLOAD, takes="plan", mapped=True),
    DagTask("ingest_isic", UPLOAD, takes=DOWNLOAD, mapped=True),
    DagTask("ingest_isic", "publish_manifest", takes="plan"),
    DagTask("ingest_isic", "validate", takes="publish_manifest"),
    DagTask("train_model", "split"),
    DagTask("train_model", "preprocess", takes="split", mapped=True),
    DagTask("train_model", "train", takes="split"),
    DagTask("train_model", "evaluate", takes="train"),
    DagTask("train_model", "gate", takes="evaluate"),
    DagTask("train_model", "decide"),
    DagTask("train_model", "promote", takes="gate"),
    DagTask("batch_inference", "resolve", prepare=images_arrive),
    DagTask("batch_inference", "predict", takes="resolve", mapped=True),
    DagTask("batch_inference", "summarise", takes="resolve"),
    DagTask("watch_incoming", "find", prepare=folder_arrives),
    DagTask("watch_incoming", "acknowledge", takes="find"),
    DagTask("rollback_model", "decide"),
    DagTask("rollback_model", "offer", prepare=another_champion),
    DagTask("rollback_model", "rollback"),
    DagTask(
        "train_model",
        "gate",
        takes="evaluate",
        prepare=champion_of_another_name,
        case=AGAINST,
        params=OTHER,
    ),
    DagTask("train_model", "promote", takes="gate", case=AGAINST, params=OTHER),
    DagTask("ingest_isic", "plan", case=AGAIN, params=FEWER),
    DagTask("ingest_isic", DOWNLOAD, takes="plan", mapped=True, case=AGAIN, params=FEWER),
    DagTask("ingest_isic", UPLOAD, takes=DOWNLOAD, mapped=True, case=AGAIN, params=FEWER),
    DagTask("ingest_isic", "publish_manifest", takes="plan", case=AGAIN, params=FEWER),
)
