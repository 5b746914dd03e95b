import keras
import numpy as np
import pytest

from dermascan.imaging import ImageSize
from dermascan.learning.learner import Learner, TrainingConfig, class_weights, predict_logits
from dermascan.learning.network import NetworkSpec
from dermascan.learning.shards import Shards
from dermascan.records import Record, write_records

SIZE = ImageSize(16, 24)
COUNTS = (0, 0, 0, 0, 10, 10, 0)


@pytest.fixture
def shards(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (20, 16, 24, 3), np.uint8)
    records = [
        Record(image, 4 + i % 2, f"ISIC_{i:07d}", None, "0" * 64) for i, image in enumerate(images)
    ]
    write_records(tmp_path / "packed", records)
    return Shards.unpack(tmp_path / "packed", tmp_path / "pixels", SIZE, batch_size=5)


def learner_of(shards, **settings):
    config = TrainingConfig(epochs=1, batch_size=5, network=NetworkSpec.of("small_cnn"), **settings)
    return Learner(config, shards, COUNTS)


def test_finish_after_mixed_precision_gives_the_same_network_in_float32(shards):
    learner = learner_of(shards, precision="mixed_bfloat16", learning_rate=0.01)
    assert learner.network.get_layer("embedding").compute_dtype == "bfloat16"
    learner.train_epoch(1, lambda _: None)
    with learner.averaged() as network:
        mixed = predict_logits(network, shards)

    finished = learner.finish()

    assert {layer.compute_dtype for layer in finished.layers} == {"float32"}
    assert keras.config.dtype_policy().name == "float32"
    np.testing.assert_allclose(predict_logits(finished, shards), mixed, atol=0.05)


def test_finish_gives_the_averaged_weights(shards):
    learner = learner_of(shards, learning_rate=0.01, average_decay=0.9)
    learner.train_epoch(1, lambda _: None)
    last = predict_logits(learner.network, shards)
    with learner.averaged() as network:
        averaged = predict_logits(network, shards)

    finished = predict_logits(learner.finish(), shards)

    np.testing.assert_array_equal(finished, averaged)
    assert not np.allclose(finished, last, atol=1e-4)


def test_precision_by_default_is_float32_without_a_gpu(shards):
    assert learner_of(shards).network.get_layer("embedding").compute_dtype == "float32"


def test_class_weights_average_to_one_over_the_images():
    weights = class_weights((900, 100, 0), power=0.5)

    assert weights[2] == 0
    assert weights[1] / weights[0] == pytest.approx(3)
    assert (weights * [900, 100, 0]).sum() / 1000 == pytest.approx(1)
