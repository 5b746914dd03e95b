"""Which images of a test set a person should look at, and how a page shows them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from dermascan.reporting.page import jpeg_uri
from dermascan.taxonomy import CLASS_NAMES, Taxonomy

WRONG_IMAGES = 8
RIGHT_IMAGES = 4
# JPEG bytes that a report carries; base64 adds a third, the rest of the page some 0.5 MB.
PICTURE_BYTES_LIMIT = 1_800_000


@dataclass(frozen=True)
class GalleryChoice:
    """Images by what became of them, the most certain first, one of each lesion.

    Attributes:
        false_negatives: malignant, called benign, lowest `p_malignant` first.
        false_positives: benign, called malignant, highest first.
        true_positives: malignant, called so, highest first.
        true_negatives: benign, called so, lowest first.
    """

    false_negatives: tuple[str, ...] = ()
    false_positives: tuple[str, ...] = ()
    true_positives: tuple[str, ...] = ()
    true_negatives: tuple[str, ...] = ()

    @property
    def isic_ids(self) -> tuple[str, ...]:
        """Return all of them, errors first."""
        right = (*self.true_positives, *self.true_negatives)
        return (*self.false_negatives, *self.false_positives, *right)


@dataclass(frozen=True)
class GalleryItem:
    """A test image for people to look at.

    Attributes:
        isic_id: its name.
        truth: its lesion class. likeliest: the class that the model finds likeliest.
        p_malignant: 0 to 1.
        image_jpeg: a small JPEG; a side of 300 pixels is plenty.
        overlay_jpeg: the same with the class activation map over it, None for none.
    """

    isic_id: str
    truth: str
    likeliest: str
    p_malignant: float
    image_jpeg: bytes
    overlay_jpeg: bytes | None = None


@dataclass(frozen=True)
class Picture:
    """A gallery item as the page shows it; without bytes where the page would grow too big."""

    isic_id: str
    truth: str
    truth_name: str
    likeliest: str
    p_malignant: float
    image: str | None
    overlay: str | None


@dataclass(frozen=True)
class Wall:
    """Pictures that share a heading."""

    title: str
    note: str
    is_error: bool
    pictures: tuple[Picture, ...]


def choose_gallery(
    table: pd.DataFrame,
    threshold: float,
    *,
    taxonomy: Taxonomy | None = None,
    wrong: int = WRONG_IMAGES,
    right: int = RIGHT_IMAGES,
) -> GalleryChoice:
    """Choose the most certain errors and, fewer, the most certain right answers.

    Args:
        table: the scored test set, as `evaluate` takes it.
        threshold: an image is called malignant if `p_malignant >= threshold`.
        taxonomy: which classes are malignant, by default those of `Taxonomy()`.
        wrong: how many of each kind of error at most.
        right: how many of each kind of right answer at most.

    Returns:
        Names of images; of a lesion with several images the most certain one.
    """
    malignant = table["lesion_class"].isin((taxonomy or Taxonomy()).malignant)
    called = table["p_malignant"] >= threshold
    return GalleryChoice(
        false_negatives=_extreme(table[malignant & ~called], wrong, highest=False),
        false_positives=_extreme(table[~malignant & called], wrong, highest=True),
        true_positives=_extreme(table[malignant & called], right, highest=True),
        true_negatives=_extreme(table[~malignant & ~called], right, highest=False),
    )


def walls(
    items: Sequence[GalleryItem], threshold: float, malignant: Iterable[str]
) -> tuple[Wall, ...]:
    """Sort gallery items by what became of them; headings without an item are left out.

    Args:
        items: in any order.
        threshold: see `choose_gallery`.
        malignant: the malignant classes.
    """
    kinds = frozenset(malignant)
    found: dict[tuple[bool, bool], list[GalleryItem]] = {key: [] for key in _HEADINGS}
    for item in items:
        found[item.truth in kinds, item.p_malignant >= threshold].append(item)
    ordered = {
        key: sorted(members, key=lambda item: (item.p_malignant, item.isic_id), reverse=key[1])
        for key, members in found.items()
    }
    pictures = iter(_pictures([item for members in ordered.values() for item in members]))
    made = [
        Wall(*_HEADINGS[key], tuple(next(pictures) for _ in members))
        for key, members in ordered.items()
    ]
    return tuple(wall for wall in made if wall.pictures)


# (malignant, called malignant) to title, note, whether it is an error.
_HEADINGS: dict[tuple[bool, bool], tuple[str, str, bool]] = {
    (True, False): ("Malignant, called benign", "Missed; the most certain misses first.", True),
    (False, True): ("Benign, called malignant", "False alarms; the most certain first.", True),
    (True, True): ("Malignant, called malignant", "Right, the most certain first.", False),
    (False, False): ("Benign, called benign", "Right, the most certain first.", False),
}


def _extreme(rows: pd.DataFrame, limit: int, *, highest: bool) -> tuple[str, ...]:
    ordered = rows.sort_values(["p_malignant", "isic_id"], ascending=[not highest, True])
    lesions = ordered["lesion_id"].fillna("").astype(str)
    repeated = lesions.ne("") & lesions.duplicated()
    return tuple(str(name) for name in ordered.loc[~repeated, "isic_id"].head(limit))


def _pictures(items: Sequence[GalleryItem]) -> list[Picture]:
    """Encode images first, then overlays, in order, until the page weighs enough."""
    left = PICTURE_BYTES_LIMIT
    encoded: dict[tuple[int, str], str] = {}
    for kind in ("image", "overlay"):
        for number, item in enumerate(items):
            jpeg = item.image_jpeg if kind == "image" else item.overlay_jpeg
            if jpeg and len(jpeg) <= left:
                left -= len(jpeg)
                encoded[number, kind] = jpeg_uri(jpeg)
    return [
        Picture(
            isic_id=item.isic_id,
            truth=item.truth,
            truth_name=CLASS_NAMES.get(item.truth, item.truth),
            likeliest=item.likeliest,
            p_malignant=item.p_malignant,
            image=encoded.get((number, "image")),
            overlay=encoded.get((number, "overlay")),
        )
        for number, item in enumerate(items)
    ]
