"""What a training was told to do, in object storage, so that other hosts can take part in it."""

from pydantic import BaseModel, ConfigDict, ValidationError

from dermascan.errors import InputError
from dermascan.layout import TrainingKeys
from dermascan.learning.training import (
    TrainingConfig,
    TrainingData,
    TrainingSummary,
    train,
    training_fingerprint,
)
from dermascan.storage import Store


class TrainingOrder(BaseModel):
    """How to train, and on what; together they name the training."""

    model_config = ConfigDict(frozen=True)

    config: TrainingConfig
    data: TrainingData

    @property
    def training(self) -> str:
        """Return the training's fingerprint."""
        return training_fingerprint(self.config, self.data)


def leave_order(store: Store, order: TrainingOrder) -> None:
    """Write what `join` needs on other hosts."""
    store.put_json(TrainingKeys(order.training).order, order.model_dump(mode="json"))


def join(store: Store, training: str) -> TrainingSummary:
    """Take part in a training, or go on with it, as this host's `TF_CONFIG` says.

    Args:
        store: the bucket.
        training: its fingerprint.

    Returns:
        What the training left, when it is done on all hosts.

    Raises:
        NotFoundError: no such training was begun in this bucket.
        InputError: it was begun by another version of DermaScan.
        TransientError: another host is gone; started anew on all, the training goes on.
    """
    keys = TrainingKeys(training)
    order = _read(store.get(keys.order), training)
    return train(store, order.config, order.data, keys.prefix)


def _read(body: bytes, training: str) -> TrainingOrder:
    message = f"training {training} was begun by another version of DermaScan: install the same"
    try:
        order = TrainingOrder.model_validate_json(body)
    except ValidationError as error:
        raise InputError(f"{message} ({error})") from error
    if order.training != training:
        raise InputError(message)
    return order
