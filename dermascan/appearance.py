"""Optional corrections of how a lesion looks: hair and the colour of the light.

Every array here is uint8 RGB of shape (height, width, 3).
"""

import cv2
import numpy as np
from numpy.typing import NDArray

MINKOWSKI_ORDER = 6

# Relative to the short side, so that one setting serves all image sizes.
WIDEST_HAIR = 1 / 12
SHORTEST_HAIR = 1 / 5
THICKEST_HAIR = 1 / 20
DENSEST_HAIR = 1 / 15
HAIR_CONTRAST = 18  # levels of 255 by which a hair is darker than the skin beside it
INPAINT_RADIUS = 3


def shades_of_gray(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Correct the colour of the illuminant so that the image is gray on (Minkowski) average.

    Source:
        Finlayson & Trezzi, "Shades of gray and colour constancy", Color Imaging Conference
        2004; order 6 as in Barata, Celebi & Marques, "Improving dermoscopy image
        classification using color constancy", IEEE JBHI 19(3), 2015.
    """
    levels = np.arange(256, dtype=np.float64)
    powers = levels**MINKOWSKI_ORDER
    histograms = [np.bincount(image[..., c].ravel(), minlength=256) for c in range(3)]
    light = np.array([float(h @ powers) for h in histograms]) ** (1 / MINKOWSKI_ORDER)
    if not light.all():
        return image.copy()
    gains = np.linalg.norm(light) / (np.sqrt(3) * light)
    table = np.rint(np.outer(levels, gains)).clip(0, 255).astype(np.uint8)
    corrected: NDArray[np.uint8] = cv2.LUT(image, table[:, np.newaxis, :])
    return corrected


def remove_hair(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Paint over dark hairs from their surroundings.

    Source:
        After Lee et al., "DullRazor: a software approach to hair removal from images",
        Computers in Biology and Medicine 27(6), 1997: closings along lines find hairs, and only
        what is long and thin is taken for one. Filled as in Telea, J. Graphics Tools 9(1), 2004.
    """
    mask = hair_mask(image)
    if not mask.any():
        return image.copy()
    painted: NDArray[np.uint8] = cv2.inpaint(image, mask, INPAINT_RADIUS, cv2.INPAINT_TELEA)
    return painted


def hair_mask(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return (height, width) uint8: 255 where a dark hair is, 0 elsewhere."""
    luma = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    side = min(luma.shape)
    # Reflected borders, or whatever touches the edge would count as dark on a bright ground.
    closed = np.max([_closed(luma, line) for line in _lines(_odd(side * WIDEST_HAIR))], axis=0)
    candidates = (cv2.subtract(closed, luma) > HAIR_CONTRAST).astype(np.uint8)
    thin = _long_and_thin(candidates, side) * np.uint8(255)
    mask: NDArray[np.uint8] = cv2.dilate(thin, np.ones((3, 3), np.uint8))
    return mask


def _closed(luma: NDArray[np.uint8], line: NDArray[np.uint8]) -> NDArray[np.uint8]:
    margin = max(line.shape)
    framed = cv2.copyMakeBorder(luma, margin, margin, margin, margin, cv2.BORDER_REFLECT_101)
    closed: NDArray[np.uint8] = cv2.morphologyEx(framed, cv2.MORPH_CLOSE, line)
    return closed[margin:-margin, margin:-margin]


def _lines(length: int) -> tuple[NDArray[np.uint8], ...]:
    """Return line-shaped structuring elements at 0, 45, 90 and 135 degrees."""
    horizontal = np.ones((1, length), np.uint8)
    diagonal: NDArray[np.uint8] = np.eye(max(3, _odd(length / np.sqrt(2))), dtype=np.uint8)
    return horizontal, diagonal, horizontal.T.copy(), np.fliplr(diagonal).copy()


def _long_and_thin(candidates: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(candidates, connectivity=8)
    extent = np.hypot(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT])
    half_width = np.zeros(count)
    np.maximum.at(half_width, labels, cv2.distanceTransform(candidates, cv2.DIST_L2, 3))
    is_thin = 2 * half_width <= max(4.0, side * THICKEST_HAIR)
    is_sparse = stats[:, cv2.CC_STAT_AREA] <= extent * side * DENSEST_HAIR  # unlike a network
    is_hair = (extent >= side * SHORTEST_HAIR) & is_thin & is_sparse
    is_hair[0] = False  # the background
    chosen: NDArray[np.uint8] = is_hair[labels].astype(np.uint8)
    return chosen


def _odd(number: float) -> int:
    return max(3, 2 * int(number / 2) + 1)
