"""`dermascan predict` with a real, untrained network of its own and a real S3 server."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hostile import encoded, hostile_images, photograph
from PIL import Image
from typer.testing import CliRunner

from dermascan import DISCLAIMER
from dermascan.cli import app
from dermascan.imaging import ImageSize, Preprocessing
from dermascan.inference.batch import predict as predict_shard
from dermascan.inference.batch import resolve, summarise
from dermascan.learning.network import NetworkSpec, build_network
from dermascan.model.savedmodel import ModelMetadata, export
from dermascan.registry import Decision, ModelReference, promote
from dermascan.storage import Store
from dermascan.versions import publish_version

SIZE = ImageSize(24, 32)
SPEC = NetworkSpec.of("small_cnn")
VERSION = 20260101000000
IMAGES = {f"{seed}.jpg": encoded(photograph(seed=seed), "JPEG") for seed in range(5)}


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    metadata = ModelMetadata(
        malignant_classes=("akiec", "bcc", "mel"),
        threshold=0.43,
        preprocessing=Preprocessing(image_size=SIZE),
        dataset_fingerprint="d" * 24,
        training_fingerprint="t" * 24,
        network=SPEC.as_plain(),
        licences={},
    )
    export([build_network(SPEC, SIZE)], metadata, folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of photographs, one in a folder of its own, and a file that is none."""
    images = tmp_path / "images"
    (images / "deeper").mkdir(parents=True)
    for name, data in IMAGES.items():
        (images / name).write_bytes(data)
    (images / "deeper" / "small.png").write_bytes(encoded(photograph(64, 48), "PNG"))
    (images / "notes.txt").write_text("no image")
    (images / ".hidden").write_text("not looked at")
    return images


@pytest.fixture
def run(exported: Path):
    def invoke(*arguments: object):
        words = [str(each) for each in arguments]
        return CliRunner().invoke(app, ["predict", *words, "--model-folder", str(exported)])

    return invoke


@pytest.fixture
def environment(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    secret = store.settings.secret_access_key
    assert secret
    for name, value in {
        "DERMASCAN_BUCKET": store.bucket,
        "AWS_ENDPOINT_URL": str(store.settings.endpoint_url),
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": secret.get_secret_value(),
    }.items():
        monkeypatch.setenv(name, value)
    return store


def risks(path: Path) -> dict[str, float]:
    table = pd.read_csv(path)
    names = [Path(key).name for key in table["image_key"]]
    return dict(zip(names, table["p_malignant"], strict=True))


def test_predict_a_folder_shows_each_file_once_by_risk_and_the_rejected_last(run, folder):
    result = run(folder)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    shown = [float(line.split()[0]) for line in lines[1:7]]
    assert shown == sorted(shown, reverse=True)
    assert lines[7].split()[0] == "rejected"
    assert "notes.txt" in lines[7]
    assert "not_an_image" in lines[7]
    assert "6 scored, threshold 0.430; 1 rejected" in lines[8]
    assert "small" in next(line for line in lines if "small.png" in line).split()
    assert ".hidden" not in result.stdout
    assert DISCLAIMER in result.stdout


def test_predict_gives_the_scores_of_batch_inference(run, folder, exported, environment, tmp_path):
    store = environment
    publish_version(store, "tiny", VERSION, exported)
    for name, data in IMAGES.items():
        store.put(f"new/{name}", data)
    plan = resolve(store, "new/", ModelReference("tiny", str(VERSION)))
    assert predict_shard(store, plan, 0)
    summarise(store, plan)
    (tmp_path / "batch.csv").write_bytes(store.get(f"{plan.output}predictions.csv"))

    assert run(folder, "--csv", tmp_path / "here.csv").exit_code == 0

    batch, here = risks(tmp_path / "batch.csv"), risks(tmp_path / "here.csv")
    assert batch.keys() == IMAGES.keys()
    for name, risk in batch.items():
        assert here[name] == pytest.approx(risk, abs=1e-5)


def test_predict_writes_csv_json_and_a_picture(run, folder, tmp_path):
    csv_path, json_path, picture = (tmp_path / f"out.{end}" for end in ("csv", "json", "png"))
    result = run(folder, "--csv", csv_path, "--json", json_path, "--picture", picture)
    assert result.exit_code == 0, result.output
    with csv_path.open() as file:
        rows = list(csv.DictReader(file))
    document = json.loads(json_path.read_text())
    assert [row["image_key"] for row in rows] == [
        result["filename"] for result in document["results"]
    ]
    assert document["threshold"] == pytest.approx(0.43)
    assert document["disclaimer"] == DISCLAIMER
    first, *_, last = document["results"]
    assert sum(first["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert first["quality"].keys() >= {"width", "height", "sharpness", "warnings"}
    assert (last["status"], last["probabilities"], last["p_malignant"]) == ("rejected", None, None)
    with Image.open(picture) as drawn:
        pixels = np.asarray(drawn.convert("RGB"))
    assert pixels.shape[0] > 6 * 100
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 1000


def test_predict_when_no_image_can_be_scored_shows_why_and_ends_with_1(run, tmp_path):
    for name, data in hostile_images().items():
        (tmp_path / name).write_bytes(data)
    result = run(tmp_path, "--json", tmp_path / "out.json", "--picture", tmp_path / "out.png")
    assert result.exit_code == 1
    assert "0 scored" in result.stdout
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert {each["status"] for each in results} == {"rejected"}
    assert all(each["reason"] for each in results)
    assert not (tmp_path / "out.png").exists()


def test_predict_when_a_name_would_steer_the_terminal_shows_it_as_text(run, tmp_path):
    name = "[bold red]\x1b[31m\u202e<b>.jpg"
    (tmp_path / name).write_bytes(IMAGES["0.jpg"])
    output = run(tmp_path / name).stdout
    assert "[bold red]" in output
    assert "\x1b" not in output
    assert "\u202e" not in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("/no/such/file.jpg",), "there is no file or folder /no/such/file.jpg"),
        (("{empty}",), "nothing is in"),
        (("{folder}", "--picture", "out.txt"), "is no picture"),
    ],
)
def test_predict_when_asked_for_the_impossible_says_so_and_ends_with_2(
    run, folder, tmp_path, arguments, message
):
    (tmp_path / "empty").mkdir()
    places = {"empty": tmp_path / "empty", "folder": folder}
    result = run(*(argument.format(**places) for argument in arguments))
    assert result.exit_code == 2
    assert message in result.stderr


def test_predict_with_a_model_folder_that_holds_none_ends_with_2(folder, tmp_path):
    arguments = ["predict", str(folder), "--model-folder", str(tmp_path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "holds no model" in result.stderr


def test_predict_scores_objects_by_the_champion_and_goes_on_without_a_stack(
    environment, exported, folder, tmp_path, monkeypatch
):
    store, project = environment, tmp_path / "project"
    (project / "dags").mkdir(parents=True)
    publish_version(store, "dermascan", VERSION, exported)
    promote(store, "dermascan", VERSION, Decision("ann", "good"))
    store.put("new/0.jpg", IMAGES["0.jpg"])
    command = ["--project", str(project), "predict"]

    result = CliRunner().invoke(app, [*command, f"s3://{store.bucket}/new/"])
    assert result.exit_code == 0, result.output
    assert f"s3://{store.bucket}/new/0.jpg" in result.stdout
    assert f"dermascan version {VERSION}: 1 scored" in result.stdout

    monkeypatch.delenv("DERMASCAN_BUCKET")
    result = CliRunner().invoke(app, [*command, str(folder / "0.jpg")])
    assert result.exit_code == 0, result.output
    assert "no stack runs" in result.stderr
    assert f"dermascan version {VERSION}: 1 scored" in result.stdout


def test_predict_without_a_stack_or_a_copy_says_what_to_do(folder, tmp_path, monkeypatch):
    monkeypatch.delenv("DERMASCAN_BUCKET", raising=False)
    (tmp_path / "dags").mkdir()
    arguments = ["--project", str(tmp_path), "predict", str(folder)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "--model-folder" in result.stderr


def test_models_fetch_makes_a_copy_that_predict_takes(environment, exported, folder, tmp_path):
    publish_version(environment, "tiny", VERSION, exported)
    copy = tmp_path / "copy"
    fetched = CliRunner().invoke(
        app, ["models", "fetch", str(VERSION), str(copy), "--model", "tiny"]
    )
    assert fetched.exit_code == 0, fetched.output
    arguments = ["predict", str(folder / "0.jpg"), "--model-folder", str(copy)]
    result = CliRunner().invoke(app, arguments)
    assert f"tiny version {VERSION}: 1 scored" in result.stdout
    (copy / "saved_model.pb").write_bytes(b"changed")
    assert CliRunner().invoke(app, arguments).exit_code == 2


def test_help_of_predict_loads_nothing_heavy():
    code = (
        "import sys; from typer.testing import CliRunner; from dermascan.cli import app\n"
        "assert CliRunner().invoke(app, ['predict', '--help']).exit_code == 0\n"
        "print([m for m in ('tensorflow', 'numpy', 'pandas', 'matplotlib') if m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"
