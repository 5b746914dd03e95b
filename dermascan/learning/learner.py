"""One network being trained: warm start, epochs of fine-tuning, averaged weights, state."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

from dermascan.cores import usable_cores
from dermascan.errors import PermanentError
from dermascan.fingerprint import Plain
from dermascan.learning.augmentation import Augmentation
from dermascan.learning.batches import ordered_batches, training_batches
from dermascan.learning.checkpoints import Arrays, TrainingState
from dermascan.learning.devices import Devices, OneDevice
from dermascan.learning.network import NetworkSpec, build_network, freeze_for_fine_tuning
from dermascan.learning.pretrained import Fetch
from dermascan.learning.shards import Shards
from dermascan.model.ensemble import TestTimeViews
from dermascan.taxonomy import LESION_CLASSES, Taxonomy

if TYPE_CHECKING:
    import keras

logger = logging.getLogger(__name__)

WARM_START_IMAGES = 20_000
_WARM_START_BATCH = 256
_WARM_START_LEARNING_RATE = 2e-3
_FULL_PRECISION = "float32"
_AMPERE = 8  # major compute capability of the first NVIDIA GPUs that compute in bfloat16


class TrainingConfig(BaseModel):
    """How to train. Equal settings, data and seed give equal models, up to rounding.

    Attributes:
        epochs: of fine-tuning; 0 trains the classifier alone, on frozen features.
        seed: of everything random; each further network of an ensemble takes the next.
        members: networks, trained one after the other, whose logits are averaged.
        validation_folds: into which the validation images are cut, at most one for each network.
            A network learns from all but one of them too, see `dermascan.learning.folds`; 1 keeps
            all networks from learning from any.
        batch_size: images a step.
        learning_rate: its peak, after the warm-up; then it falls to 0 along a cosine.
        warmup_share: share of all steps in which the rate rises from 0.
        weight_decay: of AdamW.
        label_smoothing: share of each label's certainty given to all classes.
        class_weight_power: a class of n images weighs n to minus this: 0 makes all images
            equal, 1 all classes.
        average_decay: of the running average of the weights, which is what is scored.
        first_trained_block: blocks before it keep their pretrained weights; 0 trains all. The
            networks of an ensemble take one of the numbers in turn, as they do of `shrink`.
        train_depthwise: fine-tune depthwise kernels too; in turn, likewise.
        warm_start_epochs: of the classifier on frozen features, before fine-tuning.
        augmentation: None to train on the images as they are.
        network: architecture and initial weights.
        taxonomy: which classes are malignant.
        views: of each image that the exported model looks at, and averages.
        class_offset_power: how far rarer classes are favoured among those of their group,
            malignant or benign, when probabilities are made; 0 not at all, 1 as if equally common.
        calibrate_malignant: fit slopes and offset of `p_malignant` on validation, besides the
            temperature.
        operating_specificity: specificity on validation at which the threshold is put; None for
            the threshold with the highest sum of sensitivity and specificity.
        precision: `float32`; `mixed_bfloat16`, with weights kept in float32; or `auto`, the
            latter where there is a GPU that computes in it (NVIDIA's from Ampere on). The
            exported model computes in float32 in any case.
        deterministic: make TensorFlow choose repeatable algorithms, at some cost of speed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(default=10, ge=0, le=500)
    seed: int = Field(default=0, ge=0, lt=2**31)
    members: int = Field(default=6, ge=1, le=20)
    validation_folds: int = Field(default=3, ge=1, le=20)
    batch_size: int = Field(default=32, ge=1, le=1024)
    learning_rate: float = Field(default=5e-4, gt=0)
    warmup_share: float = Field(default=0.1, ge=0, lt=1)
    weight_decay: float = Field(default=0.02, ge=0)
    label_smoothing: float = Field(default=0.05, ge=0, lt=1)
    class_weight_power: float = Field(default=0, ge=0, le=1)
    average_decay: float = Field(default=0.99, ge=0, lt=1)
    first_trained_block: tuple[NonNegativeInt, ...] = Field(default=(4, 0), min_length=1)
    train_depthwise: tuple[bool, ...] = Field(default=(False, True), min_length=1)
    warm_start_epochs: int = Field(default=20, ge=0)
    augmentation: Augmentation | None = Augmentation()
    network: NetworkSpec = NetworkSpec()
    taxonomy: Taxonomy = Taxonomy()
    views: TestTimeViews = TestTimeViews(mirrors=True)
    class_offset_power: float = Field(default=1, ge=0, le=1)
    calibrate_malignant: bool = True
    operating_specificity: float | None = Field(default=0.9, ge=0, le=1)
    precision: Literal["auto", "float32", "mixed_bfloat16"] = "auto"
    deterministic: bool = False

    def as_plain(self) -> dict[str, Plain]:
        """Return the settings as a JSON-ready mapping."""
        return self.model_dump(mode="json")

    def of_member(self, index: int) -> "TrainingConfig":
        """Return how the network of an ensemble at this index, from 0, is trained by itself."""
        first, depthwise = self.first_trained_block, self.train_depthwise
        own: dict[str, object] = {
            "members": 1,
            "seed": self.seed + index,
            "network": self.network.of_member(index),
            "first_trained_block": (first[index % len(first)],),
            "train_depthwise": (depthwise[index % len(depthwise)],),
        }
        return self.model_copy(update=own)


def class_weights(counts: Sequence[int], power: float) -> NDArray[np.float32]:
    """Return a weight for each class so that the mean over all images is 1.

    Args:
        counts: training images of each class; a class without any gets weight 0.
        power: 0 for equal weights, 1 for weights in inverse proportion to the counts.
    """
    numbers = np.asarray(counts, np.float64)
    weights = np.where(numbers > 0, np.maximum(numbers, 1) ** -power, 0.0)
    normal = weights * (numbers.sum() / (weights * numbers).sum())
    return np.asarray(normal, np.float32)


def configure_tensorflow(config: TrainingConfig) -> None:
    """Give TensorFlow the cores that this process may use, a precision, and seeds."""
    import keras  # noqa: PLC0415  # TensorFlow takes 10 s to import
    import tensorflow as tf  # noqa: PLC0415  # likewise

    try:
        tf.config.threading.set_intra_op_parallelism_threads(usable_cores())
        tf.config.threading.set_inter_op_parallelism_threads(2)
    except RuntimeError:
        logger.debug("TensorFlow is running already and keeps its number of threads")
    keras.config.set_dtype_policy(_precision(config.precision))
    keras.utils.set_random_seed(config.seed)
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()


def _precision(wanted: str) -> str:
    import tensorflow as tf  # noqa: PLC0415  # TensorFlow takes 10 s to import

    if wanted != "auto":
        return wanted
    details = [
        tf.config.experimental.get_device_details(gpu)
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    capable = [found.get("compute_capability", (0, 0))[0] >= _AMPERE for found in details]
    return "mixed_bfloat16" if capable and all(capable) else _FULL_PRECISION


@dataclass
class _Mean:
    """A mean of values that come one after the other."""

    total: float = 0.0
    count: int = 0

    def add(self, value: float, count: int) -> None:
        self.total += value * count
        self.count += count

    @property
    def value(self) -> float:
        return self.total / max(self.count, 1)


class Learner:
    """A network with its optimizer and the running average of its weights.

    Args:
        config: how to train.
        shards: training examples.
        class_counts: training images of each class.
        fetch: makes a local file of the S3 key of initial weights.
        devices: that train the network together; None for one.
    """

    def __init__(
        self,
        config: TrainingConfig,
        shards: Shards,
        class_counts: Sequence[int],
        fetch: Fetch | None = None,
        devices: Devices | None = None,
    ) -> None:
        configure_tensorflow(config)
        self._config, self._shards = config, shards
        self._weights = class_weights(class_counts, config.class_weight_power)
        self.images = sum(class_counts)
        self._fetch, self._devices = fetch, devices or OneDevice()
        with self._devices.scope():
            self.network = build_network(config.network, shards.image_size, fetch)
            self._compile()
        self._step = self._devices.step(self.network)
        self.predict_on_batch = self._devices.forward(self.network)
        self._average = [np.array(value) for value in _values(self._trained())]

    @property
    def _drop_last(self) -> bool:
        return self.images >= self._config.batch_size

    @property
    def images_per_epoch(self) -> int:
        """Return how many images an epoch steps over: whole batches, if there is one."""
        size = self._config.batch_size
        return self.images // size * size if self._drop_last else self.images

    def _compile(self) -> None:
        import keras  # noqa: PLC0415  # TensorFlow takes 10 s to import

        config = self._config
        if config.network.pretrained:
            freeze_for_fine_tuning(
                self.network, config.first_trained_block[0], depthwise=config.train_depthwise[0]
            )
        steps = max(1, config.epochs * max(1, self.images // config.batch_size))
        warmup = round(steps * config.warmup_share)
        schedule = keras.optimizers.schedules.CosineDecay(
            initial_learning_rate=0.0 if warmup else config.learning_rate,
            decay_steps=max(1, steps - warmup),
            warmup_target=config.learning_rate if warmup else None,
            warmup_steps=warmup,
        )
        optimizer = keras.optimizers.AdamW(schedule, weight_decay=config.weight_decay)
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        loss = keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=config.label_smoothing
        )
        self.network.compile(optimizer, loss, jit_compile=False)
        optimizer.build(self._trained())

    def warm_start(self, advance: Callable[[int], None]) -> None:
        """Train the classifier on features of the images as they are and mirrored.

        The features are computed once, of at most 20,000 images, so memory has a bound. A
        network that is not pretrained has no features worth this and stays as it is.

        Args:
            advance: told the number of images of each batch.
        """
        if not self._config.network.pretrained or not self._config.warm_start_epochs:
            return
        features, labels = self._features(advance)
        head = self._train_head(features, labels)
        weights = self._devices.from_chief(head.layers[-1].get_weights())
        self.network.get_layer("logits").set_weights(weights)
        self._average = [np.array(value) for value in _values(self._trained())]

    def _features(
        self, advance: Callable[[int], None]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        import keras  # noqa: PLC0415  # TensorFlow takes 10 s to import

        batches = training_batches(
            self._shards, None, self._config.seed, 0, drop_last=self._drop_last
        )
        batches = batches.take(-(-WARM_START_IMAGES // self._config.batch_size))
        with self._devices.scope():
            embed = keras.Model(self.network.input, self.network.get_layer("embedding").output)
        extract = self._devices.forward(embed)
        features: list[NDArray[np.float32]] = []
        labels: list[NDArray[np.int64]] = []
        for images, batch_labels in batches:
            for view in (images, images[:, :, ::-1]):
                features.append(extract(view))
                labels.append(batch_labels.numpy())
            advance(len(batch_labels))
        return np.concatenate(features), np.concatenate(labels)

    def _train_head(
        self, features: NDArray[np.float32], labels: NDArray[np.int64]
    ) -> "keras.Model":
        import keras  # noqa: PLC0415  # TensorFlow takes 10 s to import

        config = self._config
        head = keras.Sequential(
            [
                keras.Input((features.shape[1],)),
                keras.layers.Dropout(config.network.dropout),
                keras.layers.Dense(len(LESION_CLASSES)),
            ]
        )
        loss = keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=config.label_smoothing
        )
        head.compile(keras.optimizers.AdamW(_WARM_START_LEARNING_RATE), loss, jit_compile=False)
        random = np.random.default_rng(config.seed)
        size = min(_WARM_START_BATCH, len(labels))
        for _ in range(config.warm_start_epochs):
            order = random.permutation(len(labels))
            for start in range(0, len(labels) - size + 1, size):
                chosen = order[start : start + size]
                head.train_on_batch(features[chosen], *self._targets(labels[chosen]))
        return head

    def train_epoch(self, epoch: int, advance: Callable[[int], None]) -> float:
        """Go once through the training images.

        Args:
            epoch: from 1; decides their order and augmentation.
            advance: told the number of images of each step.

        Returns:
            The mean training loss, class weights and label smoothing included.

        Raises:
            PermanentError: the loss stopped being a number.
        """
        config, losses = self._config, _Mean()
        batches = training_batches(
            self._shards,
            config.augmentation,
            config.seed,
            epoch,
            drop_last=self._drop_last,
            share=self._devices.share,
        )
        whole = min(config.batch_size, self.images)
        for images, labels in batches:
            loss = self._step(images, *self._targets(labels.numpy()), whole)
            if not np.isfinite(loss):
                message = f"the loss is not a number in epoch {epoch}: lower learning_rate"
                raise PermanentError(message)
            losses.add(loss, whole)
            self._update_average()
            advance(whole)
        return losses.value

    def _targets(
        self, labels: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return np.eye(len(LESION_CLASSES), dtype=np.float32)[labels], self._weights[labels]

    def _update_average(self) -> None:
        steps = int(self.network.optimizer.iterations.numpy())
        decay = min(self._config.average_decay, (1 + steps) / (10 + steps))
        for average, value in zip(self._average, _values(self._trained()), strict=True):
            np.add(average, (1 - decay) * np.subtract(value, average), out=average)

    @contextmanager
    def averaged(self) -> Iterator["keras.Model"]:
        """Lend the network with the averaged weights in it."""
        current = [np.array(value) for value in _values(self._trained())]
        _assign(self._trained(), self._average)
        try:
            yield self.network
        finally:
            _assign(self._trained(), current)

    def finish(self) -> "keras.Model":
        """Return the network with the averaged weights in it for good, computing in float32.

        What is exported must give the same scores on every machine, however it was trained: it
        has one copy of the weights, on one device.
        """
        import keras  # noqa: PLC0415  # TensorFlow takes 10 s to import

        _assign(self._trained(), self._average)
        if self._devices.count == 1 and keras.config.dtype_policy().name == _FULL_PRECISION:
            return self.network
        keras.config.set_dtype_policy(_FULL_PRECISION)
        network = build_network(self._config.network, self._shards.image_size, self._fetch)
        network.set_weights(self.network.get_weights())
        return network

    def state(self) -> TrainingState:
        """Return everything that the next epoch depends on."""
        return TrainingState(
            network=_values(self.network.variables),
            optimizer=_values(self.network.optimizer.variables),
            average=self._average,
        )

    def restore(self, state: TrainingState) -> None:
        """Go back to a state."""
        _assign(self.network.variables, state.network)
        _assign(self.network.optimizer.variables, state.optimizer)
        self._average = [np.array(value) for value in state.average]

    def _trained(self) -> list["keras.Variable"]:
        return cast("list[keras.Variable]", self.network.trainable_variables)


class Predictor(Protocol):
    """A network, or a learner with its devices."""

    def predict_on_batch(self, images: NDArray[np.uint8], /) -> NDArray[np.float32]:
        """Return outputs (B, …) of images (B, H, W, 3)."""


def predict_logits(network: Predictor, shards: Shards) -> NDArray[np.float32]:
    """Return logits (N, 7) of all examples, in the order of the files."""
    batches = (images.numpy() for images, _ in ordered_batches(shards))
    return np.concatenate([_predict(network, images, shards.batch_size) for images in batches])


def _predict(network: Predictor, images: NDArray[np.uint8], batch_size: int) -> NDArray[np.float32]:
    """Fill a batch that is too small, for TensorFlow would compile the network anew for it."""
    missing = ((0, batch_size - len(images)), (0, 0), (0, 0), (0, 0))
    return network.predict_on_batch(np.pad(images, missing))[: len(images)]


def _values(variables: "Sequence[keras.Variable]") -> Arrays:
    return [variable.numpy() for variable in variables]


def _assign(variables: "Sequence[keras.Variable]", values: Arrays) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
