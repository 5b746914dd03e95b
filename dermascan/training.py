"""Train a network on preprocessed shards, and leave a calibrated SavedModel.

Everything that is needed to go on after a kill is in object storage after each epoch.
"""

import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from dermascan.batches import Shards
from dermascan.calibration import (
    OperatingPoint,
    choose_threshold,
    cross_entropy,
    fit_temperature,
    roc_auc,
    softmax,
)
from dermascan.checkpoints import Checkpoints
from dermascan.errors import InputError
from dermascan.fingerprint import Plain, canonical_json, fingerprint
from dermascan.imaging import Preprocessing
from dermascan.learner import (
    WARM_START_IMAGES,
    Learner,
    TrainingConfig,
    predict_logits,
    read_labels,
)
from dermascan.network import IMAGENET, NetworkSpec
from dermascan.pretrained import WEIGHTS_LICENCE, WEIGHTS_PACKAGE
from dermascan.progress import Progress, format_seconds
from dermascan.savedmodel import ModelMetadata, export
from dermascan.storage import Store, concurrently
from dermascan.taxonomy import LESION_CLASSES, Taxonomy
from dermascan.tracking import Tracker

if TYPE_CHECKING:
    import keras

__all__ = [
    "EpochRecord",
    "NetworkSpec",
    "TrainingConfig",
    "TrainingData",
    "TrainingSummary",
    "train",
    "training_fingerprint",
]

logger = logging.getLogger(__name__)

RECIPE_VERSION = 1  # raise when equal settings no longer give an equal model
_SECONDS_BETWEEN_LINES = 15.0


@dataclass(frozen=True)
class TrainingData:
    """What to train on. Test images have no place here.

    Attributes:
        train_keys: TFRecord shards (gzip) to learn from.
        val_keys: TFRecord shards by which epoch, temperature and threshold are chosen.
        class_counts: training images of each class, in the order of `LESION_CLASSES`.
        dataset_fingerprint: names the manifest that the shards come from.
        preprocessing: with which the images in the shards were made.
        licences: of the images.
    """

    train_keys: tuple[str, ...]
    val_keys: tuple[str, ...]
    class_counts: tuple[int, ...]
    dataset_fingerprint: str
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    licences: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.train_keys or not self.val_keys or sum(self.class_counts) == 0:
            message = "training needs training and validation images: ingest more, or split anew"
            raise InputError(message)
        if len(self.class_counts) != len(LESION_CLASSES):
            message = f"class_counts has {len(self.class_counts)} numbers, not one for each class"
            raise InputError(message)

    @property
    def images(self) -> int:
        """Return the number of training images."""
        return sum(self.class_counts)

    def as_plain(self) -> dict[str, Plain]:
        """Return what names the data as a JSON-ready mapping."""
        plain = asdict(self) | {"preprocessing": self.preprocessing.as_plain()}
        return cast("dict[str, Plain]", plain)


class ValidationFigures(BaseModel):
    """How good a network is on validation, before calibration.

    Attributes:
        val_loss: mean negative log-likelihood on validation, nats, plain.
        val_accuracy: share of validation images whose class is right.
        val_balanced_accuracy: mean of the shares by class.
        val_malignant_auc: area under the ROC curve of `p_malignant`; None if undefined.
    """

    model_config = ConfigDict(frozen=True)

    val_loss: float
    val_accuracy: float
    val_balanced_accuracy: float
    val_malignant_auc: float | None


class EpochRecord(ValidationFigures):
    """What an epoch did. Epoch 0 is the state before fine-tuning.

    Attributes:
        epoch: its number.
        seconds: it took, validation included.
        images_per_second: in training steps; None for epoch 0.
        loss: mean training loss with class weights and label smoothing; None for epoch 0.
    """

    epoch: int
    seconds: float
    images_per_second: float | None
    loss: float | None

    def metrics(self) -> dict[str, float]:
        """Return the figures that are defined, by name."""
        values = self.model_dump(exclude={"epoch"})
        return {name: value for name, value in values.items() if value is not None}


class TrainingSummary(BaseModel):
    """What a finished training left.

    Attributes:
        fingerprint: names data, settings and recipe.
        model_prefix: of the SavedModel and its `metadata.json`.
        history_key: of the figures by epoch.
        train_images: learned from.
        val_images: chosen by.
        parameters: numbers in the network.
        seconds: of this training, all attempts together.
        best: the epoch whose weights the model has.
        temperature: of the calibration.
        threshold: `p_malignant` from which an image is called malignant.
        sensitivity: at the threshold on validation; None if undefined.
        specificity: likewise.
    """

    model_config = ConfigDict(frozen=True)

    fingerprint: str
    model_prefix: str
    history_key: str
    train_images: int
    val_images: int
    parameters: int
    seconds: float
    best: EpochRecord
    temperature: float
    threshold: float
    sensitivity: float | None
    specificity: float | None


def training_fingerprint(config: TrainingConfig, data: TrainingData) -> str:
    """Name a training by everything that decides its result."""
    return fingerprint(
        {"recipe": RECIPE_VERSION, "config": config.as_plain(), "data": data.as_plain()}
    )


def train(  # noqa: PLR0913  # four things a training is made of, and two for its surroundings
    store: Store,
    config: TrainingConfig,
    data: TrainingData,
    prefix: str,
    *,
    tracker: Tracker | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> TrainingSummary:
    """Train, calibrate and export; go on from the last epoch if there was an attempt before.

    Leaves `checkpoints/`, `model/` (SavedModel with `metadata.json`), `history.json` and, last,
    `DONE.json` under the prefix. If that is there already nothing is done, and TensorFlow is not
    even imported.

    Args:
        store: bucket of shards and results.
        config: how to train.
        data: what to train on.
        prefix: ends with "/"; for instance `layout.TrainingKeys(training_fingerprint(…)).prefix`.
        tracker: is told parameters and figures; None for nobody.
        clock: monotonic seconds; replaced in tests.

    Returns:
        What the training left.

    Raises:
        PermanentError: the loss stopped being a number.
    """
    done = store.get_if_present(f"{prefix}DONE.json")
    if done is not None:
        logger.info("%s is trained already, nothing to do", store.address(prefix))
        return TrainingSummary.model_validate_json(done)
    with tempfile.TemporaryDirectory() as folder:
        run = _Run(_Job(store, config, data, prefix, tracker, clock), Path(folder))
        run.fit()
        return run.publish()


@dataclass(frozen=True)
class _Job:
    """What `train` was given."""

    store: Store
    config: TrainingConfig
    data: TrainingData
    prefix: str
    tracker: Tracker | None
    clock: Callable[[], float]


class _Run:
    """One attempt at a training, from the last epoch that is in object storage."""

    def __init__(self, job: _Job, folder: Path) -> None:
        store, config, data, prefix = job.store, job.config, job.data, job.prefix
        self._store, self._config, self._data, self._prefix = store, config, data, prefix
        self._tracker, self._clock, self._folder = job.tracker, job.clock, folder
        self._name = training_fingerprint(config, data)
        self._checkpoints = Checkpoints(store, f"{prefix}checkpoints/", self._name)
        self._train_shards = self._fetch("train", data.train_keys)
        self._val_shards = self._fetch("val", data.val_keys)
        self._learner = Learner(config, self._train_shards, data.class_counts)
        self._labels = read_labels(self._val_shards)
        self._history: list[EpochRecord] = []

    def _fetch(self, kind: str, keys: Sequence[str]) -> Shards:
        paths = [self._folder / f"{kind}-{i:05d}.tfrecord.gz" for i in range(len(keys))]

        def fetch(pair: tuple[str, Path]) -> str:
            return self._store.get_file(*pair)

        fetched = list(concurrently(fetch, zip(keys, paths, strict=True), concurrency=4))
        logger.info("fetched %d %s shards", len(fetched), kind)
        size = self._data.preprocessing.image_size
        return Shards(tuple(paths), size, self._config.batch_size)

    def fit(self) -> None:
        """Do the epochs that are still to do."""
        self._resume()
        self._tell(lambda tracker: tracker.log_params(self._config.as_plain()))
        for epoch in range(len(self._history), self._config.epochs + 1):
            record = self._epoch(epoch)
            self._history.append(record)
            best = best_epoch(self._history).epoch
            notes = {"history": [r.model_dump() for r in self._history]}
            self._checkpoints.save(epoch, self._learner.state(), notes, best)
            logger.info("%s", self._line(record))
            metrics = record.metrics()
            self._tell(lambda t, m=metrics, e=epoch: t.log_metrics(m, e))  # type: ignore[misc]  # defaults bind the loop variables

    def _resume(self) -> None:
        latest = self._checkpoints.latest()
        if latest is None:
            return
        epoch, notes = latest
        self._learner.restore(self._checkpoints.load(epoch))
        rows = cast("list[Mapping[str, Plain]]", notes["history"])
        self._history = [EpochRecord.model_validate(row) for row in rows]
        logger.info("going on after epoch %d of %d", epoch, self._config.epochs)

    def _epoch(self, epoch: int) -> EpochRecord:
        started = self._clock()
        last = self._config.epochs
        what = f"images of epoch {epoch}/{last}" if epoch else "images for the warm start"
        images = self._learner.images_per_epoch
        if epoch == 0:
            images = min(images, WARM_START_IMAGES)
        progress = Progress(logger, what, images, _SECONDS_BETWEEN_LINES, self._clock)
        loss, rate = None, None
        if epoch == 0:
            self._learner.warm_start(progress.advance)
        else:
            loss = self._learner.train_epoch(epoch, progress.advance)
            rate = progress.done / max(self._clock() - started, 1e-9)
        with self._learner.averaged() as network:
            logits = predict_logits(network, self._val_shards)
        figures = _figures(logits, self._labels, self._config.taxonomy)
        seconds = self._clock() - started
        return EpochRecord(
            epoch=epoch, seconds=seconds, images_per_second=rate, loss=loss, **figures.model_dump()
        )

    def _line(self, record: EpochRecord) -> str:
        last = self._config.epochs
        parts = [f"epoch {record.epoch}/{last}"]
        if record.loss is not None and record.images_per_second is not None:
            parts.append(f"{record.images_per_second:.1f} images/s, loss {record.loss:.4f}")
        parts.append(f"val loss {record.val_loss:.4f}, val accuracy {record.val_accuracy:.3f}")
        auc = record.val_malignant_auc
        parts.append(f"val malignant AUC {'n/a' if auc is None else f'{auc:.4f}'}")
        parts.append(f"took {format_seconds(record.seconds)}")
        if 0 < record.epoch < last:
            parts.append(f"{format_seconds(record.seconds * (last - record.epoch))} left")
        return ", ".join(parts)

    def publish(self) -> TrainingSummary:
        """Calibrate the best epoch on validation and leave the results."""
        best = best_epoch(self._history)
        if best.epoch != self._history[-1].epoch:
            self._learner.restore(self._checkpoints.load(best.epoch))
        with self._learner.averaged() as network:
            logits = predict_logits(network, self._val_shards)
            temperature = fit_temperature(logits, self._labels)
            malignant = np.isin(self._labels, self._config.taxonomy.malignant_indices())
            scores = _p_malignant(logits, self._config.taxonomy, temperature)
            point = choose_threshold(scores, malignant)
            self._export(network, temperature, point)
        summary = self._summary(best, temperature, point)
        self._leave(summary)
        return summary

    def _export(self, network: "keras.Model", temperature: float, point: OperatingPoint) -> None:
        data, spec = self._data, self._config.network
        licences = {"training data": ", ".join(data.licences) or "not recorded"}
        if spec.weights == IMAGENET:
            licences["initial weights"] = f"{WEIGHTS_LICENCE} ({WEIGHTS_PACKAGE})"
        metadata = ModelMetadata(
            malignant_classes=self._config.taxonomy.malignant,
            threshold=point.threshold,
            temperature=temperature,
            preprocessing=data.preprocessing.as_plain(),
            dataset_fingerprint=data.dataset_fingerprint,
            training_fingerprint=self._name,
            network=spec.as_plain(),
            licences=licences,
        )
        folder = self._folder / "model"
        export(network, metadata, folder)
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            self._store.put_file(f"{self._model_prefix}{path.relative_to(folder)}", path)

    def _summary(
        self, best: EpochRecord, temperature: float, point: OperatingPoint
    ) -> TrainingSummary:
        return TrainingSummary(
            fingerprint=self._name,
            model_prefix=self._model_prefix,
            history_key=f"{self._prefix}history.json",
            train_images=self._data.images,
            val_images=len(self._labels),
            parameters=self._learner.network.count_params(),
            seconds=sum(record.seconds for record in self._history),
            best=best,
            temperature=temperature,
            threshold=point.threshold,
            sensitivity=point.sensitivity,
            specificity=point.specificity,
        )

    def _leave(self, summary: TrainingSummary) -> None:
        history = canonical_json({"epochs": [r.model_dump() for r in self._history]})
        path = self._folder / "history.json"
        path.write_bytes(history)
        self._store.put(summary.history_key, history, "application/json")
        self._store.put_json(f"{self._prefix}DONE.json", summary.model_dump())
        self._tell(lambda tracker: tracker.log_artifact(path))
        address = self._store.address(self._model_prefix)
        self._tell(lambda tracker: tracker.set_tag("dermascan.model", address))
        self._tell(lambda tracker: tracker.finish())
        logger.info(
            "trained: epoch %d is best, temperature %.3f, threshold %.4f, model under %s",
            summary.best.epoch,
            summary.temperature,
            summary.threshold,
            address,
        )

    @property
    def _model_prefix(self) -> str:
        return f"{self._prefix}model/"

    def _tell(self, message: Callable[[Tracker], None]) -> None:
        if self._tracker is not None:
            message(self._tracker)


def best_epoch(history: Sequence[EpochRecord]) -> EpochRecord:
    """Return the epoch with the highest malignant AUC; of equal ones the first.

    Where that is undefined, because validation holds no malignant or no benign image, the epoch
    with the lowest validation loss.
    """

    def rank(record: EpochRecord) -> float:
        auc = record.val_malignant_auc
        return -record.val_loss if auc is None else auc

    return max(history, key=rank)


def _figures(
    logits: NDArray[np.float32], labels: NDArray[np.int64], taxonomy: Taxonomy
) -> ValidationFigures:
    right = logits.argmax(axis=1) == labels
    by_class = [right[labels == label].mean() for label in np.unique(labels)]
    malignant = np.isin(labels, taxonomy.malignant_indices())
    return ValidationFigures(
        val_loss=cross_entropy(logits, labels),
        val_accuracy=float(right.mean()),
        val_balanced_accuracy=float(np.mean(by_class)),
        val_malignant_auc=roc_auc(_p_malignant(logits, taxonomy), malignant),
    )


def _p_malignant(
    logits: NDArray[np.float32], taxonomy: Taxonomy, temperature: float = 1.0
) -> NDArray[np.float64]:
    columns = list(taxonomy.malignant_indices())
    result: NDArray[np.float64] = softmax(logits, temperature)[:, columns].sum(axis=1)
    return result
