"""What JPEG and PNG bytes say of themselves, read before any pixel is decoded.

Only what decides pixels is handed on to the decoder: EXIF, ICC profiles, comments, text and
whatever follows the end of the image are left behind here.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from dermascan.errors import PermanentError

RefusalReason = Literal[
    "empty",
    "not_an_image",
    "unsupported_format",
    "wrong_mode",
    "truncated",
    "damaged",
    "too_large",
    "too_small",
    "extreme_aspect",
]
ImageFormat = Literal["JPEG", "PNG"]

JPEG_START = b"\xff\xd8\xff"
PNG_START = b"\x89PNG\r\n\x1a\n"
JPEG_END = b"\xff\xd9"

# Bounds on the work that hostile bytes can ask for before a limit on pixels helps.
MAX_PARTS = 65_536
MAX_SCANS = 32  # progressive encoders write about ten


class ImageRefusedError(PermanentError):
    """The bytes are no image that DermaScan accepts.

    Attributes:
        reason: short stable code, one of `RefusalReason`.
        detail: what was found, in words.
    """

    def __init__(self, reason: RefusalReason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason: RefusalReason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"image refused ({self.reason}): {self.detail}"


@dataclass(frozen=True)
class EncodedImage:
    """An image that is complete as far as its container tells, not yet decoded.

    Attributes:
        format: the container.
        width: pixels in a stored row, before `orientation`.
        height: stored rows, before `orientation`.
        orientation: how to turn the stored pixels, 1 to 8 as in EXIF; 1 is as they are.
        has_alpha: there is an alpha channel, opaque or not.
        scans: how many passes the pixels come in; 1 for PNG.
        pixels: a file of the same format with only the parts that decide the pixels.
    """

    format: ImageFormat
    width: int
    height: int
    orientation: int
    has_alpha: bool
    scans: int
    pixels: bytes = field(repr=False)


def read_container(data: bytes) -> EncodedImage:
    """Check the structure of an encoded image without decoding it.

    Args:
        data: a whole file.

    Raises:
        ImageRefusedError: it is no JPEG or PNG, of a kind that is not accepted, cut off or broken.
    """
    if not data:
        raise ImageRefusedError("empty", "there are no bytes")
    if image_format(data) == "JPEG":
        return _read_jpeg(data)
    return _read_png(data)


def image_format(data: bytes) -> ImageFormat:
    """Tell the format from the first bytes, whatever the file is called.

    Raises:
        ImageRefusedError: it is neither JPEG nor PNG; the detail says what it looks like.
    """
    if data.startswith(JPEG_START):
        return "JPEG"
    if data.startswith(PNG_START):
        return "PNG"
    if JPEG_START.startswith(data) or PNG_START.startswith(data):
        raise ImageRefusedError("truncated", f"only {len(data)} bytes")
    other = _other_format(data)
    if other:
        raise ImageRefusedError("unsupported_format", f"{other}: only JPEG and PNG are accepted")
    raise ImageRefusedError("not_an_image", _description(data))


# Other formats, to name them in a refusal

_OTHER_FORMATS = (
    (0, b"GIF8", "GIF"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (8, b"WEBP", "WebP"),
    (0, b"BM", "BMP"),
    (4, b"jP  ", "JPEG 2000"),
    (4, b"JXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (4, b"ftyp", "HEIF, AVIF or video"),
    (128, b"DICM", "DICOM"),
    (0, b"8BPS", "Photoshop"),
    (0, b"%PDF", "PDF"),
)


def _other_format(data: bytes) -> str | None:
    for offset, magic, name in _OTHER_FORMATS:
        if data.startswith(magic, offset):
            return name
    if _is_markup(data) and b"<svg" in data[:1024].lower():
        return "SVG"
    return None


def _is_markup(data: bytes) -> bool:
    return data[:64].removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<")


def _description(data: bytes) -> str:
    if _is_markup(data):
        return "the bytes are HTML or XML text"
    return f"unknown content beginning with {data[:8].hex(' ')}"


# JPEG (ITU-T T.81)

_SOI, _EOI, _SOS, _TEM, _COM = 0xD8, 0xD9, 0xDA, 0x01, 0xFE
_APP0, _APP1, _APP14 = 0xE0, 0xE1, 0xEE
_DHT, _JPG, _DAC = 0xC4, 0xC8, 0xCC
_HIERARCHICAL = frozenset((0xDE, 0xDF))  # DHP and EXP
_HUFFMAN_DCT_FRAMES = (0xC0, 0xC1, 0xC2)
_FRAMES = frozenset(range(0xC0, 0xD0)) - {_DHT, _JPG, _DAC}
# APP0 (JFIF) and APP14 (Adobe) tell the colour space.
_LEFT_BEHIND = frozenset(range(0xE0, 0xF0)) - {_APP0, _APP14} | {_COM}
# A marker, as distinct from a stuffed zero, a fill byte and a restart marker. One fixed
# length, so that a search takes linear time on any input.
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
# The same, for where a marker must stand.
_MARKERS = frozenset(bytes((0xFF, code)) for code in range(1, 0xFF) if not 0xD0 <= code <= 0xD7)


# What is longer is first searched a vector at a time for what is no stuffed zero.
_SHORT_SCAN = 16_384
_PAYLOAD_OFFSET = 4  # behind marker and length


def _read_jpeg(data: bytes) -> EncodedImage:
    width = height = scans = 0
    exif = None
    kept = [[0, 2]]  # start and end of what decides pixels, joined where nothing is between
    for marker, start, payload_end, end in _jpeg_segments(data):
        if marker in _LEFT_BEHIND:
            payload = start + _PAYLOAD_OFFSET
            if exif is None and marker == _APP1 and data.startswith(_EXIF, payload, payload_end):
                exif = data[payload + len(_EXIF) : payload_end]
            continue
        if marker == _SOS:
            scans += 1
        elif marker in _FRAMES:
            if height:
                raise ImageRefusedError("damaged", "JPEG with two frames")
            width, height = _jpeg_frame_size(marker, data[start + _PAYLOAD_OFFSET : payload_end])
        elif marker in _HIERARCHICAL:
            raise ImageRefusedError("unsupported_format", "hierarchical JPEG")
        if kept[-1][1] == start:
            kept[-1][1] = end
        else:
            kept.append([start, end])
    if not height or not 1 <= scans <= MAX_SCANS:
        raise ImageRefusedError("damaged", f"JPEG with {scans} scans of {width} x {height} pixels")
    orientation = _exif_orientation(exif or b"")
    return EncodedImage("JPEG", width, height, orientation, False, scans, _joined(data, kept))


def _joined(data: bytes, spans: list[list[int]]) -> bytes:
    if len(spans) == 1:
        return data[: spans[0][1]]  # no copy of a file with nothing to leave behind
    view = memoryview(data)
    return b"".join([view[start:end] for start, end in spans])


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield what a JPEG file consists of, its end marker included.

    Returns:
        The marker; where it stands; where its payload ends; where all of it ends, with what
        follows a start of scan. The payload begins behind marker and length.
    """
    position = 2
    for _ in range(MAX_PARTS):
        is_here = data[position : position + 2] in _MARKERS
        start = position if is_here else _next_marker(data, position)
        marker = data[start + 1]
        position = start + 2
        if marker == _EOI:
            yield marker, start, position, position
            return
        if marker == _SOI:
            raise ImageRefusedError("damaged", "JPEG that begins a second time before it ends")
        if marker == _TEM:
            continue
        length = int.from_bytes(data[position : position + 2], "big")
        end = position + length
        if end > len(data) or position + 2 > len(data):
            raise ImageRefusedError("truncated", "JPEG cut off inside its header")
        if length < 2:
            raise ImageRefusedError("damaged", f"JPEG segment of length {length}")
        position = _end_of_scan(data, end) if marker == _SOS else end
        yield marker, start, end, position
    raise ImageRefusedError("damaged", f"JPEG of more than {MAX_PARTS} segments")


def _next_marker(data: bytes, position: int) -> int:
    found = _NEXT_MARKER.search(data, position)
    if found is None:
        raise ImageRefusedError("truncated", "JPEG without its end marker")
    return found.start()


def _end_of_scan(data: bytes, position: int) -> int:
    """Return what `_next_marker` returns, faster where nothing but stuffed zeros comes before.

    Looks grow, so that short scans, of which only a hostile file has many, cost a few times their
    length.
    """
    look = _SHORT_SCAN
    while (left := len(data) - position) > _SHORT_SCAN:
        codes = np.frombuffer(data, np.uint8, min(look + 1, left), position)
        unstuffed = (codes[:-1] == 0xFF) & (codes[1:] != 0)
        first = int(unstuffed.argmax())
        if unstuffed[first]:
            return _next_marker(data, position + first)
        position += len(unstuffed)
        look *= 8
    return _next_marker(data, position)


def _jpeg_frame_size(marker: int, payload: bytes) -> tuple[int, int]:
    if marker not in _HUFFMAN_DCT_FRAMES:
        name = f"SOF{marker - 0xC0}"
        raise ImageRefusedError("unsupported_format", f"lossless or arithmetic JPEG ({name})")
    if len(payload) < 6:
        raise ImageRefusedError("damaged", "JPEG frame header too short")
    bits, height, width, components = struct.unpack_from(">BHHB", payload)
    if bits != 8:
        raise ImageRefusedError("wrong_mode", f"JPEG of {bits} bits a sample, 8 are accepted")
    if components not in (1, 3):
        found = "CMYK or YCCK" if components == 4 else f"{components} components"
        raise ImageRefusedError("wrong_mode", f"JPEG in {found}: convert it to RGB")
    if not width or not height:
        raise ImageRefusedError("damaged", f"JPEG of {width} x {height} pixels")
    return width, height


# PNG (W3C Portable Network Graphics, third edition)

_PNG_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_PNG_ALPHA_TYPES = (4, 6)
_PNG_PALETTE = 3
_DEFLATED_AT_ONCE, _INFLATED_AT_ONCE = 1 << 16, 1 << 20


def _read_png(data: bytes) -> EncodedImage:
    chunks = _png_chunks(data)
    previous, header = next(chunks)
    width, height, colour_type = _png_header(previous, header)
    kept = [PNG_START, _png_chunk(previous, header)]
    exif, data_ended = b"", False
    for kind, payload in chunks:
        _check_png_chunk(kind, payload, colour_type)
        data_ended |= previous == b"IDAT" != kind
        if data_ended and kind == b"IDAT":
            raise ImageRefusedError("damaged", "PNG whose data is not in one place")
        if kind == b"eXIf":
            exif = exif or payload
        if kind in _PNG_PIXEL_CHUNKS:
            kept.append(_png_chunk(kind, payload))
        previous = kind
    alpha = colour_type in _PNG_ALPHA_TYPES
    return EncodedImage("PNG", width, height, _exif_orientation(exif), alpha, 1, b"".join(kept))


def _png_header(kind: bytes, payload: bytes) -> tuple[int, int, int]:
    """Return width, height and colour type."""
    if kind != b"IHDR" or len(payload) != 13:
        raise ImageRefusedError("damaged", "PNG that does not begin with its header")
    width, height, bits, colour_type = struct.unpack_from(">IIBB", payload)
    if bits > 8:
        raise ImageRefusedError("wrong_mode", f"PNG of {bits} bits a channel, 8 are accepted")
    if not width or not height:
        raise ImageRefusedError("damaged", f"PNG of {width} x {height} pixels")
    return width, height, colour_type


def _check_png_chunk(kind: bytes, payload: bytes, colour_type: int) -> None:
    if kind == b"acTL":
        raise ImageRefusedError("unsupported_format", "animated PNG")
    if kind == b"tRNS" and (colour_type != _PNG_PALETTE or min(payload, default=255) < 255):
        raise ImageRefusedError("wrong_mode", "PNG with a transparent colour: flatten it")
    if kind[:1].isupper() and kind not in _PNG_PIXEL_CHUNKS:
        detail = f"PNG that cannot be read without its {kind.decode()} chunk"
        raise ImageRefusedError("unsupported_format", detail)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = len(PNG_START)
    for _ in range(MAX_PARTS):
        if position + 12 > len(data):
            raise ImageRefusedError("truncated", "PNG without its end chunk")
        length, kind = struct.unpack_from(">I4s", data, position)
        if not kind.isalpha():
            raise ImageRefusedError("damaged", f"PNG chunk of type {kind!r}")
        end = position + 8 + length
        if end + 4 > len(data):
            raise ImageRefusedError("truncated", f"PNG cut off inside its {kind.decode()} chunk")
        (checksum,) = struct.unpack_from(">I", data, end)
        if zlib.crc32(memoryview(data)[position + 4 : end]) != checksum:
            raise ImageRefusedError("damaged", f"PNG chunk {kind.decode()} fails its checksum")
        yield kind, data[position + 8 : end]
        if kind == b"IEND":
            return
        position = end + 4
    raise ImageRefusedError("damaged", f"PNG of more than {MAX_PARTS} chunks")


def _png_chunk(kind: bytes, payload: bytes) -> bytes:
    checksum = zlib.crc32(payload, zlib.crc32(kind))
    return b"".join((struct.pack(">I", len(payload)), kind, payload, struct.pack(">I", checksum)))


def png_inflates_beyond(png: bytes, most: int) -> bool:
    """Tell whether the pixel data of a PNG, decompressed, is longer than a number of bytes.

    Decoders go on to decompress what follows the last row, a thousand times as long as the file.

    Args:
        png: as `EncodedImage.pixels`.
        most: bytes; no more are decompressed, and few of them are in memory at once.
    """
    spare = most
    for inflated in _inflated_lengths(png):
        spare -= inflated
        if spare < 0:
            return True
    return False


def _inflated_lengths(png: bytes) -> Iterator[int]:
    inflater = zlib.decompressobj()
    for kind, payload in _png_chunks(png):
        for start in range(0, len(payload) if kind == b"IDAT" else 0, _DEFLATED_AT_ONCE):
            rest = payload[start : start + _DEFLATED_AT_ONCE]
            while rest and not inflater.eof:
                try:
                    yield len(inflater.decompress(rest, _INFLATED_AT_ONCE))
                except zlib.error:
                    return
                rest = inflater.unconsumed_tail


# EXIF (CIPA DC-008), of which only the orientation is read. The first one counts where a file
# has several. The type should be SHORT; writers of LONG exist.

_EXIF = b"Exif\0\0"
_ORIENTATION_TAG = 0x0112
_INTEGERS = {3: "H", 4: "I"}


def _exif_orientation(tiff: bytes) -> int:
    """Return EXIF's orientation, 1 to 8; 1 when there is none or EXIF is broken."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, directory)
        for index in range(entries):
            entry = directory + 2 + 12 * index
            tag, kind, count = struct.unpack_from(f"{order}HHI", tiff, entry)
            if tag == _ORIENTATION_TAG and kind in _INTEGERS and count == 1:
                (value,) = struct.unpack_from(order + _INTEGERS[kind], tiff, entry + 8)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1
