import numpy as np
import pandas as pd
import pytest

from dermascan.assessment.score_tables import before_calibration
from dermascan.evaluation import CLASS_COLUMNS
from dermascan.imaging import ImageSize, Preprocessing
from dermascan.model.calibration import Calibration, apply, softmax
from dermascan.model.metadata import ModelMetadata

MALIGNANT = ("mel", "bcc", "akiec")


def metadata(calibration: Calibration) -> ModelMetadata:
    return ModelMetadata(
        malignant_classes=MALIGNANT,
        threshold=0.5,
        calibration=calibration,
        preprocessing=Preprocessing(ImageSize(48, 64)),
        dataset_fingerprint="d" * 24,
        training_fingerprint="t" * 24,
        network={},
        licences={},
    )


@pytest.mark.parametrize(
    "calibration",
    [
        Calibration(),
        Calibration(temperature=1.7),
        Calibration(
            temperature=0.6,
            class_offsets=(0.5, -1.0, 0.0, 2.0, 0.1, -0.3, 1.0),
            malignant_slope=1.4,
            malignant_offset=-0.8,
        ),
    ],
)
def test_before_calibration_gives_the_softmax_of_the_logits(calibration):
    logits = np.random.default_rng(0).normal(0, 3, (50, 7))
    described = metadata(calibration)
    calibrated = apply(logits, calibration, described.malignant_indices())
    table = pd.DataFrame(calibrated, columns=list(CLASS_COLUMNS)).assign(p_malignant=0.5)

    before = before_calibration(table, described)

    expected = softmax(logits)
    np.testing.assert_allclose(before[list(CLASS_COLUMNS)], expected, atol=1e-9)
    malignant = expected[:, list(described.malignant_indices())].sum(axis=1)
    np.testing.assert_allclose(before["p_malignant"], malignant, atol=1e-9)


def test_before_calibration_when_a_probability_is_zero_stays_finite():
    table = pd.DataFrame([[0.0, 0, 0, 0, 0, 1, 0]], columns=list(CLASS_COLUMNS))
    before = before_calibration(table, metadata(Calibration(temperature=3)))
    assert np.isfinite(before.to_numpy(dtype=float)).all()
