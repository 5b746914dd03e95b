"""Small images that are the same on every call, and the pieces that files are built of."""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

PNG_START = b"\x89PNG\r\n\x1a\n"
WIDTH, HEIGHT = 120, 90
SOI, EOI = b"\xff\xd8", b"\xff\xd9"


def photograph(width: int = WIDTH, height: int = HEIGHT, seed: int = 0) -> Image.Image:
    """Return a smooth coloured RGB image that is different in every corner."""
    coarse = np.random.default_rng(seed).integers(20, 236, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    """Return an image as a file of the named format."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def png_chunk(kind: bytes, payload: bytes) -> bytes:
    """Return one PNG chunk with its length and checksum."""
    checksum = struct.pack(">I", zlib.crc32(kind + payload))
    return struct.pack(">I", len(payload)) + kind + payload + checksum


def png(width: int, height: int, bits: int, colour_type: int, rows: bytes) -> bytes:
    """Return a PNG of the given filtered rows."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    return png_of_chunks((b"IHDR", header), (b"IDAT", zlib.compress(rows)))


def png_of_chunks(*chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG of the given chunks, and its end chunk."""
    return PNG_START + b"".join(png_chunk(*chunk) for chunk in (*chunks, (b"IEND", b"")))


def header(  # the fields of the chunk, in its order
    width: int = WIDTH,
    height: int = HEIGHT,
    bits: int = 8,
    colour_type: int = 2,
    interlace: int = 0,
) -> tuple[bytes, bytes]:
    """Return the kind and payload of a PNG header chunk."""
    return b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, interlace)


def segment(marker: int, payload: bytes) -> bytes:
    """Return one JPEG segment with its length."""
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


def with_segments(jpeg: bytes, *segments: bytes) -> bytes:
    """Return a JPEG with segments put behind its start marker."""
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def with_chunks(whole_png: bytes, *chunks: bytes) -> bytes:
    """Return a PNG with encoded chunks put behind its header chunk."""
    return whole_png[:33] + b"".join(chunks) + whole_png[33:]


def exif(orientation: int, order: str = "<", kind: int = 3, count: int = 1) -> bytes:
    """Return a TIFF structure whose only entry is an orientation."""
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    form = {1: "B3x", 3: "H2x", 4: "I"}[kind]
    entry = struct.pack(f"{order}HHI{form}", 0x0112, kind, count, orientation)
    return mark + struct.pack(f"{order}IH", 8, 1) + entry + bytes(4)


def zeros(megabytes: int, start: bytes = b"") -> bytes:
    """Return a zlib stream of `start` and then zeros, a thousandth of them long, made quickly."""
    packer = zlib.compressobj(9)
    head = packer.compress(start) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + block * megabytes


@dataclass(frozen=True)
class Part:
    """A stretch of bytes of a file: a piece of one segment or chunk."""

    name: str
    start: int
    end: int


def jpeg_parts(jpeg: bytes) -> Iterator[Part]:
    """Yield marker, length, payload and scan data of each segment of a well-formed JPEG."""
    yield Part("SOI", 0, 2)
    position = 2
    seen: dict[int, int] = {}
    while (marker := jpeg[position + 1]) != EOI[1]:
        seen[marker] = seen.get(marker, 0) + 1
        name = f"{marker:02x}_{seen[marker]}"
        length = struct.unpack_from(">H", jpeg, position + 2)[0]
        end = position + 2 + length
        yield Part(f"{name}_marker", position, position + 2)
        yield Part(f"{name}_length", position + 2, position + 4)
        yield Part(f"{name}_payload", position + 4, end)
        position = end
        if marker == 0xDA:
            following = _end_of_scan(jpeg, end)
            yield Part(f"{name}_scan", end, following)
            position = following
    yield Part("EOI", position, position + 2)


def _end_of_scan(jpeg: bytes, position: int) -> int:
    while jpeg[position] != 0xFF or jpeg[position + 1] in {0, *range(0xD0, 0xD8)}:
        position += 1
    return position


def png_parts(whole_png: bytes) -> Iterator[Part]:
    """Yield signature, length, type, payload and checksum of each chunk of a well-formed PNG."""
    yield Part("signature", 0, 8)
    position, number = 8, 0
    while position < len(whole_png):
        length, kind = struct.unpack_from(">I4s", whole_png, position)
        name, number = f"{number:02d}_{kind.decode()}", number + 1
        yield Part(f"{name}_length", position, position + 4)
        yield Part(f"{name}_type", position + 4, position + 8)
        if length:
            yield Part(f"{name}_payload", position + 8, position + 8 + length)
        yield Part(f"{name}_checksum", position + 8 + length, position + 12 + length)
        position += 12 + length
