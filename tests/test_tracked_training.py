import json
from uuid import uuid4
from xml.etree import ElementTree as ET

import pytest

from dermascan.example_set import ExampleSet
from dermascan.imaging import ImageSize, Preprocessing
from dermascan.layout import TrainingKeys
from dermascan.model.metadata import ModelMetadata
from dermascan.model.signatures import describe_signatures
from dermascan.tracked_training import tell_dataset, tell_run, tell_training
from dermascan.tracking import MlflowTracker

EPOCHS = [
    {"member": 0, "epoch": n, "loss": 1 / n, "val_loss": 1.1 / n, "val_malignant_auc": 0.8,
     "images_per_second": 9.0, "seconds": 1.0, "val_accuracy": 0.5, "val_balanced_accuracy": 0.5}
    for n in (1, 2)
]  # fmt: skip


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    from mlflow import MlflowClient  # noqa: PLC0415  # takes seconds to import

    folder = tmp_path_factory.mktemp("mlflow")
    made = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    made.create_experiment("isic", artifact_location=(folder / "artifacts").as_uri())
    return made


@pytest.fixture
def tracker(client):
    return MlflowTracker(client.tracking_uri, "isic", uuid4().hex)


@pytest.fixture
def told(client, tracker):
    return lambda: client.get_run(tracker.run_id)


def put_training(store, *, hair_removal=False):
    described = ModelMetadata(
        licences={}, malignant_classes=("mel",), threshold=0.25, dataset_fingerprint="d",
        training_fingerprint="f1", network={}, versions={},
        preprocessing=Preprocessing(ImageSize(16, 24), hair_removal=hair_removal),
    )  # fmt: skip
    signatures = describe_signatures(described, (None, 4), (None, 2, 3, 7))
    metadata = described.model_copy(update={"signatures": signatures})
    keys = TrainingKeys("f1")
    store.put(f"{keys.model}metadata.json", metadata.model_dump_json().encode())
    store.put(keys.history, json.dumps({"epochs": EPOCHS}).encode())


def test_the_airflow_run_is_one_click_away(tracker, told):
    tell_run(tracker, "train_model/r1", "http://airflow/dags/train_model/runs/r1")
    tags = told().data.tags
    assert tags["airflow.run"] == "train_model/r1"
    assert "(http://airflow/dags/train_model/runs/r1)" in tags["mlflow.note.content"]


def test_the_dataset_is_known_by_its_fingerprint(store, tracker, told):
    examples = ExampleSet(
        "isic", "e" * 24, "m" * 24, Preprocessing(), (), {"train": {"nv": 7}}, 0, 0, ()
    )
    tell_dataset(tracker, store, examples)
    (found,) = told().inputs.dataset_inputs
    assert (found.dataset.name, found.dataset.digest) == ("isic", "m" * 24)
    assert json.loads(found.dataset.profile) == {"train": {"nv": 7}}
    source = json.loads(found.dataset.source)
    assert source["uri"] == store.address(f"raw/isic/manifests/{'m' * 24}.parquet")


@pytest.mark.parametrize(
    ("hair_removal", "shape"), [(False, (-1, -1, -1, 3)), (True, (-1, 16, 24, 3))]
)
def test_the_model_has_signature_and_example_and_leads_to_its_files(  # noqa: PLR0917  # fixtures
    store, client, tracker, told, hair_removal, shape
):
    from mlflow.models import Model  # noqa: PLC0415  # takes seconds to import

    put_training(store, hair_removal=hair_removal)
    tell_training(tracker, store, "f1")
    tell_training(tracker, store, "f1")  # a second try

    run = told().info
    (made,) = client.search_logged_models([run.experiment_id], f"source_run_id = '{run.run_id}'")
    assert made.status == "READY"
    assert made.tags["dermascan.model"] == store.address("training/f1/model/")
    folder = made.artifact_location.removeprefix("file://")
    model = Model.load(folder)
    (image,) = model.signature.inputs.inputs
    assert (image.name, image.shape, str(image.type)) == ("images", shape, "uint8")
    names = [output.name for output in model.signature.outputs.inputs]
    assert names == ["probabilities", "p_malignant", "embedding"]
    example = model.load_input_example(folder)["images"]
    assert example.shape[-1] == 3
    assert example.shape[1:3] == (tuple(shape[1:3]) if hair_removal else (8, 8))


def test_figures_stand_alone(store, client, tracker, told):
    put_training(store)
    tell_training(tracker, store, "f1")
    run = told().info.run_id
    figures = client.list_artifacts(run, "figures")
    assert [figure.path for figure in figures] == [
        "figures/learning-losses.svg",
        "figures/learning-validation-auc.svg",
    ]
    svg = ET.parse(client.download_artifacts(run, figures[0].path))  # noqa: S314  # our own
    assert "--benign:#1f5fa8" in svg.getroot()[0].text
