"""One of several hosts that train together, or one with several devices; told by arguments.

Leaves the work with code 9, as if killed, at the start of an epoch if told to.
"""

import os
import sys
from pathlib import Path

from pydantic import TypeAdapter

from dermascan.errors import TransientError
from dermascan.learning.learner import Learner
from dermascan.learning.training import TrainingConfig, TrainingData, train
from dermascan.settings import settings_from_environment
from dermascan.storage import Store

GONE = 9
LEFT_ALONE = 3


def show_tensorflow(devices: int) -> None:
    import tensorflow as tf  # noqa: PLC0415  # as in the library

    (cores,) = tf.config.list_physical_devices("CPU")
    parts = [tf.config.LogicalDeviceConfiguration() for _ in range(devices)]
    tf.config.set_logical_device_configuration(cores, parts)


def leave_in_epoch(last: int) -> None:
    train_epoch = Learner.train_epoch

    def leave(learner, epoch, advance):
        if epoch == last:
            os._exit(GONE)
        return train_epoch(learner, epoch, advance)

    Learner.train_epoch = leave


def main(folder: str, prefix: str, devices: str, leaves_in: str) -> None:
    config = TrainingConfig.model_validate_json(Path(folder, "config.json").read_bytes())
    data = TypeAdapter(TrainingData).validate_json(Path(folder, "data.json").read_bytes())
    if int(devices) > 1:
        show_tensorflow(int(devices))
    if int(leaves_in):
        leave_in_epoch(int(leaves_in))
    try:
        train(Store(settings_from_environment().storage), config, data, prefix)
    except TransientError as error:
        sys.stderr.write(f"left alone: {error}\n")
        os._exit(LEFT_ALONE)


main(*sys.argv[1:])
