"""Bytes that are not acceptable images, each with the reason for which it must be refused.

Generated, small, and the same on every call.
"""

import functools
import struct
import zlib

import numpy as np
from PIL import Image

from hostile.samples import HEIGHT, WIDTH, encoded, photograph, png, png_of_chunks

EXPECTED: dict[str, str] = {
    "empty": "empty",
    "html_named_jpg": "not_an_image",
    "json_error": "not_an_image",
    "random_bytes": "not_an_image",
    "animated_gif": "unsupported_format",
    "static_gif": "unsupported_format",
    "animated_png": "unsupported_format",
    "webp": "unsupported_format",
    "tiff": "unsupported_format",
    "bmp": "unsupported_format",
    "svg": "unsupported_format",
    "lossless_jpeg": "unsupported_format",
    "truncated_jpeg": "truncated",
    "truncated_jpeg_with_end_marker": "truncated",
    "truncated_progressive_jpeg_with_end_marker": "truncated",
    "truncated_png": "truncated",
    "only_jpeg_start": "truncated",
    "only_jpeg_header": "truncated",
    "cmyk_jpeg": "wrong_mode",
    "twelve_bit_jpeg": "wrong_mode",
    "png_16_bit": "wrong_mode",
    "png_16_bit_gray": "wrong_mode",
    "translucent_png": "wrong_mode",
    "translucent_palette_png": "wrong_mode",
    "png_with_wrong_checksum": "damaged",
    "png_with_too_few_rows": "damaged",
    "jpeg_without_pixels": "damaged",
    "jpeg_of_a_thousand_scans": "damaged",
    "huge_png_one_colour": "too_large",
    "jpeg_that_claims_to_be_huge": "too_large",
    "tiny_png": "too_small",
    "ribbon_png": "extreme_aspect",
}


@functools.cache
def _hostile_images() -> dict[str, bytes]:
    image = photograph()
    jpeg = encoded(image, "JPEG", quality=90)
    progressive = encoded(image, "JPEG", quality=90, progressive=True)
    whole_png = encoded(image, "PNG")
    frames = [photograph(seed=seed) for seed in range(3)]
    animation = {"save_all": True, "append_images": frames[1:], "duration": 100}
    return {
        "empty": b"",
        "html_named_jpg": b"<!DOCTYPE html>\n<html><body>503 Service Unavailable</body></html>",
        "json_error": b'{"detail": "Not found"}',
        "random_bytes": np.random.default_rng(1).bytes(5000),
        "animated_gif": encoded(frames[0], "GIF", **animation),
        "static_gif": encoded(image, "GIF"),
        "animated_png": encoded(frames[0], "PNG", **animation),
        "webp": encoded(image, "WEBP"),
        "tiff": encoded(image, "TIFF"),
        "bmp": encoded(image, "BMP"),
        "svg": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><rect/></svg>',
        "lossless_jpeg": jpeg.replace(b"\xff\xc0", b"\xff\xc3", 1),
        "truncated_jpeg": jpeg[: len(jpeg) * 2 // 3],
        "truncated_jpeg_with_end_marker": jpeg[: len(jpeg) * 2 // 3] + b"\xff\xd9",
        "truncated_progressive_jpeg_with_end_marker": progressive[:-100] + b"\xff\xd9",
        "truncated_png": whole_png[: len(whole_png) * 2 // 3],
        "only_jpeg_start": b"\xff\xd8\xff",
        "only_jpeg_header": jpeg[: jpeg.index(b"\xff\xda")],
        "cmyk_jpeg": encoded(image.convert("CMYK"), "JPEG"),
        "twelve_bit_jpeg": jpeg.replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c", 1),
        "png_16_bit": png(WIDTH, HEIGHT, 16, 2, bytes((1 + WIDTH * 6) * HEIGHT)),
        "png_16_bit_gray": encoded(Image.new("I;16", (WIDTH, HEIGHT), 40_000), "PNG"),
        "translucent_png": encoded(_translucent(image), "PNG"),
        "translucent_palette_png": encoded(image.quantize(16), "PNG", transparency=3),
        "png_with_wrong_checksum": _with_last_data_byte_flipped(whole_png),
        "png_with_too_few_rows": png(WIDTH, HEIGHT, 8, 2, bytes((1 + WIDTH * 3) * 40)),
        "jpeg_without_pixels": jpeg[: jpeg.index(b"\xff\xda")] + b"\xff\xd9",
        "jpeg_of_a_thousand_scans": _with_scans_repeated(progressive, 1000),
        "huge_png_one_colour": _huge_png(30_000),
        "jpeg_that_claims_to_be_huge": _with_jpeg_size(jpeg, 65_500, 65_500),
        "tiny_png": encoded(photograph(8, 8), "PNG"),
        "ribbon_png": encoded(photograph(2000, 40), "PNG"),
    }


def hostile_images() -> dict[str, bytes]:
    """Return the files by name; `EXPECTED` says why each is refused."""
    return dict(_hostile_images())


def _translucent(image: Image.Image) -> Image.Image:
    result = image.convert("RGBA")
    result.putpixel((5, 5), (200, 100, 100, 254))
    return result


def _with_last_data_byte_flipped(whole_png: bytes) -> bytes:
    position = whole_png.index(b"IEND") - 9
    flipped = bytes([whole_png[position] ^ 0xFF])
    return whole_png[:position] + flipped + whole_png[position + 1 :]


def _with_scans_repeated(progressive: bytes, times: int) -> bytes:
    last = progressive.rindex(b"\xff\xda")
    return progressive[:last] + progressive[last:-2] * times + b"\xff\xd9"


def _with_jpeg_size(jpeg: bytes, width: int, height: int) -> bytes:
    size = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:size] + struct.pack(">HH", height, width) + jpeg[size + 4 :]


def _huge_png(side: int) -> bytes:
    """Compress one-colour rows of one bit a pixel; after the first, each is as the one above."""
    bits, stride = 1, (side + 7) // 8
    packer = zlib.compressobj(9)
    parts = [packer.compress(b"\0" + b"\xff" * stride)]
    parts.extend(packer.compress(b"\x02" + bytes(stride)) for _ in range(side - 1))
    parts.append(packer.flush())
    header = struct.pack(">IIBBBBB", side, side, bits, 0, 0, 0, 0)
    return png_of_chunks((b"IHDR", header), (b"IDAT", b"".join(parts)))
