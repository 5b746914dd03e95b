import subprocess
import sys

import numpy as np
import pytest

from dermascan.errors import InputError, PermanentError
from dermascan.imaging import ImageSize, Preprocessing
from dermascan.learning import training
from dermascan.learning.checkpoints import Checkpoints
from dermascan.learning.fitting import best_epoch, epochs_left
from dermascan.learning.network import NetworkSpec
from dermascan.learning.training import (
    EpochRecord,
    TrainingConfig,
    TrainingData,
    TrainingSummary,
    ValidationFigures,
    train,
    training_fingerprint,
)
from dermascan.model.loading import load_fastest
from dermascan.model.savedmodel import load_scorer
from dermascan.model.twin import read_record
from dermascan.records import Record, write_records
from dermascan.scores import read_scores
from dermascan.taxonomy import LESION_CLASSES

SIZE = ImageSize(16, 24)
CONFIG = TrainingConfig(
    members=1,
    epochs=3,
    batch_size=8,
    learning_rate=0.01,
    network=NetworkSpec.of("small_cnn"),
    deterministic=True,
)
RANDOM = np.random.default_rng(9)


class RecordingTracker:
    """Remembers what it is told; can end the training as a kill would."""

    def __init__(self, dies_at=None):
        self.params, self.steps, self.tags = {}, {}, {}
        self.artifacts, self.finished, self.dies_at = [], False, dies_at

    def log_params(self, params):
        self.params = params

    def log_metrics(self, metrics, step):
        if self.dies_at and self.dies_at[0] == step and self.dies_at[1] in metrics:
            raise KeyboardInterrupt
        self.steps.setdefault(step, {}).update(metrics)

    def log_artifact(self, path):
        self.artifacts.append((path.name, path.read_bytes()))

    def set_tag(self, name, value):
        self.tags[name] = value

    def finish(self):
        self.finished = True


def coloured(label, count, random):
    """Make images that a colour tells apart: malignant ones are red."""
    colour = (200, 60, 60) if label == 4 else (60, 60, 200)
    noise = random.integers(-40, 40, (count, SIZE.height, SIZE.width, 3))
    return (np.array(colour) + noise).clip(0, 255).astype(np.uint8)


def put_examples(store, folder, labels=(4, 5)):
    random = np.random.default_rng(0)
    for split, count in (("train", 20), ("val", 9)):
        images = [(label, image) for label in labels for image in coloured(label, count, random)]
        records = [
            Record(image, label, f"ISIC_{i:07d}", None, "0" * 64)
            for i, (label, image) in enumerate(images)
        ]
        write_records(folder / "shard", records)
        store.put_file(f"p/{split}/part-00000.tfrecord.gz", folder / "shard")
    counts = tuple(20 if label in labels else 0 for label in range(7))
    return TrainingData(
        ("p/train/part-00000.tfrecord.gz",),
        ("p/val/part-00000.tfrecord.gz",),
        counts,
        "f" * 24,
        Preprocessing(image_size=SIZE),
        licences=("CC-0",),
    )


def record(epoch, auc, loss):
    return EpochRecord(
        epoch=epoch, seconds=1, images_per_second=1, loss=1, val_loss=loss, val_accuracy=0,
        val_balanced_accuracy=0, val_malignant_auc=auc,
    )  # fmt: skip


@pytest.fixture
def data(store, tmp_path):
    return put_examples(store, tmp_path)


def test_train_when_killed_and_run_again_ends_as_if_undisturbed(store, data):
    name = training_fingerprint(CONFIG, data)
    undisturbed = train(store, CONFIG, data, "t/whole/")

    with pytest.raises(KeyboardInterrupt):
        train(store, CONFIG, data, "t/killed/", tracker=RecordingTracker(dies_at=(1, "val_loss")))
    tracker = RecordingTracker()
    resumed = train(store, CONFIG, data, "t/killed/", tracker=tracker)

    assert sorted(tracker.steps) == [2, 3]
    whole, killed = (
        Checkpoints(store, f"t/{run}/checkpoints/network-00/", name).load(3)
        for run in ("whole", "killed")
    )
    for part in ("network", "optimizer", "average"):
        for one, other in zip(getattr(whole, part), getattr(killed, part), strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)
    assert resumed.threshold == pytest.approx(undisturbed.threshold, abs=1e-5)
    assert resumed.best[0].epoch == undisturbed.best[0].epoch


def test_train_of_an_ensemble_when_killed_in_the_second_network_ends_as_if_undisturbed(
    store, data, tmp_path
):
    config = CONFIG.model_copy(update={"members": 2, "epochs": 2})
    name = training_fingerprint(config, data)
    undisturbed = train(store, config, data, "t/whole/")

    killer = RecordingTracker(dies_at=(1, "network_1/val_loss"))
    with pytest.raises(KeyboardInterrupt):
        train(store, config, data, "t/killed/", tracker=killer)
    tracker = RecordingTracker()
    resumed = train(store, config, data, "t/killed/", tracker=tracker)

    assert sorted(tracker.steps) == [2]
    assert "network_1/loss" in tracker.steps[2]
    assert resumed.threshold == pytest.approx(undisturbed.threshold, abs=1e-5)
    assert [record.member for record in resumed.best] == [0, 1]
    averages = [
        Checkpoints(store, f"t/{run}/checkpoints/network-{member:02d}/", name).load(2).average
        for run in ("whole", "killed")
        for member in (0, 1)
    ]
    np.testing.assert_allclose(averages[1][0], averages[3][0], rtol=0, atol=1e-6)
    assert not np.allclose(averages[0][0], averages[1][0], rtol=0, atol=1e-3)
    folder = fetch_model(store, resumed, tmp_path)
    assert load_scorer(folder).score(coloured(4, 3, RANDOM)).embedding.shape == (3, 2 * 64)
    twin = load_fastest(folder)
    assert twin.runtime.startswith("ONNX Runtime")
    assert twin.explain(coloured(4, 3, RANDOM)).shape == (3, 2, 3, 7)


def test_train_judges_each_fold_by_the_networks_that_did_not_learn_from_it(
    store, data, tmp_path, monkeypatch
):
    learned, judged, joined = [], [], []
    fitting, averaged = training.Fitting, training.averaged_logits

    def fit(job):
        learned.append(set(job.train_shards.isic_ids[40:].tolist()))
        judged.append(job.val_shards.isic_ids.tolist())
        assert sum(job.class_counts) == 40 + len(learned[-1])
        return fitting(job)

    def join(networks, views):
        joined.append(list(networks))
        return averaged(networks, views)

    monkeypatch.setattr(training, "Fitting", fit)
    monkeypatch.setattr(training, "averaged_logits", join)
    config = CONFIG.model_copy(update={"members": 4, "epochs": 1, "validation_folds": 2})

    summary = train(store, config, data, "t/")

    names = {f"ISIC_{i:07d}" for i in range(18)}
    assert all(not (one & set(other)) for one, other in zip(learned, judged, strict=True))
    assert all(one | set(other) == names for one, other in zip(learned, judged, strict=True))
    assert judged[0] == judged[1]
    assert judged[2] == judged[3]
    assert [len(networks) for networks in joined] == [2, 2]
    assert not {id(each) for each in joined[0]} & {id(each) for each in joined[1]}
    scores = read_scores(store, "t/validation.parquet")
    assert scores["isic_id"].tolist() == judged[0] + judged[2]
    assert summary.val_images == 18
    folder = fetch_model(store, summary, tmp_path)
    assert load_scorer(folder).metadata.class_counts == {
        name: 29 if name in {"mel", "nv"} else 0 for name in LESION_CLASSES
    }


def fetch_model(store, summary, folder):
    for found in store.list(summary.model_prefix):
        path = folder / "model" / found.key.removeprefix(summary.model_prefix)
        path.parent.mkdir(parents=True, exist_ok=True)
        store.get_file(found.key, path)
    return folder / "model"


def test_train_leaves_a_model_that_has_learned_and_says_everything(store, data, tmp_path):
    tracker = RecordingTracker()

    summary = train(store, CONFIG, data, "t/", tracker=tracker)

    folder = fetch_model(store, summary, tmp_path)
    scorer = load_scorer(folder)
    random = np.random.default_rng(9)
    red, blue = (scorer.score(coloured(label, 20, random)).p_malignant for label in (4, 5))
    assert red.min() >= scorer.metadata.threshold > blue.max()
    assert scorer.metadata.threshold == summary.threshold
    assert read_record(folder).differences.real_images == 18  # all validation images
    assert load_fastest(folder).runtime.startswith("ONNX Runtime")
    assert scorer.metadata.temperature == summary.temperature
    assert scorer.metadata.training_fingerprint == summary.fingerprint
    assert scorer.metadata.licences == {"training data": "CC-0"}
    assert summary.validation.val_malignant_auc == 1.0
    assert (summary.sensitivity, summary.specificity) == (1.0, 1.0)
    assert summary.val_images == 18
    history = store.get_json(summary.history_key)["epochs"]
    assert [row["epoch"] for row in history] == [0, 1, 2, 3]
    assert sorted(tracker.steps) == [0, 1, 2, 3]
    assert {"loss", "images_per_second", "val_malignant_auc"} <= set(tracker.steps[3])
    assert tracker.params["network"]["architecture"] == "small_cnn"
    assert tracker.finished
    assert tracker.tags["dermascan.model"] == store.address(summary.model_prefix)
    assert tracker.artifacts == [("history.json", store.get(summary.history_key))]


def test_train_when_done_before_does_nothing(store, monkeypatch):
    summary = TrainingSummary(
        fingerprint="t", model_prefix="t/model/", history_key="t/history.json", train_images=1,
        val_images=1, parameters=1, seconds=1, best=(record(1, None, 1.0),), temperature=1,
        validation=ValidationFigures(
            val_loss=1, val_accuracy=0, val_balanced_accuracy=0, val_malignant_auc=None
        ),
        threshold=0.5, sensitivity=None, specificity=None,
    )  # fmt: skip
    store.put_json("t/DONE.json", summary.model_dump())
    monkeypatch.setattr(training, "_Run", None)

    assert train(store, CONFIG, TrainingData(("a",), ("b",), (1,) * 7, "f"), "t/") == summary


def test_train_when_validation_has_no_malignant_image_still_ends(store, tmp_path):
    config = CONFIG.model_copy(update={"epochs": 1})

    summary = train(store, config, put_examples(store, tmp_path, labels=(2, 5)), "t/")

    assert summary.validation.val_malignant_auc is None
    assert summary.threshold == 0.5
    assert summary.sensitivity is None


def test_train_when_the_loss_explodes_says_what_to_change(store, data):
    config = CONFIG.model_copy(update={"learning_rate": 1e30, "warmup_share": 0.0})

    with pytest.raises(PermanentError, match="learning_rate"):
        train(store, config, data, "t/")


def test_training_module_does_not_import_tensorflow():
    code = "import dermascan.learning.training, sys; sys.exit('tensorflow' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_training_fingerprint_changes_with_seed_and_shards_only_when_they_do():
    data = TrainingData(("a",), ("b",), (1,) * 7, "f")

    name = training_fingerprint(TrainingConfig(), data)

    assert name == training_fingerprint(TrainingConfig(), data)
    assert name != training_fingerprint(TrainingConfig(seed=1), data)
    assert name != training_fingerprint(
        TrainingConfig(), TrainingData(("c",), ("b",), (1,) * 7, "f")
    )


@pytest.mark.parametrize(
    ("train_keys", "val_keys", "counts"),
    [((), ("b",), (1,) * 7), (("a",), (), (1,) * 7), (("a",), ("b",), (0,) * 7)],
)
def test_training_data_when_a_split_is_empty_refuses(train_keys, val_keys, counts):
    with pytest.raises(InputError, match="training and validation images"):
        TrainingData(train_keys, val_keys, counts, "f")


@pytest.mark.parametrize(
    ("member", "done", "left"), [(0, 1, 3 + 1 + 4 + 1), (1, 3, 1 + 16 + 4), (3, 4, 0)]
)
def test_epochs_left_counts_networks_by_the_area_of_their_images(member, done, left):
    config = CONFIG.model_copy(update={"members": 4, "epochs": 4})
    assert epochs_left(config, member, done) == left


def test_epochs_left_counts_networks_twice_whose_depthwise_kernels_are_trained():
    config = TrainingConfig(members=3, epochs=4, train_depthwise=(False, True, True))
    assert epochs_left(config, 0, 1) == 3 + 2 * 1 + 2 * 4


def test_of_member_takes_the_settings_of_networks_in_turn():
    config = TrainingConfig(members=3, first_trained_block=(4, 0), train_depthwise=(False, True))

    of_three = [config.of_member(index) for index in range(3)]

    assert [each.first_trained_block for each in of_three] == [(4,), (0,), (4,)]
    assert [each.train_depthwise for each in of_three] == [(False,), (True,), (False,)]
    assert [each.seed for each in of_three] == [0, 1, 2]
    assert [each.network.shrink for each in of_three] == [(1,), (2,), (1,)]


def test_best_epoch_is_the_first_of_the_lowest_loss():
    history = [record(0, 0.9, 2.0), record(1, 0.8, 0.5), record(2, None, 0.5), record(3, 0.9, 0.7)]

    assert best_epoch(history).epoch == 1
