import json
import subprocess
import sys

import numpy as np
import pytest

from dermascan.errors import IntegrityError, NotFoundError
from dermascan.fingerprint import sha256_hex
from dermascan.imaging import ImageSize, Preprocessing
from dermascan.learning.network import NetworkSpec, build_network
from dermascan.model.calibration import Calibration
from dermascan.model.ensemble import TestTimeViews
from dermascan.model.golden import write_golden
from dermascan.model.loading import load_fastest
from dermascan.model.metadata import METADATA_FILE, ModelMetadata
from dermascan.model.savedmodel import export, load_scorer
from dermascan.model.twin import RECORD_FILE, TWIN_FOLDER, graph_path, load_twin, read_record
from dermascan.model.twin_making import drop_unusable_twin, write_twin

SIZE = ImageSize(24, 32)
SPEC = NetworkSpec.of("small_cnn")
METADATA = ModelMetadata(
    malignant_classes=("akiec", "bcc", "mel"),
    threshold=0.25,
    calibration=Calibration(
        temperature=0.2,
        class_offsets=(0.5, -0.5, 1.0, 0.0, 0.25, -1.0, 2.0),
        malignant_slope=1.5,
        benign_slope=0.7,
        malignant_offset=-0.5,
    ),
    views=TestTimeViews(mirrors=True, zooms=(1.0, 0.75)),
    preprocessing=Preprocessing(image_size=SIZE),
    dataset_fingerprint="d" * 24,
    training_fingerprint="t" * 24,
    network=SPEC.as_plain(),
    licences={"training data": "CC-0"},
)
WITHOUT_TENSORFLOW = """
import json, sys
from pathlib import Path
import numpy as np
from dermascan.model.loading import load_fastest
scorer = load_fastest(Path(sys.argv[1]))
images = np.zeros((3, 24, 32, 3), np.uint8)
scorer.score(images), scorer.explain(images)
heavy = {"tensorflow", "keras", "onnx", "tf2onnx"} & set(sys.modules)
print(json.dumps([scorer.runtime, sorted(heavy)]))
"""


def images_of(count):
    return np.random.default_rng(0).integers(0, 256, (count, 24, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "model"
    export([build_network(SPEC, SIZE) for _ in range(2)], METADATA, folder)
    write_twin(folder, images_of(5))
    return folder


@pytest.fixture
def folder(exported, tmp_path):
    """Return a copy of the model that a test may damage."""
    for path in (each for each in exported.rglob("*") if each.is_file()):
        copy = tmp_path / "model" / path.relative_to(exported)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    return tmp_path / "model"


@pytest.fixture(scope="module")
def original(exported):
    return load_scorer(exported)


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_twin_scores_and_explains_as_its_savedmodel(exported, original, count):
    images, twin = images_of(count), load_twin(exported)

    ours, theirs = original.score(images), twin.score(images)

    np.testing.assert_allclose(theirs.probabilities, ours.probabilities, rtol=0, atol=1e-5)
    np.testing.assert_allclose(theirs.p_malignant, ours.p_malignant, rtol=0, atol=1e-5)
    np.testing.assert_allclose(theirs.embedding, ours.embedding, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(twin.explain(images), original.explain(images), rtol=1e-4, atol=1e-5)


def test_twin_scores_without_tensorflow(exported):
    command = [sys.executable, "-c", WITHOUT_TENSORFLOW, str(exported)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    runtime, heavy = json.loads(done.stdout)

    assert runtime.startswith("ONNX Runtime ")
    assert heavy == []


def test_record_names_the_runtime_and_what_was_compared(exported):
    record = read_record(exported)

    assert record.runtime == load_twin(exported).runtime
    assert (record.differences.golden_images, record.differences.real_images) == (8, 5)
    assert record.differences.probability <= 1e-5


def test_write_twin_again_writes_the_same_graphs(folder):
    before = read_record(folder).files

    assert write_twin(folder, images_of(2)).files == before


def test_write_twin_when_it_differs_leaves_none(folder, monkeypatch):
    for path in (folder / TWIN_FOLDER).iterdir():
        path.unlink()
    monkeypatch.setattr("dermascan.model.twin_making.PROBABILITY_TOLERANCE", -1.0)

    with pytest.raises(IntegrityError, match="differs from the SavedModel"):
        write_twin(folder, images_of(2))

    assert not any((folder / TWIN_FOLDER).iterdir())


def without_twin(folder):
    (folder / TWIN_FOLDER / RECORD_FILE).unlink()


def with_damaged_graph(folder):
    path = graph_path(folder, "serve_uint8")
    path.write_bytes(path.read_bytes()[:-1])


def with_unknown_operators(folder):
    damage_record(folder, "serve_uint8", b"no graph at all")


def with_metadata_of_another_training(folder):
    path = folder / METADATA_FILE
    path.write_text(path.read_text().replace("t" * 24, "u" * 24))


def with_record_of_a_later_release(folder):
    path = folder / TWIN_FOLDER / RECORD_FILE
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))


def with_other_golden_scores(folder):
    write_golden(folder, SIZE, lambda images: load_scorer(folder).score(255 - images))


def damage_record(folder, signature, graph):
    path = folder / TWIN_FOLDER / RECORD_FILE
    record = json.loads(path.read_bytes())
    record["files"][signature] = sha256_hex(graph)
    path.write_text(json.dumps(record))
    graph_path(folder, signature).write_bytes(graph)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_twin, "has no twin"),
        (with_damaged_graph, "is not the file"),
        (with_unknown_operators, "cannot run the twin"),
        (with_metadata_of_another_training, "belongs to training ttt"),
        (with_record_of_a_later_release, "cannot be read"),
        (with_other_golden_scores, "scores its golden images differently"),
    ],
)
def test_load_fastest_when_the_twin_cannot_be_used_says_so_and_takes_the_savedmodel(
    folder, original, caplog, change, said
):
    change(folder)

    scorer = load_fastest(folder)

    assert scorer.runtime.startswith("TensorFlow ")
    assert said in caplog.text
    scores = scorer.score(images_of(2))
    np.testing.assert_allclose(scores.p_malignant, original.score(images_of(2)).p_malignant)


def test_load_fastest_when_there_is_no_model_says_so(tmp_path):
    with pytest.raises(NotFoundError):
        load_fastest(tmp_path)


def test_drop_unusable_twin_keeps_a_good_one_and_removes_a_bad_one(folder):
    drop_unusable_twin(folder)
    assert load_twin(folder)

    with_unknown_operators(folder)
    drop_unusable_twin(folder)
    assert not any((folder / TWIN_FOLDER).iterdir())
