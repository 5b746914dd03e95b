"""Skin tone from an image: the individual typology angle of the skin around the lesion.

In a dermoscopic image the angle is an estimate: illumination, exposure, polarisation, immersion
fluid and the camera's white balance all shift it, and no colour target corrects for them. It
orders the images of a collection by how light the skin looks; it names nobody's skin type.
"""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]
Mask = NDArray[np.bool_]

TONE_BANDS = ("very light", "light", "intermediate", "tan", "brown", "dark")
# Degrees that an angle must exceed for each band but the last.
_BAND_LIMITS = (55.0, 41.0, 28.0, 10.0, -30.0)

_MEASURED_SIDE = 192
# Of L*, 0..100: what is darker is no skin but a vignette, hair or ink; what is brighter is glare.
_DARKEST, _BRIGHTEST = 15.0, 98.0
_LIGHTNESS_OF_ANGLE_ZERO = 50.0
# Semi-axes of the ellipse that the lesion is taken to lie in, in halves of the image's sides.
_LESION_EXTENT = 0.8
_SMALLEST_SKIN_SHARE = 0.02
# L* by which the dark part of an image must differ from the rest to be taken for a lesion.
_LESION_CONTRAST = 8.0


def individual_typology_angle(image: NDArray[np.uint8]) -> float:
    """Estimate the individual typology angle of the skin around a lesion.

    Skin is what lies outside the ellipse in the middle that the lesion is taken to lie in,
    without black (the vignette of a dermatoscope) and glare, and without what is as dark as the
    lesion where the lesion reaches further. L* and b* are the medians of its pixels.

    Args:
        image: uint8 sRGB, (height, width, 3).

    Returns:
        atan2(L* - 50, b*) in degrees, -180..180, the higher the lighter; NaN if less than a
        fiftieth of the image is skin by these rules.

    Source:
        Chardon, Cretois and Hourseau, Skin colour typology and suntanning pathways,
        International Journal of Cosmetic Science 13:191-208, 1991. CIELAB under D65.
    """
    lightness, yellowness = _lightness_and_yellowness(image)
    usable = (lightness > _DARKEST) & (lightness < _BRIGHTEST)
    around = usable & _outside_middle(*lightness.shape)
    if np.count_nonzero(around) < _SMALLEST_SKIN_SHARE * around.size:
        return math.nan
    light = around & (lightness > _lesion_lightness(lightness[usable]))
    skin = light if np.count_nonzero(light) >= _SMALLEST_SKIN_SHARE * around.size else around
    height = float(np.median(lightness[skin])) - _LIGHTNESS_OF_ANGLE_ZERO
    return math.degrees(math.atan2(height, float(np.median(yellowness[skin]))))


def tone_band(angle: float) -> str | None:
    """Name the band that an individual typology angle lies in.

    Args:
        angle: degrees; each band includes its upper limit.

    Returns:
        One of `TONE_BANDS`, lightest first; None if the angle is NaN.

    Source:
        Chardon et al. 1991, with the limit of -30 degrees between brown and dark of Del Bino et
        al., Pigment Cell Research 19:606-614, 2006.
    """
    if math.isnan(angle):
        return None
    return TONE_BANDS[sum(angle <= limit for limit in _BAND_LIMITS)]


def _lightness_and_yellowness(image: NDArray[np.uint8]) -> tuple[Plane, Plane]:
    """Return L* (0..100) and b* of a copy that is at most `_MEASURED_SIDE` pixels wide or high."""
    height, width = image.shape[:2]
    scale = min(1.0, _MEASURED_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    lab: Plane = cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    return lab[..., 0], lab[..., 2]


def _outside_middle(height: int, width: int) -> Mask:
    down = (np.arange(height) + 0.5) / height * 2 - 1
    right = (np.arange(width) + 0.5) / width * 2 - 1
    outside: Mask = np.hypot(down[:, None], right) > _LESION_EXTENT
    return outside


def _lesion_lightness(lightness: Plane) -> float:
    """Return L* up to which a pixel looks like lesion; -1 where no part of the image does.

    Source:
        Otsu, A threshold selection method from gray-level histograms, IEEE Transactions on
        Systems, Man, and Cybernetics 9:62-66, 1979.
    """
    levels = np.round(lightness).astype(np.uint8)[None]
    threshold, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    dark, light = lightness[lightness <= threshold], lightness[lightness > threshold]
    if not dark.size or not light.size:
        return -1.0
    return threshold if light.mean() - dark.mean() >= _LESION_CONTRAST else -1.0
