"""What decoding at a reduced scale changes in a model's scores, image by image.

    .venv/bin/python -m benchmarks.decoding_change MODEL_FOLDER IMAGES

MODEL_FOLDER is a copy of a version (`dermascan models` says where), IMAGES a tar or folder of the
official client, with diagnoses. Both ways prepare the same files for the same model; ROC AUC is
of malignant against benign, its difference with a 95 % interval from 2,000 paired bootstraps.
"""

import csv
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from benchmarks.workspace import image_files
from dermascan.acceptance.unpacking import unpack
from dermascan.evaluation import Floats
from dermascan.imaging import Decoding, Preprocessing, decode_for, prepare_decoded
from dermascan.isic.catalogue import METADATA_FILE
from dermascan.model.savedmodel import Scorer, load_scorer

RESAMPLINGS = 2000


def main() -> None:
    scorer = load_scorer(Path(sys.argv[1]))
    with tempfile.TemporaryDirectory() as scratch:
        folder = unpack(Path(sys.argv[2]), Path(scratch))
        malignant = diagnoses(folder)
        files = [file for file in image_files(folder) if file.stem in malignant]
        truth = np.array([malignant[file.stem] for file in files])
        full, reduced = (scores(scorer, files, how) for how in ("full", "reduced"))
    areas = [roc_auc_score(truth, each) for each in (full, reduced)]
    low, high = np.percentile(differences(truth, full, reduced), (2.5, 97.5))
    moved = np.abs(reduced - full)
    threshold = scorer.metadata.threshold
    crossed = int(((full >= threshold) != (reduced >= threshold)).sum())
    print(f"{len(files)} images, {int(truth.sum())} malignant, {scorer.metadata.preprocessing}")
    print(f"ROC AUC {areas[0]:.4f} full, {areas[1]:.4f} reduced")
    print(f"difference {areas[1] - areas[0]:+.4f} ({low:+.4f} to {high:+.4f})")
    print(f"p_malignant moves by {moved.mean():.4f} on average, {moved.max():.4f} at most")
    print(f"{crossed} images cross the threshold of {threshold:.3f}")


def diagnoses(folder: Path) -> dict[str, bool]:
    """Return whether each image with a sure diagnosis is malignant."""
    with (folder / METADATA_FILE).open(newline="", encoding="utf-8") as file:
        rows = [
            row for row in csv.DictReader(file) if row["diagnosis_1"] in {"Benign", "Malignant"}
        ]
    return {row["isic_id"]: row["diagnosis_1"] == "Malignant" for row in rows}


def scores(scorer: Scorer, files: list[Path], decoding: Decoding) -> Floats:
    preprocessing: Preprocessing = replace(scorer.metadata.preprocessing, decoding=decoding)
    decoded = (decode_for(file.read_bytes(), preprocessing) for file in files)
    images = np.stack([prepare_decoded(each, preprocessing) for each in decoded])
    return scorer.score(images).p_malignant.astype(np.float64)


def differences(truth: Floats, full: Floats, reduced: Floats) -> list[float]:
    random = np.random.default_rng(0)
    found: list[float] = []
    while len(found) < RESAMPLINGS:
        drawn = random.integers(0, len(truth), len(truth))
        if 0 < truth[drawn].sum() < len(truth):
            areas = [roc_auc_score(truth[drawn], each[drawn]) for each in (full, reduced)]
            found.append(areas[1] - areas[0])
    return found


if __name__ == "__main__":
    main()
