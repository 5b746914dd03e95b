"""Whole images of every kind that cameras and editors write, and of some that they do not."""

import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageCms

from hostile.samples import (
    HEIGHT,
    WIDTH,
    encoded,
    exif,
    header,
    photograph,
    png_chunk,
    png_of_chunks,
    segment,
    with_chunks,
    with_segments,
)
from hostile.specimen import SCORED, Specimen, family

ADOBE = b"Adobe\0\x64\0\0\0\0"
XMP = b"http://ns.adobe.com/xap/1.0/\0"
TURNED = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'


def looks() -> list[Specimen]:
    """Return all families of this module."""
    return [
        *_jpeg_colours(),
        *_png_colours(),
        *_orientations(),
        *_profiles(),
        *_shapes(),
    ]


def _jpeg_colours() -> Iterator[Specimen]:
    image = photograph(seed=8)
    jpeg, gray = encoded(image, "JPEG"), encoded(image.convert("L"), "JPEG")
    unmarked = jpeg[:2] + jpeg[jpeg.index(b"\xff\xdb") :]
    adobe = {f"adobe_transform_{n}": _with_adobe(unmarked, n) for n in (0, 1, 2, 3, 255)}
    files = {f"sampling_{n}": encoded(image, "JPEG", subsampling=n) for n in (0, 1, 2)}
    files |= {f"quality_{n}": encoded(image, "JPEG", quality=n) for n in (1, 100)}
    files |= adobe | {
        "rgb": encoded(image, "JPEG", keep_rgb=True),
        "gray": gray,
        "gray_progressive": encoded(image.convert("L"), "JPEG", progressive=True),
        "gray_with_adobe": _with_adobe(gray, 1),
        "no_jfif": unmarked,
        "two_jfif": with_segments(jpeg, jpeg[2:20]),
        "jfif_and_adobe_rgb": with_segments(jpeg, segment(0xEE, ADOBE + b"\0")),
        "progressive": encoded(image, "JPEG", progressive=True),
        "progressive_444": encoded(image, "JPEG", progressive=True, subsampling=0),
        "optimised": encoded(image, "JPEG", optimize=True),
        "restart_each_block": encoded(image, "JPEG", restart_marker_blocks=1),
        "fill_bytes": jpeg.replace(b"\xff\xdb", b"\xff" * 50 + b"\xdb"),
        "black": encoded(Image.new("RGB", (WIDTH, HEIGHT)), "JPEG"),
        "white": encoded(Image.new("RGB", (WIDTH, HEIGHT), (255, 255, 255)), "JPEG"),
        "middle_gray_progressive": encoded(
            Image.new("RGB", (WIDTH, HEIGHT), (128, 128, 128)), "JPEG", progressive=True
        ),
    }
    yield from family("jpeg-colour", files, SCORED)
    short = {"adobe_cut_short": with_segments(unmarked, segment(0xEE, b"Adobe\0"))}
    why = "Pillow refuses a JPEG for its Adobe segment"
    yield from family("jpeg-colour", short, SCORED, twin=unmarked, why=why)
    four = encoded(image.convert("CMYK"), "JPEG")
    inks = {f"cmyk_transform_{n}": _with_adobe_changed(four, n) for n in (0, 2)}
    inks |= {
        "cmyk": four,
        "cmyk_without_adobe": four[:2] + four[four.index(b"\xff\xdb") :],
        "cmyk_progressive": encoded(image.convert("CMYK"), "JPEG", progressive=True),
    }
    yield from family("jpeg-colour", inks, "wrong_mode")


def _with_adobe(jpeg: bytes, transform: int) -> bytes:
    return with_segments(jpeg, segment(0xEE, ADOBE + bytes((transform,))))


def _with_adobe_changed(jpeg: bytes, transform: int) -> bytes:
    at = jpeg.index(b"Adobe") + 11
    return jpeg[:at] + bytes((transform,)) + jpeg[at + 1 :]


def _packed(bits: int, channels: int = 1, seed: int = 9) -> bytes:
    stride = (WIDTH * bits * channels + 7) // 8
    rng = np.random.default_rng(seed)
    return zlib.compress(b"".join(b"\0" + rng.bytes(stride) for _ in range(HEIGHT)))


def _png_colours() -> Iterator[Specimen]:
    image = photograph(seed=9)
    colours = (b"PLTE", bytes(range(256)) * 3)
    scored = {
        f"gray_{bits}_bits": png_of_chunks(
            header(bits=bits, colour_type=0), (b"IDAT", _packed(bits))
        )
        for bits in (1, 2, 4, 8)
    }
    scored |= {
        f"palette_{bits}_bits": png_of_chunks(
            header(bits=bits, colour_type=3),
            (colours[0], colours[1][: 3 << bits]),
            (b"IDAT", _packed(bits)),
        )
        for bits in (1, 2, 4, 8)
    }
    opaque = (b"tRNS", b"\xff" * 16)
    palette = header(colour_type=3), colours
    scored |= {
        "palette_opaque": png_of_chunks(*palette, opaque, (b"IDAT", _packed(8))),
        "palette_trns_of_no_bytes": png_of_chunks(*palette, (b"tRNS", b""), (b"IDAT", _packed(8))),
        "gray_alpha_opaque": encoded(image.convert("LA"), "PNG"),
        "rgb_alpha_opaque": encoded(image.convert("RGBA"), "PNG"),
        "gray_with_palette": png_of_chunks(header(colour_type=0), colours, (b"IDAT", _packed(8))),
        "suggested_palette": png_of_chunks(header(), colours, (b"IDAT", _packed(8, 3))),
    }
    yield from family("png-colour", scored, SCORED)
    clear = image.convert("RGBA")
    clear.putalpha(0)
    one_clear = image.convert("LA")
    one_clear.putpixel((WIDTH - 1, HEIGHT - 1), (9, 254))
    data = (b"IDAT", _packed(8, 3))
    refused = {
        "all_clear": encoded(clear, "PNG"),
        "last_pixel_nearly_opaque": encoded(one_clear, "PNG"),
        "palette_clear": png_of_chunks(*palette, (b"tRNS", b"\xff\xfe"), (b"IDAT", _packed(8))),
        "rgb_key": png_of_chunks(header(), (b"tRNS", bytes(6)), data),
        "gray_key": png_of_chunks(
            header(colour_type=0), (b"tRNS", bytes(2)), (b"IDAT", _packed(8))
        ),
        "gray_alpha_16": png_of_chunks(header(bits=16, colour_type=4), (b"IDAT", _packed(16, 2))),
        "rgb_alpha_16": png_of_chunks(header(bits=16, colour_type=6), (b"IDAT", _packed(16, 4))),
        "float_as_16": png_of_chunks(header(bits=16, colour_type=2), (b"IDAT", _packed(16, 3))),
    }
    yield from family("png-colour", refused, "wrong_mode")


def _orientations() -> Iterator[Specimen]:
    image = photograph(seed=10)
    jpeg, png = encoded(image, "JPEG"), encoded(image, "PNG")

    def as_jpeg(*tiffs: bytes) -> bytes:
        return with_segments(jpeg, *(segment(0xE1, b"Exif\0\0" + tiff) for tiff in tiffs))

    def as_png(*tiffs: bytes) -> bytes:
        return with_chunks(png, *(png_chunk(b"eXIf", tiff) for tiff in tiffs))

    for form, wrap in (("jpeg", as_jpeg), ("png", as_png)):
        files = {f"{form}_{n}": wrap(exif(n)) for n in range(1, 9)}
        files |= {f"{form}_big_endian_{n}": wrap(exif(n, ">")) for n in (3, 6, 8)}
        files |= {f"{form}_type_{kind}": wrap(exif(6, kind=kind)) for kind in (1, 4)}
        files |= {f"{form}_senseless_{n}": wrap(exif(n)) for n in (0, 9, 65_535)}
        files |= {
            f"{form}_cut_short": wrap(exif(6)[:14]),
            f"{form}_points_outside": wrap(b"II*\0" + struct.pack("<I", 0xFFFFFFF0)),
        }
        yield from family("orientation", files, SCORED)
        unknown = {f"{form}_unknown_order": wrap(b"XX*\0" + exif(6)[4:])}
        why = "Pillow refuses a PNG for its EXIF"
        yield from family("orientation", unknown, SCORED, twin=wrap(), why=why)
    first = {"jpeg_two": as_jpeg(exif(6), exif(3)), "jpeg_two_other": as_jpeg(exif(1), exif(8))}
    yield from family("orientation", first, SCORED)
    two = {"png_two": as_png(exif(6), exif(3))}
    only = "of two eXIf chunks, of which PNG allows one, Pillow takes the last"
    yield from family("orientation", two, SCORED, twin=as_png(exif(6)), why=only)
    in_xmp = {
        "jpeg_xmp": with_segments(jpeg, segment(0xE1, XMP + TURNED)),
        "jpeg_xmp_against_exif": with_segments(
            jpeg, segment(0xE1, XMP + TURNED), segment(0xE1, b"Exif\0\0" + exif(1))
        ),
    }
    why = "Pillow turns by XMP, which no viewer does"
    yield from family("orientation", in_xmp, SCORED, twin=jpeg, why=why)


def _profiles() -> Iterator[Specimen]:
    image = photograph(seed=11)
    profiles = {
        name: _undated(ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes())
        for name in ("sRGB", "LAB", "XYZ")
    }
    for form in ("JPEG", "PNG"):
        plain = encoded(image, form)
        files = {
            f"{form}_{name}": encoded(image, form, icc_profile=profile)
            for name, profile in profiles.items()
        }
        files[f"{form}_broken"] = encoded(image, form, icc_profile=b"no profile at all" * 9)
        files[f"{form}_of_60_kilobytes"] = encoded(image, form, icc_profile=bytes(60_000))
        yield from family("profile", files, SCORED, twin=plain, why="profiles have no effect")
    png = encoded(image, "PNG")
    chunks = {
        "png_gamma": png_chunk(b"gAMA", struct.pack(">I", 100_000)),
        "png_no_gamma": png_chunk(b"gAMA", bytes(4)),
        "png_chromaticities": png_chunk(b"cHRM", struct.pack(">8I", *range(8))),
        "png_srgb": png_chunk(b"sRGB", b"\0"),
        "png_background": png_chunk(b"bKGD", bytes(6)),
        "png_significant_bits": png_chunk(b"sBIT", b"\5\6\5"),
        "png_physical_size": png_chunk(b"pHYs", struct.pack(">IIB", 1, 2**31 - 1, 0)),
    }
    files = {name: with_chunks(png, chunk) for name, chunk in chunks.items()}
    yield from family("profile", files, SCORED, twin=png, why="profiles have no effect")


def _undated(profile: bytes) -> bytes:
    return profile[:24] + bytes(12) + profile[36:]


def _shapes() -> Iterator[Specimen]:
    def both(width: int, height: int) -> dict[str, bytes]:
        image = photograph(width, height, seed=width)
        return {f"{form}_{width}_{height}": encoded(image, form) for form in ("JPEG", "PNG")}

    for size in ((32, 32), (32, 256), (256, 32), (33, 47), (641, 479)):
        yield from family("shape", both(*size), SCORED)
    for size in ((1, 1), (1, 500), (500, 1), (31, 31), (31, 200), (5_000, 2)):
        yield from family("shape", both(*size), "too_small")
    for size in ((32, 257), (257, 32), (1_000, 40)):
        yield from family("shape", both(*size), "extreme_aspect")
