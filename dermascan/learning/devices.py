"""The devices that train one network together: one, several of this host, or of several hosts.

Every step takes the same batch, whatever the number of devices. Each device computes on its share
of it, the sums of gradients are added up over all, and each applies the same step to a copy of the
weights. A training differs between one device and several by the rounding of sums alone.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from dermascan.errors import InputError, TransientError
from dermascan.learning.checkpoints import Arrays
from dermascan.learning.cluster import Share, share_of_host

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]

# (images uint8 (n, H, W, 3), targets float32 (n, classes), weights float32 (n,)), all this host's
# share of a batch, and the number of images in the whole batch -> mean loss of the whole batch
Step = Callable[["tf.Tensor", Floats, Floats, int], float]

# images uint8 (N, H, W, 3), the same on every host -> outputs float32 (N, …) of all of them
Forward = Callable[[NDArray[np.uint8]], Floats]


class Devices(Protocol):
    """What computes.

    Attributes:
        share: of each batch that this host feeds to its devices.
        count: devices, of all hosts together.
    """

    share: Share
    count: int

    def scope(self) -> AbstractContextManager[object]:
        """Make the variables that are created within usable by all devices."""

    def step(self, network: "keras.Model") -> Step:
        """Return what trains a compiled network on a batch."""

    def forward(self, network: "keras.Model") -> Forward:
        """Return what applies a network to images."""

    def from_chief(self, arrays: Arrays) -> Arrays:
        """Return the arrays that the first host gives; all hosts must call, and wait for all.

        Raises:
            TransientError: another host is gone.
        """


class OneDevice:
    """A GPU or the cores of this host, used as Keras does by itself."""

    share = Share()
    count = 1

    def scope(self) -> AbstractContextManager[object]:
        """Return a context that changes nothing."""
        return nullcontext()

    def step(self, network: "keras.Model") -> Step:
        """Return Keras's own step."""

        def train(images: "tf.Tensor", targets: Floats, weights: Floats, _whole: int) -> float:
            return float(network.train_on_batch(images, targets, weights))

        return train

    def forward(self, network: "keras.Model") -> Forward:
        """Return Keras's own inference."""
        return cast("Forward", network.predict_on_batch)

    def from_chief(self, arrays: Arrays) -> Arrays:
        """Return the arrays as they are."""
        return arrays


class SeveralDevices:
    """Devices that hold a copy of the weights each.

    Args:
        strategy: `MirroredStrategy` or `MultiWorkerMirroredStrategy`.
        share: of this host.

    Raises:
        InputError: the hosts have different numbers of devices.
    """

    def __init__(self, strategy: "tf.distribute.Strategy", share: Share) -> None:
        self._strategy, self.share = strategy, share
        self.count = strategy.num_replicas_in_sync
        self._local = len(strategy.extended.worker_devices)
        if self._local * share.of != self.count:
            message = f"{share.of} hosts have {self.count} devices, this one {self._local}: "
            raise InputError(message + "start the same number on each")
        logger.info("training on %d devices of %d hosts", self.count, share.of)

    def scope(self) -> AbstractContextManager[object]:
        """Return the strategy's scope: each variable gets a copy on each device."""
        return cast("AbstractContextManager[object]", self._strategy.scope())

    def step(self, network: "keras.Model") -> Step:
        """Return a step whose gradients are added up over all devices.

        What is hidden of the embedding (dropout) is drawn for the whole batch, then shared out, so
        that it is the same as on one device; batch normalisation that learns takes its statistics
        from the whole batch.
        """
        _synchronise_normalisation(network)
        run = self._compiled_step(network)
        dropout = network.get_layer("dropout")
        width = network.get_layer("embedding").output.shape[-1]

        def train(images: "tf.Tensor", targets: Floats, weights: Floats, whole: int) -> float:
            import tensorflow as tf  # noqa: PLC0415  # TensorFlow takes 10 s to import

            self._require_enough(whole)
            kept = dropout(tf.ones((whole, width), dropout.compute_dtype), training=True)
            batch = (images, targets, weights, kept[self.share.index :: self.share.of])
            with _peers():
                loss = run(*map(self._dealt, batch), tf.constant(whole, tf.float32))
                return float(loss)

        return train

    def _compiled_step(self, network: "keras.Model") -> "Callable[..., tf.Tensor]":
        import keras  # noqa: PLC0415  # TensorFlow takes 10 s to import
        import tensorflow as tf  # noqa: PLC0415  # likewise

        with self.scope():
            embed = keras.Model(network.input, network.get_layer("embedding").output)
        logits = network.get_layer("logits")

        def train(
            images: "tf.Tensor", targets: "tf.Tensor", weights: "tf.Tensor",
            kept: "tf.Tensor", whole: "tf.Tensor",
        ) -> "tf.Tensor":  # fmt: skip
            with tf.GradientTape() as tape:
                outputs = logits(embed(images, training=True) * kept)
                loss = tf.reduce_sum(network.loss.call(targets, outputs) * weights) / whole
            trained = network.trainable_variables
            network.optimizer.apply(tape.gradient(loss, trained), trained)  # adds up over devices
            return loss

        @tf.function  # type: ignore[untyped-decorator]  # TensorFlow ships no types
        def run(*batch: "tf.Tensor") -> "tf.Tensor":
            losses = self._strategy.run(train, args=batch)
            return self._strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None)

        return cast("Callable[..., tf.Tensor]", run)

    def forward(self, network: "keras.Model") -> Forward:
        """Return inference whose images are shared out, and whose outputs come to every host."""
        import tensorflow as tf  # noqa: PLC0415  # TensorFlow takes 10 s to import

        @tf.function  # type: ignore[untyped-decorator]  # TensorFlow ships no types
        def run(images: "tf.Tensor") -> "tf.Tensor":
            outputs = self._strategy.run(lambda some: network(some, training=False), args=(images,))
            return self._strategy.gather(outputs, axis=0)

        def forward(images: NDArray[np.uint8]) -> Floats:
            self._require_enough(len(images))
            with _peers():
                gathered = run(self._dealt(images[self.share.index :: self.share.of])).numpy()
            outputs = np.empty(gathered.shape, np.float32)
            outputs[self._order(len(images))] = gathered
            return outputs

        return forward

    def from_chief(self, arrays: Arrays) -> Arrays:
        """Return the first host's arrays, float or int, to the bit."""
        import tensorflow as tf  # noqa: PLC0415  # TensorFlow takes 10 s to import

        if self.share.of == 1:
            return arrays

        def given(values: "Sequence[tf.Tensor]") -> "Sequence[tf.Tensor]":
            context = tf.distribute.get_replica_context()
            is_chief = tf.equal(context.replica_id_in_sync_group, 0)
            own = [tf.where(is_chief, value, tf.zeros_like(value)) for value in values]
            return [context.all_reduce(tf.distribute.ReduceOp.SUM, value) for value in own]

        @tf.function  # type: ignore[untyped-decorator]  # TensorFlow ships no types
        def run(values: "Sequence[tf.Tensor]") -> "Sequence[tf.Tensor]":
            return cast("Sequence[tf.Tensor]", self._strategy.run(given, args=(values,)))

        with _peers():
            received = run([tf.convert_to_tensor(array) for array in arrays])
            return [self._strategy.experimental_local_results(each)[0].numpy() for each in received]

    def _require_enough(self, images: int) -> None:
        if images < self.count:
            message = f"a batch of {images} images cannot be shared by {self.count} devices: raise "
            raise InputError(f"{message}batch_size, or show TensorFlow fewer devices")

    def _dealt(self, array: "tf.Tensor | Floats") -> "tf.distribute.DistributedValues":
        """Deal this host's share to its devices."""
        import tensorflow as tf  # noqa: PLC0415  # TensorFlow takes 10 s to import

        def part(context: "tf.distribute.ValueContext") -> "tf.Tensor":
            return tf.convert_to_tensor(array[self._local_index(context) :: self._local])

        return self._strategy.experimental_distribute_values_from_function(part)

    def _local_index(self, context: "tf.distribute.ValueContext") -> int:
        return int(context.replica_id_in_sync_group) - self.share.index * self._local

    def _order(self, whole: int) -> NDArray[np.int64]:
        """Return the position in the batch of each image, device by device."""
        hosts = [Share(host, self.share.of) for host in range(self.share.of)]
        parts = [host.part(local, self._local) for host in hosts for local in range(self._local)]
        return np.concatenate([np.array(part.places(whole), np.int64) for part in parts])


def find_devices() -> Devices:
    """Return what there is to train with: call it before TensorFlow computes anything.

    With several hosts in `TF_CONFIG`, all devices of all of them; else the GPUs of this host if
    there are several, else what TensorFlow takes by itself.

    Raises:
        InputError: `TF_CONFIG` cannot be used.
        TransientError: the other hosts did not come.
    """
    import tensorflow as tf  # noqa: PLC0415  # TensorFlow takes 10 s to import

    share = share_of_host()
    if share.of > 1:
        logger.info("host %d of %d, waiting for the others", share.index + 1, share.of)
        with _peers():
            return SeveralDevices(tf.distribute.MultiWorkerMirroredStrategy(), share)
    found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(found) > 1:
        names = [device.name for device in found]
        return SeveralDevices(tf.distribute.MirroredStrategy(names), share)
    return OneDevice()


def _synchronise_normalisation(network: "keras.Model") -> None:
    import keras  # noqa: PLC0415  # TensorFlow takes 10 s to import

    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True


@contextmanager
def _peers() -> Iterator[None]:
    """Say what it means that another host does not answer."""
    import tensorflow as tf  # noqa: PLC0415  # TensorFlow takes 10 s to import

    errors = tf.errors
    try:
        yield
    except (errors.UnavailableError, errors.AbortedError, errors.DeadlineExceededError) as error:
        message = "another host of the training is gone: start it anew on all, and it goes on"
        raise TransientError(f"{message} ({error.message.splitlines()[0][:200]})") from error
