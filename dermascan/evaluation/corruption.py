"""How much worse a model is on worse photographs of the same lesions.

Five corruptions in five strengths, in the manner of Hendrycks and Dietterich, "Benchmarking
neural network robustness to common corruptions and perturbations", ICLR 2019, chosen from what
goes wrong in dermoscopy (Maron et al., "A benchmark for neural network robustness in skin cancer
classification", European Journal of Cancer 155, 2021): focus, sensor, compression, the light's
colour, exposure. Strength 3 is a poor photograph that a clinician can still read, 5 a bad one.
Extents are relative to the image's height, so that a strength means the same at any size.

Images are uint8 RGB of shape (height, width, 3).
"""

import logging
from collections.abc import Iterable, Iterator
from itertools import product
from typing import Final, Protocol

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dermascan.errors import InputError
from dermascan.evaluation.bootstrap import DEFAULT_RESAMPLES, Bootstrap
from dermascan.evaluation.ranking import Ranking
from dermascan.evaluation.schema import CorruptionFigures, Estimate, Robustness
from dermascan.evaluation.scored import number_lesions
from dermascan.evaluation.statistic import Flags, Floats, rounded
from dermascan.fingerprint import fingerprint
from dermascan.model.savedmodel import SCORING_BATCH, Scores
from dermascan.progress import Progress
from dermascan.taxonomy import Taxonomy

logger = logging.getLogger(__name__)

Image = NDArray[np.uint8]

CORRUPTIONS: Final = ("blur", "noise", "jpeg", "colour", "brightness")
STRENGTHS: Final = (1, 2, 3, 4, 5)
MEAN_STRENGTH: Final = 3
SUBSET_IMAGES = 500
IMAGES_AT_3 = 2_000

# Standard deviation of a Gaussian, as a share of the height.
BLUR_SIGMAS: Final = (0.004, 0.007, 0.011, 0.016, 0.023)

# Standard deviation, as a share of 255, at a height of 144. It grows with the height: white noise
# of a sensor shrinks as pixels are averaged, so a smaller copy of the same photograph has less.
NOISE_SIGMAS: Final = (0.02, 0.04, 0.06, 0.09, 0.13)
NOISE_HEIGHT = 144

# Quality of a file of this height, or of the image's own if that is larger: the 8 x 8 blocks
# of a compressed photograph shrink with it when it is prepared.
JPEG_QUALITIES: Final = (40, 25, 15, 9, 5)
JPEG_HEIGHT = 288

# Change of the red and blue light, in stops (factors of 2), one up and the other down; lamps,
# daylight and their white balance differ mostly along this line, and less between green and
# magenta.
COLOUR_STOPS: Final = (0.15, 0.3, 0.5, 0.7, 0.95)
GREEN_SHARE = 0.4

# Change of the exposure, in stops. Skin is bright: too much light destroys sooner than too little.
DARKER_STOPS: Final = (0.4, 0.8, 1.3, 1.9, 2.6)
BRIGHTER_STOPS: Final = (0.2, 0.4, 0.65, 0.9, 1.25)
DISPLAY_GAMMA = 2.2  # light to pixel values, as in sRGB to within a few percent

# What is made of an image: itself, then every corruption in every strength.
_KINDS: Final = (None, *product(CORRUPTIONS, STRENGTHS))
_AT_MEAN_STRENGTH: Final = np.array([not kind or kind[1] == MEAN_STRENGTH for kind in _KINDS])


class _Scorer(Protocol):
    def score(self, images: Image) -> Scores: ...


def corrupt(image: Image, name: str, strength: int, seed: int) -> Image:
    """Return a corrupted copy of an image; equal arguments give equal copies.

    Args:
        image: uint8 (H, W, 3) RGB, prepared for a network.
        name: `blur` (defocus), `noise` (of the sensor), `jpeg`, `colour` (of the light; the
            seed decides its direction) or `brightness` (odd seeds brighter, even ones darker).
        strength: 1 to 5; with the same seed a higher one changes the image more.
        seed: 0 or more; of everything that is drawn.

    Returns:
        uint8 (H, W, 3) RGB.

    Raises:
        InputError: the image, the name or the strength is another.
    """
    _check(image, name, strength)
    level = strength - 1
    random = np.random.default_rng([seed, CORRUPTIONS.index(name)])
    match name:
        case "blur":
            return _blurred(image, BLUR_SIGMAS[level] * image.shape[0])
        case "noise":
            sigma = 255 * NOISE_SIGMAS[level] * image.shape[0] / NOISE_HEIGHT
            return _noisy(image, sigma, random)
        case "jpeg":
            return _compressed(image, JPEG_QUALITIES[level])
        case "colour":
            return _relit(image, COLOUR_STOPS[level] * _tint(random))
        case _:
            stops = BRIGHTER_STOPS[level] if seed % 2 else -DARKER_STOPS[level]
            return _relit(image, np.full(3, stops))


def _check(image: Image, name: str, strength: int) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        raise InputError(f"an image is uint8 (H, W, 3), not {image.dtype} {image.shape}")
    if name not in CORRUPTIONS:
        raise InputError(f"no corruption is called {name!r}: use one of {', '.join(CORRUPTIONS)}")
    if strength not in STRENGTHS:
        raise InputError(f"strength {strength} of {name} is not one of {STRENGTHS}")


def _blurred(image: Image, sigma: float) -> Image:
    blurred: Image = cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
    return blurred


def _noisy(image: Image, sigma: float, random: np.random.Generator) -> Image:
    noise = random.standard_normal(image.shape, np.float32)
    return _as_pixels(image + np.float32(sigma) * noise)


def _compressed(image: Image, quality: int) -> Image:
    height, width = image.shape[:2]
    scale = max(1.0, JPEG_HEIGHT / height)
    size = round(width * scale), round(height * scale)
    enlarged = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality]
    _, data = cv2.imencode(".jpg", cv2.cvtColor(enlarged, cv2.COLOR_RGB2BGR), settings)
    decoded = cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    compressed: Image = cv2.resize(decoded, (width, height), interpolation=cv2.INTER_AREA)
    return compressed


def _tint(random: np.random.Generator) -> Floats:
    angle = random.uniform(0, 2 * np.pi)
    amber, green = np.array([1.0, 0.0, -1.0]), np.array([-0.5, 1.0, -0.5])
    tint: Floats = np.cos(angle) * amber + GREEN_SHARE * np.sin(angle) * green
    return tint


def _relit(image: Image, stops: Floats) -> Image:
    """Multiply the light of each channel by 2 ** stops."""
    gains = 2 ** (stops / DISPLAY_GAMMA)
    table = _as_pixels(np.outer(np.arange(256), gains))
    relit: Image = cv2.LUT(image, table[:, np.newaxis, :])
    return relit


def _as_pixels(values: NDArray[np.floating]) -> Image:
    pixels: Image = np.rint(values).clip(0, 255).astype(np.uint8)
    return pixels


def measure_robustness(  # noqa: PLR0913  # three arguments, and options that callers name
    images: Iterable[tuple[str, Image]],
    scorer: _Scorer,
    table: pd.DataFrame,
    *,
    subset: int = SUBSET_IMAGES,
    images_at_3: int = IMAGES_AT_3,
    taxonomy: Taxonomy | None = None,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
) -> Robustness:
    """Measure what each corruption and strength costs in ROC AUC, malignant against benign.

    The clean AUC that the costs are reckoned from is measured on the same images. All strengths
    are measured on a subset, strength 3 on more images for a mean that can be judged by. Memory
    does not grow with the number of images: two batches and one corrupted copy are kept.

    Args:
        images: identifiers and prepared images (H, W, 3) in any order; read once. Those that
            are not drawn are passed over.
        scorer: a loaded model.
        table: the test set: `isic_id`, `lesion_id` (empty: the image is its own lesion),
            `lesion_class`.
        subset: about how many images to corrupt in every way, see `stratified_subset`.
        images_at_3: about how many to corrupt at strength 3, the subset among them.
        taxonomy: which classes are malignant, by default those of `Taxonomy()`.
        resamples: bootstrap resamples of lesions for the intervals.
        seed: of the subset, the corruptions and the bootstrap.

    Raises:
        InputError: an image that was drawn was not among `images`.
    """
    drawn = stratified_subset(table, max(images_at_3, subset), seed)
    within = stratified_subset(table, subset, seed)["isic_id"]
    in_subset = drawn["isic_id"].isin(within).to_numpy(dtype=bool)
    names = drawn["isic_id"].astype(str).tolist()
    scores = _score_corrupted(images, scorer, names, in_subset, seed)
    malignant = (taxonomy or Taxonomy()).malignant
    positive = drawn["lesion_class"].isin(malignant).to_numpy(dtype=bool)
    of_subset = Bootstrap(number_lesions(drawn[in_subset]), resamples, seed)
    of_drawn = Bootstrap(number_lesions(drawn), resamples, seed)
    return Robustness(
        images=int(in_subset.sum()),
        corruptions=_figures(positive[in_subset], scores[:, in_subset], of_subset),
        images_at_3=len(drawn),
        malignant_at_3=int(positive.sum()),
        mean_auc_lost_at_3=_mean_lost(positive, scores[_AT_MEAN_STRENGTH], of_drawn),
    )


def stratified_subset(table: pd.DataFrame, images: int, seed: int) -> pd.DataFrame:
    """Draw whole lesions so that each class keeps its share of the images.

    Args:
        table: `isic_id`, `lesion_id`, `lesion_class`; the order of its rows does not matter.
        images: about how many to draw; at least one lesion of each class is.
        seed: equal seeds draw equal lesions.

    Returns:
        Rows of the table, all of them if there are no more than `images`.
    """
    if len(table) <= images:
        return table
    rows = table.assign(_lesion=number_lesions(table)).sort_values("isic_id")
    lesions = rows.groupby("_lesion").agg(name=("lesion_class", "first"), size=("isic_id", "size"))
    shuffled = lesions.sample(frac=1, random_state=seed)
    # A lesion is drawn if more than half of it is within its class's share.
    middle = shuffled.groupby("name")["size"].cumsum() - shuffled["size"] / 2
    share = shuffled.groupby("name")["size"].transform("sum") * images / len(table)
    drawn = shuffled.index[(middle < share) | ~shuffled["name"].duplicated()]
    return rows[rows["_lesion"].isin(drawn)].drop(columns="_lesion")


def _score_corrupted(
    images: Iterable[tuple[str, Image]],
    scorer: _Scorer,
    drawn: list[str],
    in_subset: Flags,
    seed: int,
) -> Floats:
    """Return `p_malignant` [variants, images] in the order of `_KINDS`, NaN where not measured."""
    column = {isic_id: index for index, isic_id in enumerate(drawn)}
    scores = np.full((len(_KINDS), len(drawn)), np.nan)
    kinds = np.where(in_subset, len(_KINDS), np.count_nonzero(_AT_MEAN_STRENGTH))
    progress = Progress(logger, "corrupted images", int(kinds.sum()))
    wanted = ((column[isic_id], image) for isic_id, image in images if isic_id in column)
    for batch in _batches(wanted, in_subset):
        columns = [index for index, _ in batch]
        seeds = [_seed_of_image(drawn[index], seed) for index in columns]
        originals = [image for _, image in batch]
        for row in np.flatnonzero(_AT_MEAN_STRENGTH | in_subset[columns[0]]):
            variant = _variant(originals, _KINDS[row], seeds)
            scores[row, columns] = scorer.score(variant).p_malignant
            progress.advance(len(batch))
    missing = np.flatnonzero(np.isnan(scores[0]))
    if len(missing):
        first = drawn[missing[0]]
        raise InputError(f"{len(missing)} test images were not given, first {first}: give them all")
    return scores


def _batches(
    wanted: Iterable[tuple[int, Image]], in_subset: Flags
) -> Iterator[list[tuple[int, Image]]]:
    """Gather batches that lie wholly within the subset or wholly outside of it."""
    gathered: dict[bool, list[tuple[int, Image]]] = {True: [], False: []}
    for index, image in wanted:
        inside = bool(in_subset[index])
        gathered[inside].append((index, image))
        if len(gathered[inside]) == SCORING_BATCH:
            yield gathered[inside]
            gathered[inside] = []
    yield from (batch for batch in gathered.values() if batch)


def _variant(images: list[Image], kind: tuple[str, int] | None, seeds: list[int]) -> Image:
    if kind is None:
        return np.stack(images)
    pairs = zip(images, seeds, strict=True)
    return np.stack([corrupt(image, *kind, seed) for image, seed in pairs])


def _seed_of_image(isic_id: str, seed: int) -> int:
    return int(fingerprint([seed, isic_id])[:8], 16)


def _figures(
    positive: Flags, scores: Floats, bootstrap: Bootstrap
) -> tuple[CorruptionFigures, ...]:
    clean, *corrupted = (bootstrap.estimate(Ranking(positive, row).roc_auc) for row in scores)
    kinds = product(CORRUPTIONS, STRENGTHS)
    return tuple(
        CorruptionFigures(
            name=name,
            strength=strength,
            roc_auc=estimate,
            auc_lost=_difference(clean.value, estimate.value),
        )
        for (name, strength), estimate in zip(kinds, corrupted, strict=True)
    )


def _difference(clean: float | None, corrupted: float | None) -> float | None:
    return None if clean is None or corrupted is None else rounded(clean - corrupted)


def _mean_lost(positive: Flags, scores: Floats, bootstrap: Bootstrap) -> Estimate:
    """Estimate the mean loss of ROC AUC, clean and corrupted on the same resamples."""
    clean, *corrupted = (Ranking(positive, row).roc_auc for row in scores)

    def statistic(weights: Floats) -> Floats:
        losses = clean(weights) - np.stack([auc(weights) for auc in corrupted])
        mean_loss: Floats = losses.mean(axis=0)
        return mean_loss

    return bootstrap.estimate(statistic)
