"""Report and card of a made-up training run, on a real S3 server."""

from pathlib import Path

import pytest
from accepted import TRAINING, history, metadata, put_dataset, put_trained
from pages import Page

from dermascan.assessment.documents import Verdict, learning_curves, make_card, write_documents
from dermascan.assessment.gallery import Gallery, write_gallery
from dermascan.evaluation import Evaluation
from dermascan.gate import GateResult
from dermascan.isic.synthetic import write_archive
from dermascan.layout import TrainingKeys
from dermascan.model.calibration import Calibration
from dermascan.model.metadata import METADATA_FILE
from dermascan.reporting import GalleryItem
from dermascan.storage import Store

KEYS = TrainingKeys(TRAINING)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("documents") / "archive"
    write_archive(folder, images=24, seed=3)
    return folder


@pytest.fixture
def evaluated(store, folder) -> Store:
    """Return a bucket that holds what `evaluate` leaves."""
    examples = put_trained(store, folder, put_dataset(store, folder, "made-up"))
    store.put_json(KEYS.examples, {"dataset": examples.dataset, "name": examples.fingerprint})
    return store


def write(store: Store) -> dict[str, bytes]:
    evaluation = Evaluation.model_validate_json(store.get(KEYS.evaluation))
    gate = GateResult(champion_version=None, results=())
    return write_documents(store, TRAINING, "lesions", Verdict(evaluation, gate, None))


def report(store: Store) -> Page:
    return Page(write(store)[KEYS.candidacy("lesions").report].decode())


def test_documents_lie_where_they_are_returned_from_with_their_types(evaluated):
    made = write(evaluated)
    assert set(made) == set(KEYS.candidacy("lesions").documents)
    assert {key: evaluated.get(key) for key in made} == made


def test_report_shows_the_whole_calibration(evaluated):
    calibration = Calibration(
        temperature=0.871,
        class_offsets=(0.5, 0.25, 0, 1.125, 0, 0, 0.75),
        malignant_slope=1.234,
        malignant_offset=-0.567,
        benign_slope=0.891,
    )
    described = metadata().model_copy(update={"calibration": calibration})
    evaluated.put(KEYS.model + METADATA_FILE, described.model_dump_json().encode())
    words = report(evaluated).words
    for shown in ("0.871", "1.234, 0.891, -0.567", "0.500, 0.250, 0.000, 1.125"):
        assert shown in words


def test_report_shows_the_gallery_that_was_kept(evaluated):
    items = (GalleryItem("ISIC_9999999", "mel", "nv", 0.25, b"\xff\xd8"),)
    write_gallery(evaluated, KEYS.gallery, Gallery(items, "Somebody (CC-0)"))
    words = report(evaluated).words
    assert "ISIC_9999999" in words
    assert "Somebody (CC-0)" in words


def test_card_counts_the_images_of_the_examples_and_credits_the_manifest(evaluated):
    text = make_card(evaluated, TRAINING, "lesions", "20260101000000").markdown.decode()
    assert "Model card: lesions 20260101000000" in text
    assert "| nv (melanocytic nevus) | 90 | 18 |" in text.lower()
    assert "4,000,000" in text
    assert "author not recorded (licence not recorded)" in text


def test_card_without_a_reference_to_the_examples_leaves_their_facts_out(evaluated):
    evaluated.delete([KEYS.examples])
    text = make_card(evaluated, TRAINING, "lesions").markdown.decode()
    assert "not published yet" in text
    assert "4,000,000" not in text


def test_learning_curves_are_one_for_each_network_with_its_best_epoch(evaluated):
    rows = [
        {**record.model_dump(), "member": member, "val_loss": loss}
        for member, losses in enumerate([(0.9, 0.5), (0.7, 0.8)])
        for record, loss in zip(history(), losses, strict=True)
    ]
    evaluated.put_json(KEYS.history, {"epochs": rows})
    curves = learning_curves(evaluated, KEYS)
    assert [curve.name for curve in curves] == ["network 1", "network 2"]
    assert [curve.chosen for curve in curves] == [1, 0]
    assert curves[0].epochs == (0, 1)
    assert curves[0].losses == (None, 1.2)
    assert curves[1].val_losses == (0.7, 0.8)


def test_learning_curves_are_none_where_no_history_was_kept(evaluated):
    evaluated.delete([KEYS.history])
    assert learning_curves(evaluated, KEYS) == ()
