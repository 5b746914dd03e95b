"""Files that pretend: two formats in one, other formats, several frames, bombs."""

import gzip
import io
import struct
import zipfile
import zlib
from base64 import b64encode
from collections.abc import Iterator

import numpy as np
from PIL import Image

from hostile.samples import (
    HEIGHT,
    PNG_START,
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
    zeros,
)
from hostile.specimen import SCORED, Specimen, family

SCRIPT = b"<script>alert(document.domain)</script><?php system($_GET[0]); ?>"
PAGE = b"<!DOCTYPE html><html><body>" + SCRIPT + b"</body></html>"
LARGEST = 10_000  # pixels a side: exactly what is accepted


def deceptions() -> list[Specimen]:
    """Return all families of this module."""
    return [
        *_polyglots(),
        *_behind_the_end(),
        *_foreign(),
        *_frames(),
        *_bombs(),
        *_largest(),
    ]


def _jpeg() -> bytes:
    return encoded(photograph(seed=2), "JPEG", quality=88)


def _png() -> bytes:
    return encoded(photograph(seed=2), "PNG")


def _zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("../../evil.sh", "#!/bin/sh\nid\n")
    return file.getvalue()


def _polyglots() -> Iterator[Specimen]:
    jpeg, png = _jpeg(), _png()
    inside = {
        "jpeg_comment_html": with_segments(jpeg, segment(0xFE, PAGE)),
        "jpeg_comment_pdf": with_segments(jpeg, segment(0xFE, b"%PDF-1.7\n1 0 obj<<>>endobj")),
        "jpeg_comment_zip": with_segments(jpeg, segment(0xFE, _zip())),
        "jpeg_app13_php": with_segments(jpeg, segment(0xED, SCRIPT)),
        "jpeg_jfif_length_javascript": with_segments(jpeg, segment(0xE4, b"*/=alert(1);/*" * 99)),
        "png_text_html": with_chunks(png, png_chunk(b"tEXt", b"Title\0" + PAGE)),
        "png_private_chunk_zip": with_chunks(png, png_chunk(b"ziPp", _zip())),
        "png_itxt_svg": with_chunks(png, png_chunk(b"iTXt", b"a\0\0\0\0\0<svg onload=alert(1)>")),
    }
    yield from family("polyglot", inside, SCORED)
    other_first = {
        "gif_javascript": (b"GIF89a/*" + bytes(8) + b"*/=1;alert(1);" + jpeg, "unsupported_format"),
        "pdf_jpeg": (
            b"%PDF-1.7\n1 0 obj<</Filter/DCTDecode>>stream\n" + jpeg,
            "unsupported_format",
        ),
        "bmp_javascript": (b"BM/*" + jpeg, "unsupported_format"),
        "tiff_jpeg": (b"II*\0" + struct.pack("<I", 8) + jpeg, "unsupported_format"),
        "svg_script": (b"<svg xmlns='x'>" + SCRIPT + b"</svg>", "unsupported_format"),
        "zip_jpeg": (_zip() + jpeg, "not_an_image"),
        "html_jpeg": (PAGE + jpeg, "not_an_image"),
        "html_with_byte_order_mark": (b"\xef\xbb\xbf" + PAGE, "not_an_image"),
        "elf_jpeg": (b"\x7fELF\2\1\1" + jpeg, "not_an_image"),
        "exe_png": (b"MZ\x90\0" + png, "not_an_image"),
        "shell_jpeg": (b"#!/bin/sh\nid\n" + jpeg, "not_an_image"),
        "newline_jpeg": (b"\n" + jpeg, "not_an_image"),
        "gzip_jpeg": (gzip.compress(jpeg, mtime=0), "not_an_image"),
        "base64_jpeg": (b64encode(jpeg), "not_an_image"),
        "data_uri": (b"data:image/jpeg;base64," + b64encode(jpeg), "not_an_image"),
        "jpeg_with_line_ends_changed": (
            PNG_START.replace(b"\r\n", b"\n") + png[8:],
            "not_an_image",
        ),
        "png_as_utf8": (png.decode("latin-1").encode(), "not_an_image"),
        "jpeg_start_png_rest": (jpeg[:2] + png, "not_an_image"),
        "png_start_jpeg_rest": (PNG_START + jpeg, "damaged"),
        "python_pickle": (b"\x80\x04cos\nsystem\n(S'id'\ntR.", "not_an_image"),
    }
    for name, (data, outcome) in other_first.items():
        yield from family("polyglot", {name: data}, outcome)


def _behind_the_end() -> Iterator[Specimen]:
    tails = {
        "zip": _zip(),
        "html": PAGE,
        "zeros": bytes(5000),
        "start_marker": b"\xff\xd8\xff",
        "end_marker": b"\xff\xd9" * 50,
        "another_jpeg": encoded(photograph(seed=7), "JPEG"),
        "another_png": encoded(photograph(seed=7), "PNG"),
        "random": np.random.default_rng(3).bytes(3000),
    }
    for form, data in (("jpeg", _jpeg()), ("png", _png())):
        for name, tail in tails.items():
            yield from family("behind-the-end", {f"{form}_{name}": data + tail}, SCORED)


def _foreign() -> Iterator[Specimen]:
    image = photograph(seed=3)
    brands = {"heic": b"ftypheic", "avif": b"ftypavif", "mp4": b"ftypisom"}
    files = {name: struct.pack(">I", 24) + brand + bytes(12) for name, brand in brands.items()}
    files |= {
        "tiff_big_endian": b"MM\0*" + struct.pack(">I", 8) + bytes(100),
        "jpeg_2000": bytes.fromhex("0000000c6a5020200d0a870a") + bytes(50),
        "jpeg_xl": b"\xff\x0a" + bytes(50),
        "jpeg_xl_container": bytes.fromhex("0000000c4a584c200d0a870a") + bytes(50),
        "dicom_with_patient": bytes(128) + b"DICM" + b"\x10\0\x10\0PN\x08\0Doe^Jane",
        "photoshop": b"8BPS\0\1" + bytes(50),
        "webp_lossless": encoded(image, "WEBP", lossless=True),
        "gif_one_pixel": encoded(Image.new("P", (1, 1)), "GIF"),
        "tiff_of_cmyk": encoded(image.convert("CMYK"), "TIFF"),
    }
    yield from family("foreign", files, "unsupported_format")
    unknown = {
        "icon": encoded(image.resize((32, 32)), "ICO"),
        "portable_pixmap": encoded(image, "PPM"),
        "nul": b"\0",
        "spaces": b" " * 400,
        "newlines": b"\r\n" * 40,
        "text": b"image/jpeg\n",
        "utf_16_html": PAGE.decode().encode("utf-16"),
        "windows_link": bytes.fromhex("4c0000000114020000000000c000000000000046") + bytes(60),
        "symbolic_link_of_cygwin": b"!<symlink>\xff\xfe/\0e\0t\0c\0/\0p\0a\0s\0s\0w\0d\0",
        "path": b"/etc/passwd",
        "xml_entity": b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>',
        "git_lfs_pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
    }
    yield from family("foreign", unknown, "not_an_image")


def _frames() -> Iterator[Specimen]:
    frames = [photograph(seed=seed) for seed in (4, 5, 6)]
    rest = {"save_all": True, "append_images": frames[1:]}
    animated = {
        "gif": encoded(frames[0], "GIF", **rest, duration=50),
        "webp": encoded(frames[0], "WEBP", **rest, duration=50),
        "apng": encoded(frames[0], "PNG", **rest, duration=50),
        "apng_with_another_default": encoded(frames[0], "PNG", **rest, default_image=True),
        "tiff": encoded(frames[0], "TIFF", **rest),
    }
    yield from family("frames", animated, "unsupported_format")
    yield from family("frames", {"mpo": encoded(frames[0], "MPO", **rest)}, SCORED)


def _bombs() -> Iterator[Specimen]:
    jpeg, png = _jpeg(), _png()
    noise = "a decoder that reads the metadata refuses the bomb in it"
    bomb = zeros(200)
    in_metadata = {
        "iccp": png_chunk(b"iCCP", b"p\0\0" + bomb),
        "ztxt": png_chunk(b"zTXt", b"t\0\0" + bomb),
        "itxt": png_chunk(b"iTXt", b"t\0\1\0\0\0" + bomb),
        "ztxt_200_times": png_chunk(b"zTXt", b"t\0\0" + zeros(10)) * 200,
    }
    files = {name: with_chunks(png, chunk) for name, chunk in in_metadata.items()}
    yield from family("bomb-metadata", files, SCORED, twin=png, why=noise)
    many = struct.pack("<HHIHH", 1, 3, 1, 0, 0)
    directory = b"II*\0" + struct.pack("<IH", 8, 65_535) + many * 5_400
    loop = b"II*\0" + struct.pack("<IHI", 8, 0, 8)
    in_segments = {
        "exif_40_times": segment(0xE1, b"Exif\0\0" + directory) * 40,
        "exif_that_points_at_itself": segment(0xE1, b"Exif\0\0" + loop),
        "icc_255_parts": b"".join(
            segment(0xE2, b"ICC_PROFILE\0" + bytes((part, 255)) + bytes(20_000))
            for part in range(1, 256)
        ),
        "xmp_60_kilobytes": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + b"<a>" * 20_000),
        "20_000_comments": segment(0xFE, b"") * 20_000,
    }
    files = {name: with_segments(jpeg, data) for name, data in in_segments.items()}
    yield from family("bomb-metadata", files, SCORED, twin=jpeg, why=noise)
    tables = with_segments(jpeg, segment(0xDB, b"\0" + b"\1" * 64) * 20_000)
    yield from family("bomb-tables", {"20_000_quantisations": tables}, SCORED)
    rows = bytes((1 + WIDTH * 3) * HEIGHT)
    endless = {
        "10_gigabytes_behind_the_last_row": png_of_chunks(header(), (b"IDAT", zeros(10_000, rows))),
        "10_gigabytes_in_data_of_64_kilobytes": png_of_chunks(
            header(), *_in_pieces(zeros(10_000, rows), 65_536)
        ),
    }
    yield from family("bomb-data", endless, "damaged")
    sizes = {"jpeg_65_500": _jpeg_of(jpeg, 65_500), "jpeg_12_000": _jpeg_of(jpeg, 12_000)}
    yield from family("bomb-size", sizes, "too_large")
    yield from family("bomb-size", {"jpeg_9_990": _jpeg_of(jpeg, 9_990)}, "truncated")
    segments = with_segments(jpeg, segment(0xFE, b"") * 70_000)
    chunks = with_chunks(png, png_chunk(b"tEXt", b"") * 70_000)
    parts = {"70_000_segments": segments, "70_000_chunks": chunks}
    yield from family("bomb-parts", parts, "damaged")
    scans = encoded(Image.new("RGB", (6_000, 6_000), (90, 60, 50)), "JPEG", progressive=True)
    yield from family("bomb-size", {"36_megapixels_in_ten_scans": scans}, "too_large")


def _in_pieces(data: bytes, size: int) -> Iterator[tuple[bytes, bytes]]:
    for start in range(0, len(data), size):
        yield b"IDAT", data[start : start + size]


def _jpeg_of(jpeg: bytes, side: int) -> bytes:
    size = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:size] + struct.pack(">HH", side, side) + jpeg[size + 4 :]


def _largest() -> Iterator[Specimen]:
    """Return files of as many pixels as are accepted, in a few kilobytes."""
    packer = zlib.compressobj(1)
    rows = (b"\0" + b"\x80" * 3 * LARGEST) * 100
    stream = b"".join(packer.compress(rows) for _ in range(LARGEST // 100)) + packer.flush()
    flat = Image.new("RGB", (LARGEST, LARGEST), (128, 128, 128))
    files = {
        "png": png_of_chunks(header(LARGEST, LARGEST), (b"IDAT", stream)),
        "jpeg_turned_that_ends_in_gray": with_segments(
            encoded(flat, "JPEG", quality=50), segment(0xE1, b"Exif\0\0" + exif(6))
        ),
    }
    twin = encoded(Image.new("RGB", (100, 100), (128, 128, 128)), "PNG")
    why = "a small image of the same colour spares a gigabyte"
    yield from family("largest", files, SCORED, twin=twin, why=why)
