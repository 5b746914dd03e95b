"""Images a second of training, fed in different ways to one and the same network."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.rounds import Contender, Trial, timed
from benchmarks.workspace import Workspace, image_files, object_store
from dermascan.fingerprint import sha256_hex
from dermascan.imaging import Preprocessing
from dermascan.learning.augmentation import Augmentation
from dermascan.learning.batches import training_batches
from dermascan.learning.learner import TrainingConfig
from dermascan.learning.network import NetworkSpec, build_network, freeze_for_fine_tuning
from dermascan.learning.shards import Shards
from dermascan.preprocess import ImageRow, preprocess_shard
from dermascan.storage import Store
from dermascan.taxonomy import LESION_CLASSES

if TYPE_CHECKING:
    import keras

TITLE = "Train: images a second of fine-tuning, fed from S3"
AIM = "at least 95 % of the limit"
IMAGES = 128
EPOCHS = TrainingConfig().epochs
BATCH = 32
SHARDS = 4

Feed = Callable[[], Iterable[tuple[Any, Any]]]


def trials(workspace: Workspace) -> Iterator[Trial]:
    """Compare as many epochs as networks have; what is drawn from the feed is trained on."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    files = image_files(workspace.folder(IMAGES))
    settings = Preprocessing()
    network = _network(settings)
    with object_store(workspace.scratch / "store") as store:
        keys = _stored_shards(store, files, settings)
        ours = partial(_from_store, workspace, store, keys, settings)
        feeds: tuple[tuple[str, Any, Feed], ...] = (
            ("DermaScan, shards in S3, augmented", "ours", partial(ours, Augmentation())),
            ("DermaScan, shards in S3, not augmented", "peer", partial(ours, None)),
            ("image_dataset_from_directory, local disk", "peer", _from_folder(workspace, files)),
            ("tensors in memory", "limit", _from_memory(ours(None))),
        )
        size = settings.image_size
        yield Trial(
            f"EfficientNet-Lite0, {size}, batches of {BATCH}, {len(files)} images, {EPOCHS} times",
            len(files) // BATCH * BATCH * EPOCHS,
            "images",
            [Contender(n, r, timed(partial(_train, network, feed))) for n, r, feed in feeds],
        )


def _network(settings: Preprocessing) -> "keras.Model":
    import keras  # noqa: PLC0415  # TensorFlow takes 10 s to import

    network = build_network(NetworkSpec(), settings.image_size)
    freeze_for_fine_tuning(network, TrainingConfig().first_trained_block[0], depthwise=False)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.AdamW(1e-4), loss, jit_compile=False)
    return network


def _train(network: "keras.Model", feed: Feed) -> None:
    for images, labels in feed():
        if len(labels) == BATCH:
            network.train_on_batch(images, labels)


def _stored_shards(store: Store, files: list[Path], settings: Preprocessing) -> list[str]:
    rows = []
    for number, file in enumerate(files):
        data = file.read_bytes()
        store.put(file.name, data, "image/jpeg")
        label = LESION_CLASSES[number % len(LESION_CLASSES)]
        rows.append(ImageRow(file.stem, file.name, sha256_hex(data), None, label))
    keys = [f"train/{number}" for number in range(SHARDS)]
    for number, key in enumerate(keys):
        preprocess_shard(store, rows[number::SHARDS], settings, key)
    return keys


def _from_store(
    workspace: Workspace,
    store: Store,
    keys: list[str],
    settings: Preprocessing,
    augmentation: Augmentation | None,
) -> Iterable[tuple[Any, Any]]:
    """Fetch the shards once, and stream them in each epoch, as trainings do."""
    with tempfile.TemporaryDirectory(dir=workspace.scratch) as folder:
        shards = Shards.fetch(store, keys, Path(folder), settings.image_size, BATCH)
        for epoch in range(EPOCHS):
            yield from training_batches(shards, augmentation, 0, epoch, drop_last=True)


def _from_folder(workspace: Workspace, files: list[Path]) -> Feed:
    import keras  # noqa: PLC0415  # TensorFlow takes 10 s to import

    folder = workspace.scratch / "by-class"
    for number, file in enumerate(files):
        place = folder / LESION_CLASSES[number % len(LESION_CLASSES)]
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
    size = Preprocessing().image_size

    def feed() -> Iterator[tuple[Any, Any]]:
        batches = keras.utils.image_dataset_from_directory(
            folder, batch_size=BATCH, image_size=(size.height, size.width), seed=0, verbose=False
        )
        for _ in range(EPOCHS):
            yield from batches

    return feed


def _from_memory(batches: Iterable[tuple[Any, Any]]) -> Feed:
    kept = [(np.asarray(images), np.asarray(labels)) for images, labels in batches]
    return lambda: kept
