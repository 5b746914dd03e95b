"""Which heavy packages each task imports: none pays for what it does not use.

`DERMASCAN_IMPORT_SWEEP=all` runs every task from the ingest to the report on predictions, each in
a fresh interpreter, and prints seconds of processor time and memory; without it those of batch
inference are run.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archives import isic_id, row, serving, write_folder
from hostile import encoded, photograph
from reliability.dag_tasks import TASKS, Chain
from reliability.task_runner import Ended, Order, _environment
from reliability.test_crash import GATE

from dermascan.imaging import ImageSize, Preprocessing
from dermascan.learning.network import NetworkSpec, build_network
from dermascan.model.metadata import ModelMetadata
from dermascan.model.savedmodel import export
from dermascan.model.twin_making import write_twin
from dermascan.registry import Decision, promote
from dermascan.settings import StorageSettings
from dermascan.storage import Store
from dermascan.versions import publish_version

PROGRAM = Path(__file__).with_name("fresh_task.py")
INCLUDE = Path(__file__).parents[2] / "include"
ALL = os.environ.get("DERMASCAN_IMPORT_SWEEP") == "all"
TRAINS = {"tensorflow", "keras", "matplotlib"}  # Keras imports the third
MAY_IMPORT = {
    "ingest_isic.validate": {"great_expectations", "matplotlib"},
    "train_model.train": TRAINS | {"onnxruntime"},
    "train_model.evaluate": TRAINS,
    "train_model.gate": TRAINS,
    "train_model.promote": TRAINS | {"onnxruntime"},
    "batch_inference.predict": {"onnxruntime"},
    "batch_inference.summarise": {"matplotlib"},
}
VERSION = 20260101000000
SIZE = ImageSize(32, 48)

pytestmark = pytest.mark.timeout(3600 if ALL else 300)


class FreshRunner:
    """Runs each task in an interpreter of its own, and remembers what it cost."""

    def __init__(self, settings: StorageSettings, archive: str, include: Path, home: Path) -> None:
        assert settings.endpoint_url
        self._include = include
        self._environment = _environment(settings.endpoint_url, settings, archive, home)
        self.imported: dict[str, set[str]] = {}

    def run(self, order: Order) -> Ended:
        name = f"{order.dag}.{order.task}"
        done = subprocess.run(
            [sys.executable, str(PROGRAM)],
            input=json.dumps({**asdict(order), "include": str(self._include)}),
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{name}:\n{done.stderr[-3000:]}"
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        self.imported.setdefault(name, set()).update(answer["imported"])
        cost = f"{answer['seconds']:.1f} s, {answer['megabytes']} MB"
        print(f"{name}: {cost}, {', '.join(answer['imported']) or 'none'}")  # noqa: T201  # shown by -s
        return Ended(False, answer["result"], ())


@pytest.fixture
def runner(store, tmp_path):
    settings = store.settings.model_copy(update={"bucket": store.bucket})
    refused = {f"{isic_id(32)}.jpg": b"\xff\xd8\xff\xe0 cut short"}
    write_folder(tmp_path / "archive", [row(number) for number in range(33)], refused)
    shutil.copytree(INCLUDE, tmp_path / "include")
    (tmp_path / "include" / "gate.yaml").write_text(GATE)
    with serving(tmp_path / "archive") as url:
        yield FreshRunner(settings, url, tmp_path / "include", tmp_path)


def extra(imported: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return what tasks imported beyond what they may."""
    beyond = {task: found - MAY_IMPORT.get(task, set()) for task, found in imported.items()}
    return {task: found for task, found in beyond.items() if found}


def publish_champion(store: Store, folder: Path) -> None:
    spec = NetworkSpec.of("small_cnn")
    metadata = ModelMetadata(
        malignant_classes=("akiec", "bcc", "mel"),
        threshold=0.25,
        preprocessing=Preprocessing(image_size=SIZE),
        dataset_fingerprint="d" * 24,
        training_fingerprint="t" * 24,
        network=spec.as_plain(),
        licences={},
    )
    export([build_network(spec, SIZE)], metadata, folder)
    write_twin(folder, np.zeros((1, SIZE.height, SIZE.width, 3), np.uint8))
    publish_version(store, "dermascan", VERSION, folder)
    promote(store, "dermascan", VERSION, Decision("a test", "needed"))


def test_batch_inference_imports_neither_tensorflow_nor_great_expectations(store, runner, tmp_path):
    publish_champion(store, tmp_path / "model")
    store.put("incoming/one.jpg", encoded(photograph(), "JPEG"))

    (work,) = runner.run(Order("batch_inference", "resolve", {"prefix": "incoming/"})).result
    runner.run(Order("batch_inference", "predict", arguments=(work,)))
    summary = runner.run(Order("batch_inference", "summarise", arguments=([work],))).result

    assert summary["scored"] == 1
    assert extra(runner.imported) == {}
    assert "onnxruntime" in runner.imported["batch_inference.predict"]


if ALL:

    def test_no_task_imports_what_it_does_not_use(store, runner):
        chain = Chain(store, runner, TASKS)

        chain.stage("batch_inference.summarise")

        assert extra(runner.imported) == {}
