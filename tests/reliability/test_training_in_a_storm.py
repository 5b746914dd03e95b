"""A training, from the split to its exported model, while every third request goes wrong."""

from archives import serving
from reliability import objects
from reliability.conftest import QUICK
from reliability.fault_proxy import FaultProxy
from reliability.test_steps_in_a_storm import EVERY, STORM
from test_pipeline import SUITES, ingest

from dermascan.example_set import preprocess, split
from dermascan.experiment import train_examples
from dermascan.imaging import ImageSize, Preprocessing
from dermascan.isic.synthetic import write_archive
from dermascan.learning.network import NetworkSpec
from dermascan.learning.training import TrainingConfig, TrainingSummary
from dermascan.storage import Store

CONFIG = TrainingConfig(
    members=1,
    epochs=2,
    network=NetworkSpec("small_cnn", weights="none"),
    deterministic=True,
)


def trained(store: Store) -> TrainingSummary:
    examples = split(store, "drawn", Preprocessing(ImageSize(24, 32)), SUITES)
    for shard in range(len(examples.shards)):
        preprocess(store, examples, shard)
    return train_examples(store, examples, CONFIG, None, "storm")


def test_training_when_every_third_request_goes_wrong_leaves_the_same_objects(
    store: Store, proxy: FaultProxy, tmp_path, monkeypatch
):
    monkeypatch.setattr("dermascan.storage_calls.FIRST_PAUSE_SECONDS", 0.01)
    write_archive(tmp_path / "archive", images=60, seed=3)
    with serving(tmp_path / "archive") as url:
        ingest(store, url, "drawn")
    before = objects.take(store)
    expected = trained(store)
    undisturbed = objects.take(store)
    objects.go_back(store, before)
    proxy.storm(STORM, EVERY)

    changes = {"endpoint_url": proxy.url, "patience": QUICK}
    found = trained(Store(store.settings.model_copy(update=changes), store.bucket))

    assert (found.fingerprint, found.validation) == (expected.fingerprint, expected.validation)
    assert objects.differences(store, undisturbed) == []
    assert proxy.struck >= 2 * len(STORM)
