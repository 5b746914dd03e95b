"""The library's work of one task, in a process of its own; see `benchmarks.memory`.

Reads an order from standard input as JSON, does as the task of that name does, and prints what the
task would return with the largest resident size that the process had. Modules are imported as late
as tasks import them.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dermascan.storage import Store

SUITES = Path(__file__).resolve().parents[1] / "include" / "expectations"
DATASET = MODEL = "memory"
IMAGE_SIZE = "36x48"
REFERENCE_IMAGES = 256
STATUS = Path("/proc/self/status")

Order = Mapping[str, Any]


def main() -> None:
    """Do the work and answer."""
    order = json.load(sys.stdin)
    returned = TASKS[order["task"]](_store(order), order)
    json.dump({"returned": returned, "peak_kib": peak_kib()}, sys.stdout)


def peak_kib() -> int:
    """Return the largest resident size of this process, KiB.

    `getrusage` would also count what the process was before it began this program.
    """
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1])


def _store(order: Order) -> "Store":
    from dermascan.settings import StorageSettings  # noqa: PLC0415  # as tasks do
    from dermascan.storage import Store  # noqa: PLC0415  # likewise

    return Store(StorageSettings.model_validate(order["storage"]))


def plan(store: "Store", order: Order) -> list[Any]:
    from dermascan.ingest.planning import IngestRequest, plan  # noqa: PLC0415  # likewise
    from dermascan.isic.client import IsicClient  # noqa: PLC0415  # likewise

    with IsicClient(order["archive"]) as client:
        planned = plan(store, client, IngestRequest(DATASET))
    return [{"plan": asdict(planned), "shard": shard} for shard in range(planned.shards)]


def download(store: "Store", order: Order) -> None:
    from dermascan.ingest.downloading import download  # noqa: PLC0415  # likewise
    from dermascan.ingest.staging import IngestPlan  # noqa: PLC0415  # likewise
    from dermascan.isic.client import IsicClient  # noqa: PLC0415  # likewise

    with IsicClient(order["archive"]) as client:
        download(store, client, IngestPlan(**order["plan"]), order["shard"])


def upload(store: "Store", order: Order) -> None:
    from dermascan.ingest.staging import IngestPlan  # noqa: PLC0415  # likewise
    from dermascan.ingest.uploading import upload  # noqa: PLC0415  # likewise

    upload(store, IngestPlan(**order["plan"]), order["shard"])


def publish_manifest(store: "Store", order: Order) -> dict[str, Any]:
    from dermascan.ingest.publishing import publish_manifest  # noqa: PLC0415  # likewise
    from dermascan.ingest.staging import IngestPlan  # noqa: PLC0415  # likewise
    from dermascan.isic.client import IsicClient  # noqa: PLC0415  # likewise

    with IsicClient(order["archive"]) as client:
        return asdict(publish_manifest(store, client, IngestPlan(**order["plan"])))


def validate(store: "Store", order: Order) -> None:
    from dermascan.dataset import DatasetPointer  # noqa: PLC0415  # likewise
    from dermascan.validation import validate  # noqa: PLC0415  # likewise

    validate(store, DatasetPointer(**order["pointer"]), SUITES).require()


def split(store: "Store", order: Order) -> list[Any]:
    from dermascan.example_set import split  # noqa: PLC0415  # likewise
    from dermascan.imaging import ImageSize, Preprocessing  # noqa: PLC0415  # likewise

    preprocessing = Preprocessing(ImageSize.parse(IMAGE_SIZE))
    examples = split(store, order["pointer"]["dataset"], preprocessing, SUITES)
    reference = {"dataset": examples.dataset, "name": examples.fingerprint}
    return [{"examples": reference, "shard": shard} for shard in range(len(examples.shards))]


def preprocess(store: "Store", order: Order) -> None:
    from dermascan.example_set import ExampleSet, preprocess  # noqa: PLC0415  # likewise

    preprocess(store, ExampleSet.read(store, **order["examples"]), order["shard"])


def publish_model(store: "Store", _: Order) -> str:
    """Publish the smallest network, which has learned nothing, with all that a version has."""
    import numpy as np  # noqa: PLC0415  # likewise

    from benchmarks.infer import metadata_of  # noqa: PLC0415  # TensorFlow, only here
    from dermascan.drift.features import (  # noqa: PLC0415  # likewise
        REFERENCE_FILE,
        ReferenceMaker,
        encode_reference,
    )
    from dermascan.imaging import ImageSize, Preprocessing  # noqa: PLC0415  # likewise
    from dermascan.learning.network import NetworkSpec, build_network  # noqa: PLC0415  # likewise
    from dermascan.learning.training import TrainingConfig  # noqa: PLC0415  # likewise
    from dermascan.model.savedmodel import export  # noqa: PLC0415  # likewise
    from dermascan.model.twin import load_twin  # noqa: PLC0415  # likewise
    from dermascan.model.twin_making import write_twin  # noqa: PLC0415  # likewise
    from dermascan.registry import claim_version, publish_version  # noqa: PLC0415  # likewise

    size = ImageSize.parse(IMAGE_SIZE)
    shape = (REFERENCE_IMAGES, size.height, size.width, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    config = TrainingConfig(network=NetworkSpec.of("small_cnn"))
    maker = ReferenceMaker()
    version = claim_version(store, MODEL, "benchmark")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        metadata = metadata_of(config, Preprocessing(size))
        export([build_network(config.network, size)], metadata, folder)
        write_twin(folder, images[:8])
        maker.add(images, load_twin(folder).score(images).embedding)
        if (reference := maker.reference()) is not None:
            (folder / REFERENCE_FILE).write_bytes(encode_reference(reference))
        publish_version(store, MODEL, version, folder)
    return f"{MODEL}/{version}"


def resolve(store: "Store", order: Order) -> list[Any]:
    from dermascan.inference.batch import resolve  # noqa: PLC0415  # likewise
    from dermascan.registry import ModelReference  # noqa: PLC0415  # likewise

    planned = resolve(store, f"raw/{DATASET}/images/", ModelReference.parse(order["model"]))
    return [{"plan": asdict(planned), "shard": shard} for shard in range(planned.shards)]


def predict(store: "Store", order: Order) -> None:
    from dermascan.inference.batch import BatchPlan, predict  # noqa: PLC0415  # likewise

    predict(store, BatchPlan(**order["plan"]), order["shard"])


def summarise(store: "Store", order: Order) -> None:
    from dermascan.inference.batch import BatchPlan, summarise  # noqa: PLC0415  # likewise

    summarise(store, BatchPlan(**order["plan"]))


TASKS: Mapping[str, Callable[["Store", Order], Any]] = {
    function.__name__: function
    for function in (
        *(plan, download, upload, publish_manifest, validate, split, preprocess),
        *(publish_model, resolve, predict, summarise),
    )
}

if __name__ == "__main__":
    main()
