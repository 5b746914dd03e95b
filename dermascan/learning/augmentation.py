"""Changes to training images that leave their diagnosis as it is.

Everything is a function of (image, settings, seed). All moves are one resampling and all changes of
colour one map, by OpenCV.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dermascan.fingerprint import Plain

Image = NDArray[np.uint8]
Draws = NDArray[np.float64]

_MOVES, _COLOURS, _DISC = 6, 6, 8
_DRAWS = _MOVES + _COLOURS + _DISC + 2
_LUMA = np.array((0.299, 0.587, 0.114))  # ITU-R BT.601
_BLUR = np.array((1, 4, 6, 4, 1)) / 16
_DISC_RADIUS = (0.1, 0.3)  # of the height; less than the way from the edge to the middle
_DISC_REACH = 0.1  # of height or width, from the edge outwards
_DISC_SOFTNESS = 1.5  # pixels


@dataclass(frozen=True)
class Augmentation:
    """How far training images are changed.

    A lesion is as malignant upside down, nearer, under another lamp, in another focus, and
    beside a coloured sticker. Mirror images are always among the changes.

    Attributes:
        rotation: turn by any angle; else not at all.
        zoom: images are enlarged or shrunk by up to this factor less one.
        shift: share of height and width by which they are moved.
        brightness, contrast, saturation: largest relative change.
        tint: largest relative change of one colour channel, as another lamp would make.
        blur: largest share of a blurred copy (5 x 5, binomial) mixed in; half of it the other way
            sharpens.
        noise: largest standard deviation of noise added, 0..255.
        discs: share of images that get a coloured disc at their edge, as stickers are.
    """

    rotation: bool = True
    zoom: float = 0.2
    shift: float = 0.06
    brightness: float = 0.15
    contrast: float = 0.15
    saturation: float = 0.2
    tint: float = 0.05
    blur: float = 0.0
    noise: float = 0.0
    discs: float = 0.0

    def as_plain(self) -> dict[str, Plain]:
        """Return the settings as a JSON-ready mapping."""
        return asdict(self)


def augment(
    images: Image,
    augmentation: Augmentation,
    seed: Sequence[int],
    places: range | None = None,
    out: Image | None = None,
) -> Image:
    """Change each image of a batch in its own way.

    Args:
        images: uint8 (B, H, W, 3) RGB.
        augmentation: how far.
        seed: not negative; equal seeds give equal results.
        places: where the images stand in a larger batch, of `places.stop` images, whose others
            are changed elsewhere; each is changed as it would be there. None if these are all.
        out: where the result goes, shaped as `images`, which it may be; None for a new array.

    Returns:
        uint8 (B, H, W, 3) RGB; what comes into view from beyond the edge is mirrored.
    """
    random = np.random.default_rng(seed)
    places = range(len(images)) if places is None else places
    draws = random.uniform(-1, 1, (places.stop, _DRAWS))
    changed = np.empty_like(images) if out is None else out
    for place, drawn in enumerate(draws):
        if place in places:
            index = places.index(place)
            changed[index] = _augment(images[index], augmentation, drawn, random)
        elif augmentation.noise:
            _noise(images.shape[1:], random)
    return changed


def _augment(
    image: Image, augmentation: Augmentation, draws: Draws, random: np.random.Generator
) -> Image:
    moves, colours, disc, rest = np.split(draws, np.cumsum((_MOVES, _COLOURS, _DISC)))
    focus, noise = rest
    image = _move(image, augmentation, moves)
    if disc[3] < 2 * augmentation.discs - 1:
        image = _add_disc(image, disc)
    image = _recolour(image, augmentation, colours)
    if augmentation.blur:
        image = _refocus(image, augmentation.blur * focus)
    if augmentation.noise:
        strength = np.float32(augmentation.noise * abs(noise))
        image = _rounded(image + strength * _noise(image.shape, random))
    return image


def _move(image: Image, augmentation: Augmentation, draws: Draws) -> Image:
    """Scale, mirror, turn and shift by one resampling."""
    height, width = image.shape[:2]
    centre = np.array(((width - 1) / 2, (height - 1) / 2))
    scale = (1 + augmentation.zoom) ** draws[0] * np.sign(draws[1:3])  # along x and y
    angle = math.pi * draws[3] * augmentation.rotation
    cos, sin = math.cos(angle), math.sin(angle)
    turn = scale[:, None] * np.array(((cos, -sin), (sin, cos)))  # from output to input
    origin = centre + augmentation.shift * np.array((width, height)) * draws[4:6] - turn @ centre
    return _as_image(
        cv2.warpAffine(
            image,
            np.column_stack((turn, origin)),
            (width, height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT,
        )
    )


def _add_disc(image: Image, draws: Draws) -> Image:
    """Lay a disc of one colour over an image, its centre on an edge or a little beyond."""
    height, width = image.shape[:2]
    where, along, further = (draws[:3] + 1) / 2
    outside = 1 + _DISC_REACH * further if draws[7] > 0 else -_DISC_REACH * further
    on_side = where < height / (height + width)  # left or right, not top or bottom
    x, y = (outside, along) if on_side else (along, outside)
    low, high = _DISC_RADIUS
    radius = height * (low + (high - low) * abs(draws[7]))
    rows, columns = np.ogrid[:height, :width]
    distance = np.hypot(columns - width * x, rows - height * y)
    cover = np.clip((radius - distance) / _DISC_SOFTNESS, 0, 1)[..., None]
    colour = 127.5 * (1 + draws[4:7])
    return _rounded(image + cover * (colour - image))


def _recolour(image: Image, augmentation: Augmentation, draws: Draws) -> Image:
    """Apply one affine map of colours."""
    brightness = 1 + augmentation.brightness * draws[0]
    contrast = 1 + augmentation.contrast * draws[1]
    saturation = 1 + augmentation.saturation * draws[2]
    gain = brightness * (1 + augmentation.tint * draws[3:6])
    mean = np.dot(cv2.mean(image)[:3], _LUMA)
    mixed = contrast * (saturation * np.eye(3) + (1 - saturation) * _LUMA)
    offset = np.full(3, (1 - contrast) * mean)
    return _as_image(cv2.transform(image, gain[:, None] * np.column_stack((mixed, offset))))


def _refocus(image: Image, share: float) -> Image:
    """Mix an image with its blurred copy; a negative share (halved) sharpens."""
    amount = share / 2 if share < 0 else share
    pixels = image.astype(np.float32)
    blurred = cv2.sepFilter2D(pixels, -1, _BLUR, _BLUR, borderType=cv2.BORDER_REFLECT_101)
    return _rounded(pixels + np.float32(amount) * (blurred - pixels))


def _noise(shape: tuple[int, ...], random: np.random.Generator) -> NDArray[np.float32]:
    return random.standard_normal(shape, np.float32)


def _rounded(pixels: NDArray[np.floating]) -> Image:
    rounded: Image = np.rint(np.clip(pixels, 0, 255)).astype(np.uint8)
    return rounded


def _as_image(array: object) -> Image:
    return np.asarray(array, np.uint8)
