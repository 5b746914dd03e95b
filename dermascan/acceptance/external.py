"""A model on images of other cameras, which took no part in any choice."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from dermascan.errors import InputError
from dermascan.evaluation import DEFAULT_RESAMPLES, Estimate, Ranking
from dermascan.evaluation.bootstrap import Bootstrap
from dermascan.evaluation.scored import number_lesions
from dermascan.evaluation.statistic import share
from dermascan.isic.metadata import ParsedMetadata, parse_metadata
from dermascan.isic.records import ImageRecord
from dermascan.taxonomy import Taxonomy

_BY_DIAGNOSIS = {"Malignant": True, "Benign": False}


@dataclass(frozen=True)
class LabelledImage:
    """An image of an archive on disk, and what its metadata says of it.

    Attributes:
        malignant: None where the diagnosis does not tell.
    """

    isic_id: str
    path: Path
    lesion_id: str | None
    malignant: bool | None


@dataclass(frozen=True)
class ExternalFigures:
    """How a model does on an archive that it was not made for.

    Attributes:
        name: of the archive.
        images: that were measured on. malignant: of them.
        lesions: that the intervals are drawn over.
        familiar: further images that are in the dataset that the model was made from.
        unlabelled: further images whose diagnosis does not tell.
        rejected: further images that batch inference rejected.
        sensitivity, specificity: at the model's own threshold.
    """

    name: str
    images: int
    malignant: int
    lesions: int
    familiar: int
    unlabelled: int
    rejected: int
    roc_auc: Estimate
    sensitivity: Estimate
    specificity: Estimate


def is_malignant(metadata: ParsedMetadata, taxonomy: Taxonomy) -> bool | None:
    """Tell whether an image shows a malignant lesion, None where the diagnosis does not tell.

    The class decides, so that actinic keratoses count as they do in training; the outermost
    level of the diagnosis decides where there is no class.
    """
    if metadata.lesion_class is not None:
        return taxonomy.is_malignant(metadata.lesion_class)
    return _BY_DIAGNOSIS.get(metadata.diagnosis_1 or "")


def read_labelled(folder: Path, taxonomy: Taxonomy) -> tuple[LabelledImage, ...]:
    """Return the images of a folder that the official client wrote.

    Args:
        folder: `metadata.csv` beside the images.
        taxonomy: which classes are malignant.

    Raises:
        InputError: it is not such a folder.
    """
    from dermascan.isic.catalogue import read_catalogue  # noqa: PLC0415  # builds large models

    catalogue = read_catalogue(folder)
    labelled = []
    for row, image in enumerate(catalogue.images):
        values = {name: column.value(row) for name, column in catalogue.columns.items()}
        record = ImageRecord(catalogue.ids[row], "", image.size, "", "", "", values)
        metadata = parse_metadata(record, taxonomy)
        malignant = is_malignant(metadata, taxonomy)
        path = folder / image.name
        labelled.append(LabelledImage(record.isic_id, path, metadata.lesion_id, malignant))
    return tuple(labelled)


def measure(
    name: str,
    labelled: Sequence[LabelledImage],
    predictions: pd.DataFrame,
    familiar: Collection[str],
    resamples: int = DEFAULT_RESAMPLES,
) -> ExternalFigures:
    """Measure predictions against the archive's own diagnoses.

    Args:
        name: of the archive.
        labelled: its images.
        predictions: of batch inference on them under their own file names.
        familiar: SHA-256 of the images of the dataset that the model was made from.
        resamples: of lesions, for the intervals.

    Raises:
        InputError: an image has no prediction.
    """
    table = _joined(labelled, predictions)
    rejected = table["status"] != "ok"
    known = table["sha256"].isin(familiar) & ~rejected
    untold = table["malignant"].isna() & ~known & ~rejected
    used = table[~(rejected | known | untold)]
    positive = used["malignant"].to_numpy(dtype=bool)
    called = (used["label"] == "malignant").to_numpy(dtype=bool)
    lesion_of_image = number_lesions(used)
    bootstrap = Bootstrap(lesion_of_image, resamples, seed=0)
    ranking = Ranking(positive, used["p_malignant"].to_numpy(dtype=float))
    return ExternalFigures(
        name=name,
        images=len(used),
        malignant=int(positive.sum()),
        lesions=len(np.unique(lesion_of_image)),
        familiar=int(known.sum()),
        unlabelled=int(untold.sum()),
        rejected=int(rejected.sum()),
        roc_auc=bootstrap.estimate(ranking.roc_auc),
        sensitivity=bootstrap.estimate(share(called, positive)),
        specificity=bootstrap.estimate(share(~called, ~positive)),
    )


def _joined(labelled: Sequence[LabelledImage], predictions: pd.DataFrame) -> pd.DataFrame:
    rows = [(image.isic_id, image.lesion_id, image.malignant) for image in labelled]
    truth = pd.DataFrame(rows, columns=["isic_id", "lesion_id", "malignant"], dtype=object)
    made = predictions[["image_key", "sha256", "status", "p_malignant", "label"]]
    files = [image.path.name for image in labelled]
    by_file = made.assign(file=made["image_key"].str.rsplit("/", n=1).str[-1])
    table = truth.assign(file=files).merge(by_file, on="file", validate="1:1")
    if len(table) < len(labelled):
        raise InputError(
            f"{len(labelled) - len(table)} of {len(labelled)} images have no prediction"
        )
    return table
