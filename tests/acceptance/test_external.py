from pathlib import Path

import pandas as pd
import pytest
from archives import MELANOMA, NEVUS, row, write_folder

from dermascan.acceptance.external import LabelledImage, measure, read_labelled
from dermascan.errors import InputError
from dermascan.taxonomy import Taxonomy

KERATOSIS = {
    "diagnosis_1": "Indeterminate",
    "diagnosis_2": "Indeterminate epidermal proliferations",
    "diagnosis_3": "Solar or actinic keratosis",
}
UNTOLD = {
    "diagnosis_1": "Indeterminate",
    "diagnosis_2": "Indeterminate melanocytic proliferations",
    "diagnosis_3": "",
}
NO_CLASS = {
    "diagnosis_1": "Malignant",
    "diagnosis_2": "Malignant soft tissue proliferations - Vascular",
    "diagnosis_3": "",
}
NOTHING = {"diagnosis_1": "", "diagnosis_2": "", "diagnosis_3": ""}


def labelled(malignant: list[bool | None]) -> list[LabelledImage]:
    return [
        LabelledImage(f"ISIC_{i:07d}", Path(f"ISIC_{i:07d}.jpg"), None, truth)
        for i, truth in enumerate(malignant)
    ]


def predicted(scores: list[float | None]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "image_key": [f"new/ISIC_{i:07d}.jpg" for i in range(len(scores))],
            "sha256": [f"{i:064x}" for i in range(len(scores))],
            "status": ["rejected" if score is None else "ok" for score in scores],
            "p_malignant": scores,
            "label": [
                None if score is None else "malignant" if score >= 0.5 else "benign"
                for score in scores
            ],
        }
    )


@pytest.mark.parametrize(
    ("diagnosis", "malignant"),
    [
        (MELANOMA, True),
        (NEVUS, False),
        (KERATOSIS, True),
        (NO_CLASS, True),
        (UNTOLD, None),
        (NOTHING, None),
    ],
)
def test_read_labelled_takes_the_class_and_without_one_the_outermost_diagnosis(
    tmp_path, diagnosis, malignant
):
    folder = write_folder(tmp_path / "a", [row(0, **diagnosis)])

    (image,) = read_labelled(folder, Taxonomy())

    assert image.malignant is malignant
    assert image.path.is_file()
    assert image.lesion_id == "IL_0000000"


def test_measure_gives_the_auc_with_an_interval_and_what_the_threshold_does():
    truth = [True, True, False, False, False, True, False, False]
    scores = [0.9, 0.4, 0.8, 0.1, 0.2, 0.7, 0.3, 0.05]

    found = measure("b", labelled(truth), predicted(scores), set())

    assert (found.images, found.malignant, found.lesions) == (8, 3, 8)
    assert found.roc_auc.value == pytest.approx(13 / 15)
    assert found.roc_auc.low is not None
    assert found.roc_auc.low < found.roc_auc.value <= found.roc_auc.high
    assert found.sensitivity.value == pytest.approx(2 / 3)
    assert found.specificity.value == pytest.approx(4 / 5)


def test_measure_leaves_out_what_is_familiar_rejected_or_not_told_and_counts_it():
    truth = [True, False, None, True, False, False]
    scores = [0.9, 0.1, 0.5, 0.0, None, 0.2]

    found = measure("b", labelled(truth), predicted(scores), {f"{3:064x}"})

    assert (found.images, found.malignant) == (3, 1)
    assert (found.familiar, found.unlabelled, found.rejected) == (1, 1, 1)
    assert found.roc_auc.value == 1.0


def test_measure_when_no_image_is_malignant_has_no_auc_and_no_sensitivity():
    found = measure("b", labelled([False, False]), predicted([0.1, 0.2]), set())

    assert (found.roc_auc.value, found.sensitivity.value) == (None, None)
    assert found.specificity.value == 1.0


def test_measure_when_nothing_is_left_is_not_defined():
    found = measure("b", labelled([True]), predicted([None]), set())

    assert (found.images, found.roc_auc.value, found.specificity.value) == (0, None, None)


def test_measure_when_an_image_has_no_prediction_is_refused():
    with pytest.raises(InputError, match="1 of 2 images have no prediction"):
        measure("b", labelled([True, False]), predicted([0.5]), set())
