"""Two devices and two hosts train as one does, with the same batches.

The tolerance: the same numbers are added up in another order, which changes a loss in its seventh
digit; AdamW then divides gradients by their size, which lets differences of tiny gradients grow
from step to step. After the steps of these tests they are still below 1e-4 of the loss.
"""

import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

import keras
import numpy as np
import pytest
from pydantic import TypeAdapter

from dermascan.errors import InputError, NotFoundError
from dermascan.imaging import ImageSize, Preprocessing
from dermascan.layout import TrainingKeys
from dermascan.learning.augmentation import Augmentation
from dermascan.learning.checkpoints import Checkpoints
from dermascan.learning.joining import TrainingOrder, join, leave_order
from dermascan.learning.network import NetworkSpec, build_network
from dermascan.learning.training import TrainingConfig, TrainingData, train, training_fingerprint
from dermascan.records import Record, write_records

pytestmark = pytest.mark.timeout(900)

SIZE = ImageSize(16, 24)
TOLERANCE = 1e-4
SECONDS = 300  # for processes that import TensorFlow on a busy machine
HOST = Path(__file__).parents[1] / "training_host.py"
WEIGHTS = "models/pretrained/features.weights.h5"
CONFIG = TrainingConfig(
    members=1,
    epochs=3,
    batch_size=9,  # which two cannot share equally
    learning_rate=0.01,
    network=NetworkSpec("small_cnn", WEIGHTS),
    augmentation=Augmentation(noise=4.0),
)
COUNTS = (0, 0, 0, 0, 12, 28, 0)


@pytest.fixture
def data(store, tmp_path):
    """Put images of two classes, one rarer and redder, and weights to begin with."""
    random = np.random.default_rng(0)
    for split, times in (("train", 4), ("val", 2)):
        labels = [4] * 3 * times + [5] * 7 * times
        records = [
            Record(drawn(label, random), label, f"ISIC_{i:07d}", None, "0" * 64)
            for i, label in enumerate(labels)
        ]
        write_records(tmp_path / "shard", records)
        store.put_file(f"p/{split}.tfrecord.gz", tmp_path / "shard")
    keras.utils.set_random_seed(0)
    network = build_network(NetworkSpec.of("small_cnn"), SIZE)
    features = type(network)(network.input, network.get_layer("embedding").output)
    features.save_weights(tmp_path / "features.weights.h5")
    store.put_file(WEIGHTS, tmp_path / "features.weights.h5")
    return TrainingData(
        ("p/train.tfrecord.gz",), ("p/val.tfrecord.gz",), COUNTS, "f" * 24, Preprocessing(SIZE)
    )


def drawn(label, random):
    colour = (150, 90, 80) if label == 4 else (120, 90, 90)
    noise = random.integers(-60, 60, (SIZE.height, SIZE.width, 3))
    return (np.array(colour) + noise).clip(0, 255).astype(np.uint8)


class Hosts:
    """Start processes that train on the same data, each told who the others are."""

    def __init__(self, store, data, folder):
        self.store, self.folder = store, folder
        (folder / "config.json").write_text(CONFIG.model_dump_json())
        (folder / "data.json").write_bytes(TypeAdapter(TrainingData).dump_json(data))

    def run(self, prefix, *, hosts=1, devices=1, leaves_in=()):
        """Return the exit code of each, and the log of the first.

        Args:
            prefix: of what they leave.
            hosts: their number.
            devices: of each.
            leaves_in: of each host the epoch in which it is gone.
        """
        addresses = [f"127.0.0.1:{port}" for port in free_ports(hosts)]
        with ExitStack() as stack:
            processes = []
            for host in range(hosts):
                leaves = leaves_in[host] if leaves_in else 0
                arguments = [HOST, self.folder, prefix, devices, leaves]
                processes.append(stack.enter_context(self._process(arguments, addresses, host)))
            codes = [process.wait(timeout=SECONDS) for process in processes]
        return codes, self.log(0)

    def join(self, training):
        """Return the exit code of the command on each of two hosts, and the log of the first."""
        addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
        arguments = ["-m", "dermascan", "train-worker", training]
        with ExitStack() as stack:
            processes = [
                stack.enter_context(self._process(arguments, addresses, host)) for host in range(2)
            ]
            codes = [process.wait(timeout=SECONDS) for process in processes]
        return codes, self.log(0)

    @contextmanager
    def _process(self, arguments, addresses, host):
        with (self.folder / f"{host}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, *map(str, arguments)],
                env=environment_of(self.store, addresses, host),
                stderr=log,
            )
            with process:
                try:
                    yield process
                finally:
                    process.kill()

    def log(self, host):
        return (self.folder / f"{host}.log").read_text()


def environment_of(store, addresses, host):
    settings = store.settings
    cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": host}}
    return os.environ | {
        "DERMASCAN_BUCKET": store.bucket,
        "AWS_ENDPOINT_URL": settings.endpoint_url,
        "AWS_ACCESS_KEY_ID": settings.access_key_id,
        "AWS_SECRET_ACCESS_KEY": settings.secret_access_key.get_secret_value(),
        "TF_CONFIG": json.dumps(cluster),
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }


def free_ports(count):
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture
def hosts(store, data, tmp_path):
    return Hosts(store, data, tmp_path)


def assert_same_training(store, data, prefix, other):
    """Compare loss curves, what validation showed, and the last weights."""
    curves, last = [], []
    for each in (prefix, other):
        rows = store.get_json(f"{each}history.json")["epochs"]
        curves.append([[row["loss"] or 0.0, row["val_loss"]] for row in rows])
        name = training_fingerprint(CONFIG, data)
        last.append(Checkpoints(store, f"{each}checkpoints/network-00/", name).load(CONFIG.epochs))
    np.testing.assert_allclose(curves[1], curves[0], rtol=TOLERANCE)
    assert len(curves[0]) == CONFIG.epochs + 1
    assert curves[0][-1][0] < curves[0][1][0]
    for part in ("network", "optimizer", "average"):
        for one, several in zip(getattr(last[0], part), getattr(last[1], part), strict=True):
            np.testing.assert_allclose(several, one, rtol=0, atol=1e-3)


class DiesAfterEpoch1:
    def log_metrics(self, _metrics, step):
        if step == 1:
            raise KeyboardInterrupt

    def log_params(self, _params):
        pass


def test_train_on_two_devices_goes_on_where_one_was_killed_and_ends_as_one_does(store, data, hosts):
    train(store, CONFIG, data, "one/")
    with pytest.raises(KeyboardInterrupt):
        train(store, CONFIG, data, "two/", tracker=DiesAfterEpoch1())

    codes, log = hosts.run("two/", devices=2)

    assert codes == [0], log
    assert_same_training(store, data, "one/", "two/")


def test_train_on_two_hosts_when_one_is_lost_goes_on_when_both_are_there_and_ends_as_on_one(
    store, data, hosts
):
    order = TrainingOrder(config=CONFIG, data=data)
    several = TrainingKeys(order.training).prefix
    train(store, CONFIG, data, "one/")
    leave_order(store, order)

    lost, log = hosts.run(several, hosts=2, leaves_in=(0, 2))
    assert lost == [3, 9], log
    assert "another host of the training is gone" in log
    assert not store.exists(f"{several}DONE.json")
    codes, log = hosts.join(order.training)

    assert codes == [0, 0], log
    assert_same_training(store, data, "one/", several)
    assert objects(store, several) == sorted([*objects(store, "one/"), "order.json"])


def test_join_when_another_version_began_the_training_refuses(store, data):
    order = TrainingOrder(config=CONFIG, data=data)
    store.put(TrainingKeys("0" * 24).order, order.model_dump_json().encode(), "application/json")

    with pytest.raises(InputError, match="begun by another version"):
        join(store, "0" * 24)


def test_join_when_nobody_began_the_training_says_so(store):
    with pytest.raises(NotFoundError):
        join(store, "0" * 24)


def objects(store, prefix):
    """Return the names of what a training leaves; TensorFlow numbers the parts of a SavedModel."""
    return sorted(found.key.removeprefix(prefix) for found in store.list(prefix))
