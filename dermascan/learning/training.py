"""Train a network on preprocessed shards, and leave a calibrated SavedModel.

Everything that is needed to go on after a kill is in object storage after each epoch.
"""

import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from dermascan.errors import InputError
from dermascan.fingerprint import Plain, canonical_json, fingerprint
from dermascan.imaging import Preprocessing
from dermascan.learning.batches import first_images
from dermascan.learning.checkpoints import Checkpoints
from dermascan.learning.devices import find_devices
from dermascan.learning.fitting import (
    EpochRecord,
    Fitting,
    FittingJob,
    ValidationFigures,
    best_epoch,
    validation_figures,
)
from dermascan.learning.folds import fold_left_out, make_folds
from dermascan.learning.learner import TrainingConfig, predict_logits
from dermascan.learning.network import NetworkSpec
from dermascan.learning.pretrained import WEIGHTS_LICENCE, InitialWeights, weights_package
from dermascan.learning.shards import Shards
from dermascan.model.calibration import (
    Calibration,
    OperatingPoint,
    apply,
    choose_threshold,
    class_offsets,
    fit_calibration,
)
from dermascan.model.ensemble import averaged_logits
from dermascan.model.savedmodel import ModelMetadata, export
from dermascan.model.twin_making import add_twin
from dermascan.scores import score_table, write_scores
from dermascan.storage import Store
from dermascan.taxonomy import LESION_CLASSES
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

RECIPE_VERSION = 4  # raise when equal settings no longer give an equal model
_COMPARED_IMAGES = 64  # by which the model's twin must agree with it, beside the golden ones
_SMALLEST = 1e-12  # a probability whose logarithm is still a number


@dataclass(frozen=True)
class TrainingData:
    """What to train on. Test images have no place here.

    Attributes:
        train_keys: TFRecord shards (gzip) to learn from.
        val_keys: TFRecord shards by which epoch, temperature and threshold are chosen. Networks
            of an ensemble learn from those of them that they are not judged by.
        class_counts: training images of each class, in the order of `LESION_CLASSES`.
        dataset_fingerprint: names the manifest that the shards come from.
        preprocessing: with which the images in the shards were made.
        licences: of the images.
        dataset: its name, for people.
    """

    train_keys: tuple[str, ...]
    val_keys: tuple[str, ...]
    class_counts: tuple[int, ...]
    dataset_fingerprint: str
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    licences: tuple[str, ...] = ()
    dataset: str | None = None

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


class TrainingSummary(BaseModel):
    """What a finished training left.

    Attributes:
        fingerprint: names data, settings and recipe.
        model_prefix: of the SavedModel and its `metadata.json`.
        history_key: of the figures by epoch.
        train_images: of the training split; all networks learned from them.
        val_images: chosen by.
        parameters: numbers in the network.
        seconds: of this training, all attempts together.
        best: of each network, the epoch whose weights the model has.
        validation: figures of the model as a whole, calibrated; each image scored by the networks
            that did not learn from it.
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
    best: tuple[EpochRecord, ...]
    validation: ValidationFigures
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

    All GPUs of this host are used. Where `TF_CONFIG` names several hosts, each of them must call
    with the same arguments: all compute, the first writes and tells the tracker, and the others
    return when it is done.

    Leaves `checkpoints/`, `model/` (SavedModel with `metadata.json` and, if it agrees on validation
    images, a twin for ONNX Runtime), `history.json`, `validation.parquet` (the calibrated scores of
    the validation images that choices were made by) and, last, `DONE.json` under the prefix. If
    that is there already nothing is done, and TensorFlow is not even imported.

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
        TransientError: another host is gone; started anew on all, the training goes on.
    """
    done = store.get_if_present(f"{prefix}DONE.json")
    if done is not None:
        logger.info("%s is trained already, nothing to do", store.address(prefix))
        return _read(done)
    with tempfile.TemporaryDirectory() as folder:
        run = _Run(_Job(store, config, data, prefix, tracker, clock), Path(folder))
        return run.finish(run.fit())


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
        self._devices = find_devices()
        self._tracker = job.tracker if self._devices.share.is_first else None
        self._clock, self._folder = job.clock, folder
        self._name = training_fingerprint(config, data)
        logger.info("training %s", self._name)
        self._train_shards = self._fetch("train", data.train_keys)
        self._folds = self._fetch_folds()
        self._labels = np.concatenate([fold.labels for fold in self._folds])
        self._history: list[EpochRecord] = []

    def _fetch(self, kind: str, keys: Sequence[str]) -> Shards:
        folder = self._folder / kind
        folder.mkdir()
        size = self._data.preprocessing.image_size
        shards = Shards.fetch(self._store, keys, folder, size, self._config.batch_size)
        logger.info("fetched %d %s shards", len(keys), kind)
        return shards

    def _fetch_folds(self) -> tuple[Shards, ...]:
        shards, config = self._fetch("val", self._data.val_keys), self._config
        folds = make_folds(shards, min(config.validation_folds, config.members))
        if folds[1:]:
            sizes = ", ".join(str(len(fold)) for fold in folds)
            logger.info("each network leaves out one fold of the validation images (%s)", sizes)
        return folds

    def _fold_of(self, member: int) -> int:
        return fold_left_out(member, self._config.members, len(self._folds))

    def fit(self) -> "list[keras.Model]":
        """Do the epochs that are still to do, of one network after the other."""
        self._tell(lambda tracker: tracker.log_params(self._config.as_plain()))
        return [self._fit(member) for member in range(self._config.members)]

    def _fit(self, member: int) -> "keras.Model":
        prefix = f"{self._prefix}checkpoints/network-{member:02d}/"
        own = self._folds[self._fold_of(member)]
        others = [fold for fold in self._folds if fold is not own]
        job = FittingJob(
            member=member,
            config=self._config,
            train_shards=Shards.joined((self._train_shards, *others)),
            val_shards=own,
            class_counts=self._counts(others),
            checkpoints=Checkpoints(self._store, prefix, self._name),
            told=self._log_metrics,
            fetch=self._fetch_weights,
            clock=self._clock,
            devices=self._devices,
        )
        fitting = Fitting(job)
        network = fitting.fit()
        self._history += fitting.history
        return network

    def _counts(self, folds: Sequence[Shards]) -> tuple[int, ...]:
        """Return the images of each class in the training split and in folds."""
        learned = np.array(self._data.class_counts)
        counts = sum((fold.class_counts for fold in folds), start=learned)
        return tuple(counts.tolist())

    def _fetch_weights(self, key: str) -> Path:
        path = self._folder / Path(key).name
        self._store.get_file(key, path)
        return path

    def _log_metrics(self, record: EpochRecord) -> None:
        start = f"network_{record.member}/" if self._config.members > 1 else ""
        metrics = {start + name: value for name, value in record.metrics().items()}
        self._tell(lambda tracker: tracker.log_metrics(metrics, record.epoch))

    def finish(self, networks: "Sequence[keras.Model]") -> TrainingSummary:
        """Publish on the first host, and return on all when that is done."""
        summary = self.publish(networks) if self._devices.share.is_first else None
        self._devices.from_chief([np.zeros(1, np.float32)])  # the others wait here
        return summary or _read(self._store.get(f"{self._prefix}DONE.json"))

    def publish(self, networks: "Sequence[keras.Model]") -> TrainingSummary:
        """Calibrate the networks together on validation and leave the results."""
        config, malignant = self._config, self._config.taxonomy.malignant_indices()
        logits = self._held_out_logits(networks)
        offsets = class_offsets(self._learned_counts, config.class_offset_power, malignant)
        calibration = fit_calibration(
            logits,
            self._labels,
            malignant,
            class_offsets=offsets,
            malignant=config.calibrate_malignant,
        )
        probabilities = apply(logits, calibration, malignant)
        p_malignant = probabilities[:, list(malignant)].sum(axis=1)
        point = choose_threshold(
            p_malignant,
            np.isin(self._labels, malignant),
            specificity=config.operating_specificity,
        )
        self._export(networks, calibration, point)
        figures = validation_figures(
            np.log(np.maximum(probabilities, _SMALLEST)), self._labels, config.taxonomy
        )
        summary = self._summary(networks, figures, calibration, point)
        names = np.concatenate([fold.isic_ids for fold in self._folds]).tolist()
        scores = score_table(names, probabilities, p_malignant)
        write_scores(self._store, f"{self._prefix}validation.parquet", scores)
        self._leave(summary)
        return summary

    def _held_out_logits(self, networks: "Sequence[keras.Model]") -> NDArray[np.float32]:
        """Score the images of each fold with the networks that did not learn from it."""
        logits = []
        for number, fold in enumerate(self._folds):
            judged = [each for i, each in enumerate(networks) if self._fold_of(i) == number]
            model = averaged_logits(judged, self._config.views)
            logits.append(predict_logits(model, fold))
        return np.concatenate(logits)

    @property
    def _learned_counts(self) -> tuple[int, ...]:
        """Return the images of each class that some network learned from."""
        return self._counts(self._folds if self._folds[1:] else ())

    def _export(
        self,
        networks: "Sequence[keras.Model]",
        calibration: Calibration,
        point: OperatingPoint,
    ) -> None:
        metadata = self._metadata(calibration, point)
        folder = self._folder / "model"
        export(networks, metadata, folder)
        add_twin(folder, first_images(self._folds[0], _COMPARED_IMAGES))
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            self._store.put_file(f"{self._model_prefix}{path.relative_to(folder)}", path)

    def _metadata(self, calibration: Calibration, point: OperatingPoint) -> ModelMetadata:
        data, spec = self._data, self._config.network
        licences = {
            "training data": ", ".join(data.licences) or "not recorded",
            **({"initial weights": _weights_licence(spec)} if spec.pretrained else {}),
        }
        return ModelMetadata(
            malignant_classes=self._config.taxonomy.malignant,
            threshold=point.threshold,
            threshold_choice=_threshold_choice(self._config.operating_specificity),
            calibration=calibration,
            views=self._config.views,
            preprocessing=data.preprocessing,
            dataset=data.dataset,
            dataset_fingerprint=data.dataset_fingerprint,
            class_counts=dict(zip(LESION_CLASSES, self._learned_counts, strict=True)),
            training_fingerprint=self._name,
            network=spec.as_plain(),
            initial_weights=spec.weights,
            licences=licences,
        )

    def _summary(
        self,
        networks: "Sequence[keras.Model]",
        figures: ValidationFigures,
        calibration: Calibration,
        point: OperatingPoint,
    ) -> TrainingSummary:
        bests = [
            best_epoch([record for record in self._history if record.member == member])
            for member in range(self._config.members)
        ]
        return TrainingSummary(
            fingerprint=self._name,
            model_prefix=self._model_prefix,
            history_key=f"{self._prefix}history.json",
            train_images=self._data.images,
            val_images=len(self._labels),
            parameters=sum(network.count_params() for network in networks),
            seconds=sum(record.seconds for record in self._history),
            best=tuple(bests),
            validation=figures,
            temperature=calibration.temperature,
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
            "trained: best epochs %s, temperature %.3f, threshold %.4f, model under %s",
            ", ".join(str(record.epoch) for record in summary.best),
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


def _read(done: bytes) -> TrainingSummary:
    return TrainingSummary.model_validate_json(done)


def _threshold_choice(specificity: float | None) -> str:
    if specificity is None:
        return "highest sum of sensitivity and specificity on validation images"
    return f"lowest with a specificity of {specificity:.0%} on validation images"


def _weights_licence(spec: NetworkSpec) -> str:
    if spec.weights == InitialWeights.PACKAGED:
        return f"{WEIGHTS_LICENCE} ({weights_package(spec.architecture)})"
    return f"not recorded ({spec.weights})"
