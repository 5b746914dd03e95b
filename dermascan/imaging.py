"""From bytes to the array that the network sees: the one path for training and inference.

Arrays are uint8 RGB of shape (height, width, 3). Two steps: `decode` distrusts the bytes and
gives the upright image at its own size; `prepare` brings it to the network's size. Both are
pure functions and safe to call from threads; OpenCV works outside Python's global lock.
"""

import hashlib
import io
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL.JpegImagePlugin import JpegImageFile
from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass

from dermascan.appearance import remove_hair, shades_of_gray
from dermascan.errors import InputError
from dermascan.fingerprint import Plain
from dermascan.image_container import (
    JPEG_END,
    EncodedImage,
    ImageFormat,
    ImageRefusedError,
    RefusalReason,
    image_format,
    png_inflates_beyond,
    read_container,
)
from dermascan.quality import MEASURED_SIDE, ImageFacts, hash_distance, measure

__all__ = [
    "DEFAULT_LIMITS",
    "STEP_VERSION",
    "DecodeLimits",
    "Decoded",
    "Decoding",
    "ImageFacts",
    "ImageFormat",
    "ImageRefusedError",
    "ImageSize",
    "Preprocessing",
    "RefusalReason",
    "decode",
    "decode_for",
    "hash_distance",
    "image_format",
    "measure",
    "prepare",
    "prepare_decoded",
    "small_jpeg",
    "thumbnail",
]

# Part of every fingerprint of something made from pixels. Raise it with any change to decoding,
# preparation or record layout that changes bytes.
STEP_VERSION = 2

THUMBNAIL_SIDE, THUMBNAIL_QUALITY = 160, 80

Decoding = Literal["full", "reduced"]

_STRICT = ConfigDict(strict=True, extra="forbid")
# The flags of a scale alone; OpenCV names them with gray, and RGB takes its place.
_REDUCED: Final = {
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
}
_LIBJPEG_FILL: Final = [128, 128, 128]  # what libjpeg paints where the data ended early
# Something to read for a scan that lacks data, and for one that lacks its next restart marker.
_NUMBERED = (bytes(range(1, 65)) + bytes((0xFF, 0xD0 + number)) for number in range(8))
# Two unlike tails: what one of them completes to the very pixels of the filling, the other
# does not. The first brings every restart marker that a decoder may be waiting for.
_PROBES = (b"".join(_NUMBERED), bytes([0xAA]) * 64)
_DIGEST_ROWS = 256
# Each scan of a JPEG costs a pass over all pixels: ten scans of 30 megapixels, about what
# cameras take, or one scan of whatever the limits allow.
_MAX_SCANNED_PIXELS = 300_000_000


@dataclass(frozen=True, config=_STRICT)
class DecodeLimits:
    """What an image may cost before it is decoded, and the shapes that make sense.

    Attributes:
        max_bytes: encoded size.
        max_pixels: width times height; a decoded pixel takes 3 bytes, decoding it up to 20.
        min_side: pixels of the shorter side.
        max_aspect: longer side over shorter side.
    """

    max_bytes: int = 50 * 1024 * 1024
    max_pixels: int = 100_000_000
    min_side: int = 32
    max_aspect: float = 8.0


DEFAULT_LIMITS = DecodeLimits()


@dataclass(frozen=True, config=_STRICT)
class ImageSize:
    """Height and width in pixels, 16 to 4096 each.

    Raises:
        InputError: a side is out of range.
    """

    height: int
    width: int

    def __post_init__(self) -> None:
        if not (16 <= self.height <= 4096 and 16 <= self.width <= 4096):
            raise InputError(f"image size {self} is out of range: use 16 to 4096 for each side")

    @classmethod
    def parse(cls, text: str) -> "ImageSize":
        """Read HEIGHTxWIDTH, such as `144x192`.

        Raises:
            InputError: the text has another form or a side is out of range.
        """
        found = re.fullmatch(r"([0-9]{1,4})x([0-9]{1,4})", text)
        if not found:
            raise InputError(f"{text!r} is not an image size: write HEIGHTxWIDTH, such as 144x192")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"


@dataclass(frozen=True, config=_STRICT)
class Preprocessing:
    """Everything that decides which array the network sees for given bytes.

    Attributes:
        image_size: size of the prepared array.
        colour_constancy: correct the light's colour (`appearance.shades_of_gray`).
        hair_removal: paint over dark hairs (`appearance.remove_hair`).
        limits: which images are accepted.
        decoding: `full`, or `reduced` to decode JPEG files that are large enough at a half, a
            quarter or an eighth of their size (`decode_for`), which gives slightly other pixels.
    """

    image_size: ImageSize = ImageSize(192, 256)
    colour_constancy: bool = False
    hair_removal: bool = False
    limits: DecodeLimits = DEFAULT_LIMITS
    decoding: Decoding = "reduced"

    def as_plain(self) -> dict[str, Plain]:
        """Return a JSON-ready mapping, for fingerprints and to store with a model."""
        return asdict(self) | {"image_size": str(self.image_size)}

    @classmethod
    def from_plain(cls, value: Mapping[str, Plain]) -> "Preprocessing":
        """Read what `as_plain` returned; what names no decoding is of a time of full decoding.

        Raises:
            InputError: a field is unknown or of the wrong type, or size or limits are missing.
        """
        try:
            fields: dict[str, Any] = {"decoding": "full", **value}
            fields["image_size"] = ImageSize.parse(fields["image_size"])
            fields["limits"] = DecodeLimits(**fields["limits"])
            return cls(**fields)
        except (KeyError, TypeError, ValidationError) as error:
            raise InputError(f"these are no preprocessing settings: {error}") from error


class Decoded(NamedTuple):
    """A decoded image.

    Attributes:
        pixels: uint8 RGB, (height, width, 3) or smaller by a common divisor, upright.
        height: of the file's image, upright.
        width: likewise.
    """

    pixels: NDArray[np.uint8]
    height: int
    width: int

    @property
    def reduced(self) -> bool:
        """Tell whether `pixels` are fewer than the file's."""
        return self.pixels.shape[:2] != (self.height, self.width)


def decode(data: bytes, limits: DecodeLimits = DEFAULT_LIMITS) -> NDArray[np.uint8]:
    """Decode a JPEG or PNG file to an upright image, or say why not.

    Accepted: 8 bits a channel or fewer; gray, RGB or palette; an alpha channel only if it is
    opaque. The orientation of EXIF is applied, exactly once; no other metadata has any effect,
    colour profiles included. Bytes after the end of the image are ignored. No pixel is decoded
    before size, structure and amount of data have passed: besides `limits`, a JPEG in several
    scans may have 300 million pixels in all of them together, and the data of a PNG may be twice
    as long as its rows.

    Data that libjpeg would silently replace by gray, because a file that was cut off had an end
    marker put behind it, is found except in the very last block. Wrong but well-formed data
    inside a scan cannot be told from a picture: compare SHA-256 for that. libjpeg and libpng
    write a line to standard error for files that are damaged in such a way.

    Args:
        data: a whole file.
        limits: what is accepted.

    Returns:
        uint8 RGB, (height, width, 3), contiguous.

    Raises:
        ImageRefusedError: the bytes are not acceptable; see its `reason`.
    """
    encoded = _accepted(data, limits)
    return _decoded(encoded, 1)


def decode_for(data: bytes, preprocessing: Preprocessing) -> Decoded:
    """Decode a file for `prepare_decoded` and `measure`, refusing what `decode` refuses.

    With `reduced` decoding, a JPEG file in one scan is decoded at the smallest of a half, a quarter
    and an eighth of its size that still covers the network's size and has `MEASURED_SIDE` pixels
    along its long side: libjpeg then leaves out frequencies that `prepare` would average away.
    Any other file is decoded as `decode` does.

    Args:
        data: a whole file.
        preprocessing: size, limits and kind of decoding.

    Raises:
        ImageRefusedError: the bytes are not acceptable; see its `reason`.
    """
    encoded = _accepted(data, preprocessing.limits)
    reduced = preprocessing.decoding == "reduced"
    pixels = _decoded(encoded, _divisor(encoded, preprocessing.image_size) if reduced else 1)
    height, width = encoded.height, encoded.width
    return Decoded(pixels, *((width, height) if encoded.orientation >= 5 else (height, width)))


def prepare(image: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Bring an image to the network's size, then apply the chosen corrections.

    In this order: a quarter turn if that lays the long side along the target's long side (a
    lesion has no upright); scaling at true aspect to cover the target; cropping the centre;
    hair removal; colour constancy (after the hairs are gone, so that they do not count as
    surface).

    Args:
        image: uint8 RGB, (height, width, 3), as from `decode`.
        preprocessing: target size and corrections.

    Returns:
        uint8 RGB, (image_size.height, image_size.width, 3), contiguous.

    Raises:
        InputError: the array has another type or shape.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        found = f"{image.dtype} {image.shape}"
        raise InputError(f"expected a uint8 array of shape (height, width, 3), got {found}")
    return _prepared(image, preprocessing, averaged_below=1.0)


def prepare_decoded(decoded: Decoded, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Do as `prepare`, for an image that may have been decoded at a reduced scale.

    What libjpeg has reduced holds no detail finer than its pixels, and bilinear samples reach
    every pixel down to half the size: only what shrinks further is averaged over areas.
    """
    averaged_below = 0.5 if decoded.reduced else 1.0
    return _prepared(decoded.pixels, preprocessing, averaged_below)


def _prepared(
    image: NDArray[np.uint8], preprocessing: Preprocessing, averaged_below: float
) -> NDArray[np.uint8]:
    size = preprocessing.image_size
    prepared = _centre_crop(_cover(_laid_along(image, size), size, averaged_below), size)
    if preprocessing.hair_removal:
        prepared = remove_hair(prepared)
    if preprocessing.colour_constancy:
        prepared = shades_of_gray(prepared)
    return prepared


def thumbnail(data: bytes, side: int = THUMBNAIL_SIDE) -> bytes:
    """Return a small JPEG of an image for people to look at, without any metadata.

    Args:
        data: a whole file that `decode` accepts.
        side: most pixels of the longer side; a smaller image keeps its size.

    Raises:
        ImageRefusedError: the bytes are not acceptable.
    """
    return small_jpeg(decode(data), side)


def small_jpeg(image: NDArray[np.uint8], side: int) -> bytes:
    """Encode an image for people to look at.

    Args:
        image: uint8 RGB, (height, width, 3).
        side: most pixels of the longer side; a smaller image keeps its size.
    """
    scale = min(1.0, side / max(image.shape[:2]))
    height, width = (max(1, round(length * scale)) for length in image.shape[:2])
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    quality = [cv2.IMWRITE_JPEG_QUALITY, THUMBNAIL_QUALITY]
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), quality)
    return bytes(encoded)


def _accepted(data: bytes, limits: DecodeLimits) -> EncodedImage:
    if len(data) > limits.max_bytes:
        detail = f"{len(data):,} bytes, {limits.max_bytes:,} are accepted"
        raise ImageRefusedError("too_large", detail)
    encoded = read_container(data)
    _check_size(encoded, limits)
    _check_amount_of_data(encoded)
    return encoded


def _decoded(encoded: EncodedImage, divisor: int) -> NDArray[np.uint8]:
    stored = _decode_stored(encoded, divisor)
    if encoded.format == "JPEG" and _ended_early(encoded, stored):
        raise ImageRefusedError("truncated", "JPEG whose data ends before its last row")
    return _upright(stored, encoded.orientation)


def _divisor(encoded: EncodedImage, size: ImageSize) -> int:
    """Return by what the sides may be divided; `prepare` lays long sides along each other."""
    if encoded.format != "JPEG" or encoded.scans > 1:
        return 1
    short, long = sorted((encoded.height, encoded.width))
    wanted_short, wanted_long = sorted((size.height, size.width))
    wanted_long = max(wanted_long, MEASURED_SIDE)
    fitting = (d for d in _REDUCED if short >= d * wanted_short and long >= d * wanted_long)
    return next(fitting, 1)


def _check_size(encoded: EncodedImage, limits: DecodeLimits) -> None:
    size = f"{encoded.width:,} x {encoded.height:,} pixels"
    short, long = sorted((encoded.width, encoded.height))
    if short * long > limits.max_pixels:
        raise ImageRefusedError("too_large", f"{size}, {limits.max_pixels:,} are accepted")
    if short < limits.min_side:
        raise ImageRefusedError("too_small", f"{size}, a side of {limits.min_side} is needed")
    if long > short * limits.max_aspect:
        detail = f"{size}, the long side may be {limits.max_aspect:g} times the short one"
        raise ImageRefusedError("extreme_aspect", detail)


def _check_amount_of_data(encoded: EncodedImage) -> None:
    pixels = encoded.width * encoded.height
    if encoded.format == "PNG":
        # Twice four bytes a pixel and one a row: more than any row filter or interlacing needs.
        if png_inflates_beyond(encoded.pixels, 2 * (4 * pixels + encoded.height)):
            raise ImageRefusedError("damaged", "PNG whose data goes on long after its last row")
        return
    # JPEG spends at least one bit on the mean of every 8 x 8 block: what is shorter cannot be
    # whole, and need not cost the decoding of a hundred million gray pixels to find that out.
    if len(encoded.pixels) * 8 < pixels / 64:
        raise ImageRefusedError("truncated", f"JPEG of {len(encoded.pixels):,} bytes is too short")
    if encoded.scans > 1 and pixels * encoded.scans > _MAX_SCANNED_PIXELS:
        found = f"{pixels:,} pixels in {encoded.scans} scans"
        detail = f"JPEG of {found}, {_MAX_SCANNED_PIXELS:,} are accepted in all scans together"
        raise ImageRefusedError("too_large", detail)


def _decode_stored(encoded: EncodedImage, divisor: int) -> NDArray[np.uint8]:
    colour = _REDUCED.get(divisor, 0) | cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    flags = cv2.IMREAD_UNCHANGED if encoded.has_alpha else colour
    try:
        stored = cv2.imdecode(np.frombuffer(encoded.pixels, np.uint8), flags)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(str(error)) from error
        raise ImageRefusedError("damaged", f"{encoded.format}: {error.err}") from error
    expected = (-(-encoded.height // divisor), -(-encoded.width // divisor))
    if stored is None or stored.shape[:2] != expected:
        raise ImageRefusedError("damaged", f"{encoded.format} data cannot be decoded")
    return _without_alpha(stored) if encoded.has_alpha else stored


def _without_alpha(bgra: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if bgra[..., 3].min() < 255:
        raise ImageRefusedError("wrong_mode", "PNG with transparent pixels")
    rgb: NDArray[np.uint8] = cv2.cvtColor(bgra, cv2.COLOR_BGRA2RGB)
    return rgb


def _ended_early(encoded: EncodedImage, stored: NDArray[np.uint8]) -> bool:
    """Tell whether libjpeg made up what was missing at the end of the last scan.

    A scan that is whole does not look at bytes put behind it; one that is short reads them as
    pixels. That costs more decodes (by Pillow, which keeps libjpeg's remarks off standard
    error), so it is tried only where the last pixel is libjpeg's filling, or where several scans
    mean that the missing part would not show as gray. In a single scan the means of the blocks
    tell, which a decode at an eighth of the size gives for a third of the time.
    """
    if encoded.scans == 1 and stored[-1, -1].tolist() != _LIBJPEG_FILL:
        return False
    body = encoded.pixels.removesuffix(JPEG_END)
    probed = [body + probe + JPEG_END for probe in _PROBES]
    if encoded.scans == 1:
        means = _pillow_digest(encoded.pixels, divisor=8)
        return not all(_decodes_to(jpeg, means, divisor=8) for jpeg in probed)
    expected = hashlib.sha256(stored.data).hexdigest()
    if all(_decodes_to(jpeg, expected) for jpeg in probed):
        return False
    # Two builds of libjpeg need not agree: what differs must differ within one of them.
    by_pillow = _pillow_digest(encoded.pixels)
    return by_pillow == expected or not all(_decodes_to(jpeg, by_pillow) for jpeg in probed)


def _decodes_to(jpeg: bytes, expected: str, divisor: int = 1) -> bool:
    try:
        return _pillow_digest(jpeg, divisor) == expected
    except ImageRefusedError:
        return False


def _pillow_digest(jpeg: bytes, divisor: int = 1) -> str:
    try:
        with JpegImageFile(io.BytesIO(jpeg)) as image:
            image.draft(None, (max(1, image.width // divisor), max(1, image.height // divisor)))
            digest = hashlib.sha256()
            for top in range(0, image.height, _DIGEST_ROWS):
                rows = (0, top, image.width, min(top + _DIGEST_ROWS, image.height))
                digest.update(image.crop(rows).convert("RGB").tobytes())
            return digest.hexdigest()
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageRefusedError("damaged", f"JPEG data cannot be decoded: {error}") from error


def _upright(stored: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Undo EXIF's orientation (CIPA DC-008, tag 274)."""
    if orientation >= 5:
        stored = cv2.transpose(stored)
    flip_code = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)
    return stored if flip_code is None else cv2.flip(stored, flip_code)


def _laid_along(image: NDArray[np.uint8], size: ImageSize) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    if (width - height) * (size.width - size.height) >= 0:
        return image
    turned: NDArray[np.uint8] = cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE)
    return turned


def _cover(image: NDArray[np.uint8], size: ImageSize, averaged_below: float) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    scale = max(size.height / height, size.width / width)
    covering = (max(size.width, round(width * scale)), max(size.height, round(height * scale)))
    method = cv2.INTER_AREA if scale < averaged_below else cv2.INTER_LINEAR
    scaled: NDArray[np.uint8] = cv2.resize(image, covering, interpolation=method)
    return scaled


def _centre_crop(image: NDArray[np.uint8], size: ImageSize) -> NDArray[np.uint8]:
    top = (image.shape[0] - size.height) // 2
    left = (image.shape[1] - size.width) // 2
    return np.ascontiguousarray(image[top : top + size.height, left : left + size.width])
