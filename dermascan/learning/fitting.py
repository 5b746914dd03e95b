"""One network being fitted epoch by epoch, and going on after the last one that was saved."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from dermascan.errors import TransientError
from dermascan.fingerprint import Plain
from dermascan.learning.checkpoints import Checkpoints
from dermascan.learning.devices import Devices
from dermascan.learning.learner import WARM_START_IMAGES, Learner, TrainingConfig, predict_logits
from dermascan.learning.pretrained import Fetch
from dermascan.learning.shards import Shards
from dermascan.model.calibration import cross_entropy, malignant_logit, roc_auc
from dermascan.progress import Progress, format_seconds
from dermascan.taxonomy import Taxonomy

if TYPE_CHECKING:
    import keras

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 15.0


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
        member: number of the network in the ensemble, from 0.
    """

    epoch: int
    seconds: float
    images_per_second: float | None
    loss: float | None
    member: int = 0

    def metrics(self) -> dict[str, float]:
        """Return the figures that are defined, by name."""
        values = self.model_dump(exclude={"epoch", "member"})
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class FittingJob:
    """What one network is fitted with.

    Attributes:
        member: number of the network in the ensemble, from 0.
        config: how; `seed` is that of the ensemble.
        train_shards: examples to learn from.
        val_shards: examples to follow the progress by, and choose the epoch.
        class_counts: training images of each class.
        checkpoints: where the state is kept.
        told: is given each epoch's record when the epoch is safe.
        fetch: makes a local file of the S3 key of initial weights.
        clock: monotonic seconds.
        devices: that train together; the first host keeps the state and tells.
    """

    member: int
    config: TrainingConfig
    train_shards: Shards
    val_shards: Shards
    class_counts: tuple[int, ...]
    checkpoints: Checkpoints
    told: Callable[[EpochRecord], None]
    fetch: Fetch
    clock: Callable[[], float]
    devices: Devices


class Fitting:
    """The fitting of one network; everything to go on after a kill is saved after each epoch."""

    def __init__(self, job: FittingJob) -> None:
        self._job, self._config = job, job.config
        config = job.config.of_member(job.member)
        self._learner = Learner(config, job.train_shards, job.class_counts, job.fetch, job.devices)
        self.history: list[EpochRecord] = []

    def fit(self) -> "keras.Model":
        """Do the epochs that are still to do.

        Returns:
            The network with the averaged weights of the best epoch.
        """
        self._resume()
        for epoch in range(len(self.history), self._config.epochs + 1):
            record = self._epoch(epoch)
            self.history.append(record)
            if self._job.devices.share.is_first:
                self._save(epoch)
            logger.info("%s", self._line(record))
            self._job.told(record)
        best = best_epoch(self.history).epoch
        if best != self.history[-1].epoch:
            self._learner.restore(self._job.checkpoints.load(best))
        return self._learner.finish()

    def _save(self, epoch: int) -> None:
        best = best_epoch(self.history).epoch
        notes = {"history": [r.model_dump() for r in self.history]}
        self._job.checkpoints.save(epoch, self._learner.state(), notes, best)

    def _resume(self) -> None:
        latest = self._job.checkpoints.latest()
        self._require_agreement(latest[0] if latest else -1)
        if latest is None:
            return
        epoch, notes = latest
        self._learner.restore(self._job.checkpoints.load(epoch))
        rows = cast("list[Mapping[str, Plain]]", notes["history"])
        self.history = [EpochRecord.model_validate(row) for row in rows]
        logger.info("%sgoing on after epoch %d of %d", self._name, epoch, self._config.epochs)

    def _require_agreement(self, epoch: int) -> None:
        (of_chief,) = self._job.devices.from_chief([np.array(epoch, np.int32)])
        if epoch != of_chief:
            message = f"the first host goes on after epoch {of_chief}, this one after {epoch}: "
            raise TransientError(message + "end all hosts, then start all")

    @property
    def _name(self) -> str:
        members = self._config.members
        return f"network {self._job.member + 1}/{members}, " if members > 1 else ""

    def _epoch(self, epoch: int) -> EpochRecord:
        clock, learner = self._job.clock, self._learner
        started, last = clock(), self._config.epochs
        what = f"images of epoch {epoch}/{last}" if epoch else "images for the warm start"
        images = learner.images_per_epoch
        if epoch == 0:
            images = min(images, WARM_START_IMAGES)
        progress = Progress(logger, self._name + what, images, _SECONDS_BETWEEN_LINES, clock)
        loss, rate = None, None
        if epoch == 0:
            learner.warm_start(progress.advance)
        else:
            loss = learner.train_epoch(epoch, progress.advance)
            rate = progress.done / max(clock() - started, 1e-9)
        with learner.averaged():
            logits = predict_logits(learner, self._job.val_shards)
        figures = validation_figures(logits, self._job.val_shards.labels, self._config.taxonomy)
        return EpochRecord(
            member=self._job.member, epoch=epoch, seconds=clock() - started,
            images_per_second=rate, loss=loss, **figures.model_dump(),
        )  # fmt: skip

    def _line(self, record: EpochRecord) -> str:
        last = self._config.epochs
        parts = [f"{self._name}epoch {record.epoch}/{last}"]
        if record.loss is not None and record.images_per_second is not None:
            parts.append(f"{record.images_per_second:.1f} images/s, loss {record.loss:.4f}")
        parts.append(f"val loss {record.val_loss:.4f}, val accuracy {record.val_accuracy:.3f}")
        parts.append(f"val balanced accuracy {record.val_balanced_accuracy:.3f}")
        auc = record.val_malignant_auc
        parts.append(f"val malignant AUC {'n/a' if auc is None else f'{auc:.4f}'}")
        parts.append(f"took {format_seconds(record.seconds)}")
        if record.epoch and (waiting := epochs_left(self._config, self._job.member, record.epoch)):
            parts.append(f"{format_seconds(record.seconds * waiting)} left")
        return ", ".join(parts)


def epochs_left(config: TrainingConfig, member: int, done: int) -> float:
    """Return how many epochs of a network take as long as what is left of all networks.

    Args:
        config: of the training.
        member: which network is being fitted, from 0; those before it are done.
        done: how many of its epochs are done.
    """
    costs = [_step_cost(config.of_member(each)) for each in range(member, config.members)]
    return sum(costs) / costs[0] * config.epochs - done


def _step_cost(config: TrainingConfig) -> float:
    """Return about how long a step of one network takes; 1 for whole images, partly frozen.

    Gradients of early blocks and of depthwise kernels double it (docs/results.md, speed of
    training).
    """
    area: float = config.network.shrink[0] ** -2
    return area * 2 if config.network.pretrained and config.train_depthwise[0] else area


def best_epoch(history: Sequence[EpochRecord]) -> EpochRecord:
    """Return the epoch with the lowest validation loss; of equal ones the first.

    Of a few hundred malignant images, the ROC AUC differs between late epochs by chance: chosen
    by it, an epoch is in the mean no better at it on other images, and worse at the rest
    (docs/results.md).
    """
    return min(history, key=lambda record: record.val_loss)


def validation_figures(
    logits: NDArray[np.float32], labels: NDArray[np.int64], taxonomy: Taxonomy
) -> ValidationFigures:
    """Measure logits (N, 7) against labels (N,)."""
    right = logits.argmax(axis=1) == labels
    by_class = [right[labels == label].mean() for label in np.unique(labels)]
    malignant = np.isin(labels, taxonomy.malignant_indices())
    scores = malignant_logit(logits, taxonomy.malignant_indices())
    return ValidationFigures(
        val_loss=cross_entropy(logits, labels),
        val_accuracy=float(right.mean()),
        val_balanced_accuracy=float(np.mean(by_class)),
        val_malignant_auc=roc_auc(scores, malignant),
    )
