import numpy as np
import pandas as pd
import pytest

from dermascan.assessment.gallery import (
    Gallery,
    credit_line,
    make_gallery,
    read_gallery,
    write_gallery,
)
from dermascan.assessment.score_tables import SplitRecords
from dermascan.evaluation import CLASS_COLUMNS
from dermascan.imaging import ImageSize, Preprocessing, decode
from dermascan.model.metadata import ModelMetadata
from dermascan.records import Record, write_records
from dermascan.reporting import GalleryItem
from dermascan.taxonomy import LESION_CLASSES

SIZE = ImageSize(32, 48)
MEL, NV = LESION_CLASSES.index("mel"), LESION_CLASSES.index("nv")
# Truth, p_mel: a melanoma missed, one found, a nevus called malignant, one left alone.
CASES = (("mel", 0.2), ("mel", 0.9), ("nv", 0.7), ("nv", 0.1))


class LeftAndRight:
    """Sees melanoma in the left half of an image, a nevus in the right."""

    metadata = ModelMetadata(
        malignant_classes=("mel", "bcc", "akiec"),
        threshold=0.5,
        preprocessing=Preprocessing(SIZE),
        dataset_fingerprint="d" * 24,
        training_fingerprint="f" * 24,
        network={},
        licences={},
    )

    def explain(self, images: np.ndarray) -> np.ndarray:
        activation = np.zeros((len(images), 4, 6, 7), np.float32)
        activation[:, :, :3, MEL] = 1
        activation[:, :, 3:, NV] = 1
        return activation


@pytest.fixture
def table() -> pd.DataFrame:
    rows = pd.DataFrame(0.0, index=range(len(CASES)), columns=list(CLASS_COLUMNS))
    rows["lesion_class"], rows["p_mel"] = zip(*CASES, strict=True)
    return rows.assign(
        p_nv=1 - rows["p_mel"],
        p_malignant=rows["p_mel"],
        isic_id=[f"ISIC_{i:07d}" for i in range(len(CASES))],
        lesion_id=None,
        attribution=["A", "B", "B", None],
        copyright_license="CC-0",
    )


@pytest.fixture
def records(tmp_path) -> SplitRecords:
    """Return grey images, each lighter than the one before."""
    path = tmp_path / "test-00000.tfrecord.gz"
    images = [np.full((32, 48, 3), 60 + 40 * i, np.uint8) for i in range(len(CASES))]
    write_records(
        path,
        (
            Record(image, LESION_CLASSES.index(truth), f"ISIC_{i:07d}", None, "0" * 64)
            for i, (image, (truth, _)) in enumerate(zip(images, CASES, strict=True))
        ),
    )
    return SplitRecords("test", (path,), len(CASES))


def coloured(jpeg: bytes) -> np.ndarray:
    """Tell which of the two halves of a grey image were painted over."""
    image = decode(jpeg).astype(int)
    spread = image.max(axis=2) - image.min(axis=2)
    return np.array([spread[:, :16].mean() > 10, spread[:, -16:].mean() > 10])


def test_gallery_shows_each_image_with_its_own_truth_answer_and_score(table, records):
    items = {item.isic_id: item for item in make_gallery(LeftAndRight(), records, table).items}
    assert set(items) == set(table["isic_id"])
    for i, (truth, score) in enumerate(CASES):
        item = items[f"ISIC_{i:07d}"]
        assert (item.truth, item.p_malignant) == (truth, score)
        assert item.likeliest == ("mel" if score > 0.5 else "nv")
        assert decode(item.image_jpeg).mean() == pytest.approx(60 + 40 * i, abs=3)


def test_overlay_shows_the_evidence_for_the_likeliest_class(table, records):
    for item in make_gallery(LeftAndRight(), records, table).items:
        expected = [True, False] if item.likeliest == "mel" else [False, True]
        assert coloured(item.overlay_jpeg).tolist() == expected


def test_gallery_is_read_as_it_was_written(store):
    items = (
        GalleryItem("a", "mel", "nv", 0.25, b"\xff\x00", b"over"),
        GalleryItem("b", "nv", "mel", 0.75, b"other"),
    )
    write_gallery(store, "gallery.parquet", Gallery(items, "Somebody (CC-0)"))
    assert read_gallery(store, "gallery.parquet") == Gallery(items, "Somebody (CC-0)")


def test_gallery_that_was_never_written_is_empty(store):
    assert read_gallery(store, "gallery.parquet") == Gallery()


def test_gallery_of_no_images_is_read_as_empty(store):
    write_gallery(store, "gallery.parquet", Gallery())
    assert read_gallery(store, "gallery.parquet") == Gallery()


def test_credit_names_every_author_and_licence_the_most_frequent_first(table):
    assert credit_line(table) == "B (CC-0); A (CC-0); author not recorded (CC-0)"
