"""Test images for people to look at, with the parts that the model saw its answer in."""

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dermascan.assessment.score_tables import SplitRecords
from dermascan.evaluation.explanation import overlays
from dermascan.imaging import small_jpeg
from dermascan.model.savedmodel import Scorer
from dermascan.reporting import GalleryItem, choose_gallery
from dermascan.scores import read_scores, write_scores
from dermascan.storage import Store
from dermascan.taxonomy import CLASS_COLUMNS, LESION_CLASSES, Taxonomy

PICTURE_SIDE = 300
_CREDIT = "credit"


@dataclass(frozen=True)
class Gallery:
    """Chosen test images.

    Attributes:
        items: as the report shows them.
        credit: whose the images are and under which licence.
    """

    items: tuple[GalleryItem, ...] = ()
    credit: str = ""


def make_gallery(scorer: Scorer, test: SplitRecords, table: pd.DataFrame) -> Gallery:
    """Choose the most certain errors and right answers, and draw what the model looked at.

    Args:
        scorer: the loaded model.
        test: the prepared test images.
        table: their scores, with `lesion_class`, `attribution` and `copyright_license`.
    """
    taxonomy = Taxonomy(malignant=scorer.metadata.malignant_classes)
    chosen = choose_gallery(table, scorer.metadata.threshold, taxonomy=taxonomy).isic_ids
    rows = table.set_index("isic_id").loc[list(chosen)].reset_index()
    images = test.pick(list(chosen))
    likeliest = _likeliest(rows)
    overlaid = overlays(scorer.explain, images, likeliest.tolist())
    items = tuple(
        GalleryItem(
            isic_id=str(row["isic_id"]),
            truth=str(row["lesion_class"]),
            likeliest=LESION_CLASSES[index],
            p_malignant=float(row["p_malignant"]),
            image_jpeg=small_jpeg(image, PICTURE_SIDE),
            overlay_jpeg=small_jpeg(with_heat, PICTURE_SIDE),
        )
        for row, index, image, with_heat in zip(
            rows.to_dict("records"), likeliest, images, overlaid, strict=True
        )
    )
    return Gallery(items, credit_line(rows))


def write_gallery(store: Store, key: str, gallery: Gallery) -> None:
    """Keep a gallery as one Parquet file."""
    rows = pd.DataFrame([asdict(item) for item in gallery.items])
    write_scores(store, key, rows.assign(**{_CREDIT: gallery.credit}))


def read_gallery(store: Store, key: str) -> Gallery:
    """Return what `write_gallery` kept; an empty gallery if there is nothing."""
    if not store.exists(key):
        return Gallery()
    rows = read_scores(store, key).to_dict("records")
    found = [str(row.pop(_CREDIT)) for row in rows]
    items = tuple(GalleryItem(**{str(name): value for name, value in row.items()}) for row in rows)
    return Gallery(items, found[0] if found else "")


def credit_line(rows: pd.DataFrame) -> str:
    """Name the authors of images with their licences, the most frequent first.

    Args:
        rows: one row an image, with `attribution` and `copyright_license`.
    """
    authors = rows["attribution"].fillna("author not recorded").astype(str)
    licences = rows["copyright_license"].fillna("licence not recorded").astype(str)
    return "; ".join((authors + " (" + licences + ")").value_counts().index)


def _likeliest(rows: pd.DataFrame) -> NDArray[np.intp]:
    found: NDArray[np.intp] = rows[list(CLASS_COLUMNS)].to_numpy(dtype=float).argmax(axis=1)
    return found
