import os

import numpy as np
import pytest

from dermascan.evaluation.efficiency import measure_efficiency
from dermascan.imaging import ImageSize, Preprocessing
from dermascan.learning.network import NetworkSpec, build_network
from dermascan.model.savedmodel import ModelMetadata, export, load_scorer

SIZE = ImageSize(24, 32)
SECONDS_A_CALL, SECONDS_AN_IMAGE, SECONDS_TO_WARM_UP = 0.02, 0.004, 5.0


class SlowScorer:
    """Take longer with each call and image; the first two calls with a batch size take longest."""

    def __init__(self):
        self.now, self.sizes, self.shapes = 0.0, [], set()

    def clock(self):
        return self.now

    def score(self, images):
        self.sizes.append(len(images))
        self.shapes.add((images.shape[1:], images.dtype))
        call = self.sizes.count(len(images))
        self.now += SECONDS_A_CALL * call + SECONDS_AN_IMAGE * len(images)
        if call <= 2:
            self.now += SECONDS_TO_WARM_UP


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "variables").mkdir()
    (tmp_path / "saved_model.pb").write_bytes(b"x" * 1000)
    (tmp_path / "variables" / "data").write_bytes(b"x" * 234)
    return tmp_path


def test_efficiency_adds_up_all_files_of_the_folder(folder):
    scorer = SlowScorer()

    assert measure_efficiency(scorer, folder, SIZE, scorer.clock).bytes == 1234


def test_efficiency_when_warm_is_the_time_of_one_image_in_a_batch_of_32_and_alone(folder):
    scorer = SlowScorer()

    efficiency = measure_efficiency(scorer, folder, SIZE, scorer.clock)

    assert efficiency.milliseconds_per_image == pytest.approx(7 * 20 / 32 + 4, abs=1e-3)
    assert efficiency.milliseconds_single == pytest.approx(7 * 20 + 4)
    assert set(scorer.sizes) == {32, 1}
    assert scorer.shapes == {((24, 32, 3), np.dtype(np.uint8))}


def test_efficiency_counts_the_cores_that_this_process_may_use(folder, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7}, raising=False)
    scorer = SlowScorer()

    assert measure_efficiency(scorer, folder, SIZE, scorer.clock).cores == 3


def test_efficiency_of_an_exported_model_is_positive(tmp_path):
    spec = NetworkSpec.of("small_cnn")
    metadata = ModelMetadata(
        malignant_classes=("akiec", "bcc", "mel"),
        threshold=0.5,
        temperature=1.0,
        preprocessing=Preprocessing(image_size=SIZE).as_plain(),
        dataset_fingerprint="d" * 24,
        training_fingerprint="t" * 24,
        network=spec.as_plain(),
        licences={},
    )
    folder = tmp_path / "model"
    export([build_network(spec, SIZE)], metadata, folder)

    efficiency = measure_efficiency(load_scorer(folder), folder, SIZE)

    assert efficiency.bytes > (folder / "saved_model.pb").stat().st_size
    assert 0 < efficiency.milliseconds_per_image < efficiency.milliseconds_single < 1000
    assert efficiency.cores >= 1
