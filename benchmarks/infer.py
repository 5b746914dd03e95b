"""A prefix in object storage to predictions."""

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.rounds import Contender, Trial, timed
from benchmarks.workspace import Workspace, image_files, object_store
from dermascan.imaging import Preprocessing, decode, prepare
from dermascan.inference.batch import score_objects
from dermascan.learning.learner import TrainingConfig
from dermascan.learning.network import build_network
from dermascan.model.ensemble import averaged_outputs
from dermascan.model.metadata import ModelMetadata
from dermascan.model.savedmodel import export, load_scorer
from dermascan.model.scorer import SCORING_BATCH, Scorer
from dermascan.model.twin import load_twin
from dermascan.model.twin_making import write_twin
from dermascan.storage import Store

TITLE = "Inference: a prefix in S3 to predictions"
AIM = "at least 3x the batched SavedModel; at least 90 % of ONNX Runtime on arrays in memory"
IMAGES = 96
PREFIX = "incoming/"


def trials(workspace: Workspace) -> Iterator[Trial]:
    """Compare on an ensemble as training makes it by default, but for what it has learned."""
    files = image_files(workspace.folder(IMAGES))
    config, preprocessing = TrainingConfig(), Preprocessing()
    size = preprocessing.image_size
    workspace.tell("exporting the model and its twin")
    specs = [config.network.of_member(index) for index in range(config.members)]
    networks = [build_network(spec, size) for spec in specs]
    folder = workspace.scratch / "model"
    arrays = np.stack([_prepared(file.read_bytes(), preprocessing) for file in files])
    export(networks, metadata_of(config, preprocessing), folder)
    write_twin(folder, arrays[:8])
    twin, savedmodel = load_twin(folder), load_scorer(folder)
    keras_model = averaged_outputs(networks, config.views)
    with object_store(workspace.scratch / "store") as store:
        for file in files:
            store.put(PREFIX + file.name, file.read_bytes(), "image/jpeg")
        yield Trial(
            f"{len(files)} images at {size}, {config.members} networks, {config.views.count} views",
            len(files),
            "images",
            (
                Contender("DermaScan", "ours", timed(lambda: _ours(store, twin))),
                Contender(
                    f"SavedModel, batches of {SCORING_BATCH}",
                    "peer",
                    timed(lambda: _batched(store, savedmodel)),
                ),
                Contender(
                    "model.predict, one image at a time",
                    "peer",
                    timed(lambda: _one_by_one(store, keras_model, size.height, size.width)),
                ),
                Contender(
                    "ONNX Runtime, arrays in memory", "limit", timed(lambda: twin.score(arrays))
                ),
            ),
        )


def _ours(store: Store, scorer: Scorer) -> None:
    """Read, check, measure, score and tabulate, as the task `predict` does."""
    for _ in score_objects(store, list(store.list(PREFIX)), scorer, version=1):
        pass


def _batched(store: Store, scorer: Scorer) -> None:
    """Read and decode, then score batch after batch, with nothing checked or measured."""
    size = scorer.metadata.preprocessing.image_size
    keys = [found.key for found in store.list(PREFIX)]
    for start in range(0, len(keys), SCORING_BATCH):
        chosen = keys[start : start + SCORING_BATCH]
        scorer.score(np.stack([_read(store, key, size.height, size.width) for key in chosen]))


def _one_by_one(store: Store, model: Any, height: int, width: int) -> None:
    for found in store.list(PREFIX):
        model.predict(_read(store, found.key, height, width)[np.newaxis], verbose=0)


def _read(store: Store, key: str, height: int, width: int) -> NDArray[np.uint8]:
    decoded = cv2.imdecode(np.frombuffer(store.get(key), np.uint8), cv2.IMREAD_COLOR_RGB)
    resized = cv2.resize(decoded, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(resized, np.uint8)


def _prepared(data: bytes, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    return prepare(decode(data, preprocessing.limits), preprocessing)


def metadata_of(config: TrainingConfig, preprocessing: Preprocessing) -> ModelMetadata:
    """Describe a model that was made as configured and has learned nothing."""
    return ModelMetadata(
        malignant_classes=config.taxonomy.malignant,
        threshold=0.5,
        views=config.views,
        preprocessing=preprocessing,
        dataset_fingerprint="benchmark",
        training_fingerprint="benchmark",
        network=config.network.as_plain(),
        licences={},
    )
