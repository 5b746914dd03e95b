"""Images broken on purpose: bits flipped, lengths and fields changed, ends cut off."""

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from PIL import Image

from hostile.samples import (
    EOI,
    HEIGHT,
    PNG_START,
    WIDTH,
    Part,
    encoded,
    exif,
    header,
    jpeg_parts,
    photograph,
    png_chunk,
    png_of_chunks,
    png_parts,
    segment,
    with_chunks,
    with_segments,
)
from hostile.specimen import SCORED, Specimen, family

BROKEN_JPEG = (SCORED, "damaged", "truncated")
# What a changed marker or frame header may turn a segment into.
OTHER_JPEG = (*BROKEN_JPEG, "unsupported_format", "wrong_mode")
OTHER_SIZE = ("too_large", "too_small", "extreme_aspect")
ROWS = bytes((1 + WIDTH * 3) * HEIGHT)


def damage() -> list[Specimen]:
    """Return all families of this module."""
    return [
        *_jpeg_flips(),
        *_png_flips(),
        *_png_flips_under_right_checksums(),
        *_jpeg_lengths(),
        *_png_lengths(),
        *_jpeg_frames(),
        *_png_headers(),
        *_png_order(),
        *_cut(),
    ]


def _jpeg() -> bytes:
    plain = encoded(photograph(), "JPEG", quality=85, restart_marker_rows=2, comment=b"a comment")
    return with_segments(
        plain,
        segment(0xE1, b"Exif\0\0" + exif(1)),
        segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(range(200))),
    )


def _png(colours: int = 0) -> bytes:
    image = photograph().quantize(colours) if colours else photograph()
    return with_chunks(
        encoded(image, "PNG"),
        png_chunk(b"gAMA", struct.pack(">I", 45_455)),
        png_chunk(b"tEXt", b"Comment\0a comment"),
        png_chunk(b"eXIf", exif(1)),
    )


def _flipped(data: bytes, position: int, mask: int) -> bytes:
    changed = bytearray(data)
    changed[position] ^= mask
    return bytes(changed)


def _flips(data: bytes, parts: Iterable[Part], seed: int) -> Iterator[tuple[str, str, bytes]]:
    """Yield part, name and file for one flipped bit at begin, middle and end of each part."""
    rng = np.random.default_rng(seed)
    for part in parts:
        inside = {part.start, (part.start + part.end) // 2, part.end - 1}
        for position in sorted(inside):
            bit = int(rng.integers(8))
            name = f"{part.name}_{position - part.start}_bit{bit}"
            yield part.name, name, _flipped(data, position, 1 << bit)


def _jpeg_flips() -> Iterator[Specimen]:
    jpeg = _jpeg()
    for part, name, data in _flips(jpeg, jpeg_parts(jpeg), seed=11):
        outcomes = _jpeg_flip_outcomes(part)
        if not data.startswith(b"\xff\xd8\xff"):
            outcomes = ("not_an_image",)
        yield from family("jpeg-bit", {name: data}, *outcomes)
    scan = next(part for part in jpeg_parts(jpeg) if part.name == "da_1_scan")
    rng = np.random.default_rng(12)
    for position in sorted(rng.choice(np.arange(scan.start, scan.end), 24, replace=False)):
        data = _flipped(jpeg, int(position), 1 << int(rng.integers(8)))
        yield from family("jpeg-scan-bit", {f"{position:05d}": data}, *BROKEN_JPEG)


def _jpeg_flip_outcomes(part: str) -> tuple[str, ...]:
    if part in {"SOI", "EOI"}:
        return ("truncated", "damaged")
    marker, _, piece = part.split("_")
    if piece == "payload" and marker in {"e0", "e1", "e2", "fe"}:
        return (SCORED,)
    if piece == "payload" and marker == "c0":
        return (*OTHER_JPEG, *OTHER_SIZE)
    if piece in {"payload", "scan"}:
        return BROKEN_JPEG
    return OTHER_JPEG


def _png_flips() -> Iterator[Specimen]:
    for kind, colours, seed in (("rgb", 0, 13), ("palette", 16, 14)):
        png = _png(colours)
        for part, name, data in _flips(png, png_parts(png), seed):
            outcomes = ("not_an_image",) if part == "signature" else ("damaged", "truncated")
            if part.endswith(("payload", "checksum")):
                outcomes = ("damaged",)
            yield from family(f"png-bit-{kind}", {name: data}, *outcomes)


def _png_flips_under_right_checksums() -> Iterator[Specimen]:
    """Flip payloads and mend the checksum, so that only the decoder can notice."""
    plain, palette = _png(), _png(16)
    free = {"gAMA", "tEXt", "eXIf", "PLTE"}
    for kind, png in (("rgb", plain), ("palette", palette)):
        payloads = [part for part in png_parts(png) if part.name.endswith("payload")]
        wanted = [part for part in payloads if "IHDR" not in part.name]
        for part, name, data in _flips(png, wanted, seed=15):
            outcomes = (SCORED,) if part.split("_")[1] in free else (SCORED, "damaged")
            mended = {f"{kind}_{name}": _with_right_checksums(data)}
            twin = png if "eXIf_payload_0" in name else None
            why = "Pillow refuses a PNG for its EXIF" if twin else ""
            yield from family("png-bit-under-right-checksum", mended, *outcomes, twin=twin, why=why)


def _with_right_checksums(png: bytes) -> bytes:
    result, position = [PNG_START], 8
    while position < len(png):
        length, kind = struct.unpack_from(">I4s", png, position)
        result.append(png_chunk(kind, png[position + 8 : position + 8 + length]))
        position += 12 + length
    return b"".join(result)


def _jpeg_lengths() -> Iterator[Specimen]:
    jpeg = _jpeg()
    for part in jpeg_parts(jpeg):
        if not part.name.endswith("length"):
            continue
        (length,) = struct.unpack_from(">H", jpeg, part.start)
        for wrong in (0, 1, 2, length - 1, length + 1, length * 2, 0xFFFF):
            data = jpeg[: part.start] + struct.pack(">H", wrong) + jpeg[part.end :]
            outcomes = ("damaged",) if wrong < 2 else OTHER_JPEG
            if part.start + wrong > len(jpeg):
                outcomes = ("truncated",)
            yield from family("jpeg-length", {f"{part.name}_{wrong}": data}, *outcomes)


def _png_lengths() -> Iterator[Specimen]:
    png = _png()
    for part in png_parts(png):
        if not part.name.endswith("length"):
            continue
        (length,) = struct.unpack_from(">I", png, part.start)
        for wrong in {max(0, length - 1), length + 1, 0x7FFFFFFF, 0xFFFFFFFF} - {length}:
            data = png[: part.start] + struct.pack(">I", wrong) + png[part.end :]
            outcomes = ("truncated",) if part.start + wrong > len(png) else ("damaged", "truncated")
            yield from family("png-length", {f"{part.name}_{wrong:x}": data}, *outcomes)


def _jpeg_frames() -> Iterator[Specimen]:
    jpeg = encoded(photograph(), "JPEG", quality=85)
    frame = jpeg.index(b"\xff\xc0") + 4

    def changed(offset: int, form: str, value: int) -> bytes:
        data = bytearray(jpeg)
        struct.pack_into(form, data, frame + offset, value)
        return bytes(data)

    fields: dict[str, tuple[int, str, int, str]] = {
        "4_bits": (0, "B", 4, "wrong_mode"),
        "16_bits": (0, "B", 16, "wrong_mode"),
        "no_height": (1, ">H", 0, "damaged"),
        "no_width": (3, ">H", 0, "damaged"),
        "one_row": (1, ">H", 1, "too_small"),
        "one_column": (3, ">H", 1, "too_small"),
        "twice_the_rows": (1, ">H", 2 * HEIGHT, "truncated"),
        "ten_times_the_columns": (3, ">H", 10 * WIDTH, "extreme_aspect"),
        "all_rows_there_are": (1, ">H", 65_500, "extreme_aspect"),
        "half_the_rows": (1, ">H", HEIGHT // 2, SCORED),
        "no_components": (5, "B", 0, "wrong_mode"),
        "two_components": (5, "B", 2, "wrong_mode"),
        "four_components": (5, "B", 4, "wrong_mode"),
        "255_components": (5, "B", 255, "wrong_mode"),
        "sampling_of_0": (7, "B", 0, "damaged"),
        "sampling_of_15": (7, "B", 0xFF, "damaged"),
        "missing_table": (8, "B", 3, "damaged"),
    }
    for name, (offset, form, value, outcome) in fields.items():
        yield from family("jpeg-frame", {name: changed(offset, form, value)}, outcome)
    kinds = {f"sof{number}": 0xC0 + number for number in (3, 5, 6, 7, 9, 10, 11, 13, 14, 15)}
    for name, marker in kinds.items():
        data = jpeg.replace(b"\xff\xc0", bytes((0xFF, marker)), 1)
        yield from family("jpeg-frame", {name: data}, "unsupported_format")
    hierarchical = with_segments(jpeg, segment(0xDE, jpeg[frame : frame + 15]))
    yield from family("jpeg-frame", {"hierarchical": hierarchical}, "unsupported_format")
    frame_segment = jpeg[frame - 4 : frame + 15]
    yield from family("jpeg-frame", {"two_frames": with_segments(jpeg, frame_segment)}, "damaged")
    without = jpeg.replace(frame_segment, b"", 1)
    yield from family("jpeg-frame", {"none": without}, "damaged")
    tables = jpeg[: jpeg.index(b"\xff\xdb")] + jpeg[frame - 4 :]
    yield from family("jpeg-frame", {"no_quantisation": tables}, "damaged")
    begun_again = jpeg[:-2] + jpeg
    yield from family("jpeg-frame", {"begins_twice": begun_again}, "damaged")


def _png_headers() -> Iterator[Specimen]:
    data = (b"IDAT", zlib.compress(ROWS))
    headers = {
        "no_width": (header(width=0), "damaged"),
        "no_height": (header(height=0), "damaged"),
        "one_column": (header(width=1), "too_small"),
        "one_row": (header(height=1), "too_small"),
        "31_rows": (header(height=31), "too_small"),
        "wide": (header(width=8 * HEIGHT + 1), "extreme_aspect"),
        "tall": (header(height=8 * WIDTH + 1), "extreme_aspect"),
        "huge": (header(2**31 - 1, 2**31 - 1), "too_large"),
        "negative": (header(2**32 - 1, 2**32 - 1), "too_large"),
        "just_too_large": (header(10_001, 10_000), "too_large"),
        "twice_the_rows": (header(height=2 * HEIGHT), "damaged"),
        "3_bits": (header(bits=3), "damaged"),
        "no_bits": (header(bits=0), "damaged"),
        "16_bits": (header(bits=16), "wrong_mode"),
        "255_bits": (header(bits=255), "wrong_mode"),
        "colour_type_5": (header(colour_type=5), "damaged"),
        "colour_type_255": (header(colour_type=255), "damaged"),
        "palette_without_one": (header(colour_type=3), "damaged"),
        "interlace_2": (header(interlace=2), "damaged"),
        "half_the_rows": (header(height=HEIGHT // 2), SCORED),
        "12_bytes": ((b"IHDR", header()[1][:12]), "damaged"),
        "14_bytes": ((b"IHDR", header()[1] + b"\0"), "damaged"),
        "no_bytes": ((b"IHDR", b""), "damaged"),
    }
    for name, (chunk, outcome) in headers.items():
        yield from family("png-header", {name: png_of_chunks(chunk, data)}, outcome)


def _png_order() -> Iterator[Specimen]:
    stream, first = zlib.compress(ROWS), header()
    data, halves = (b"IDAT", stream), ((b"IDAT", stream[:40]), (b"IDAT", stream[40:]))
    colours = (b"PLTE", bytes(range(48)))
    indices = (b"IDAT", zlib.compress((b"\0" + bytes(WIDTH)) * HEIGHT))
    beyond = (b"IDAT", zlib.compress((b"\0" + b"\xc8" * WIDTH) * HEIGHT))
    palette = header(colour_type=3)
    refused: dict[str, tuple[tuple[bytes, bytes], ...]] = {
        "no_header": (data,),
        "data_first": (data, first),
        "two_headers": (first, first, data),
        "second_header_huge": (first, header(20_000, 20_000), data),
        "header_behind_data": (first, data, header(20_000, 20_000), data),
        "no_data": (first,),
        "no_colours": (palette, indices),
        "colours_behind_data": (palette, indices, colours),
        "two_palettes": (palette, colours, colours, indices),
        "palette_of_10_bytes": (palette, (b"PLTE", bytes(10)), indices),
        "palette_of_0_bytes": (palette, (b"PLTE", b""), indices),
        "filter_9": (first, (b"IDAT", zlib.compress(b"\x09" + ROWS[1:]))),
        "data_is_no_zlib": (first, (b"IDAT", ROWS[:500])),
        "data_is_gzip": (first, (b"IDAT", zlib.compress(ROWS, wbits=31))),
        "text_in_between": (first, halves[0], (b"tEXt", b"a\0b"), halves[1]),
        "data_stops": (first, (b"IDAT", stream[:-20])),
    }
    for name, chunks in refused.items():
        yield from family("png-order", {name: png_of_chunks(*chunks)}, "damaged")
    scored: dict[str, tuple[tuple[bytes, bytes], ...]] = {
        "index_beyond_palette": (palette, colours, beyond),
        "a_thousand_empty_data": (first, *[(b"IDAT", b"")] * 1000, data),
        "one_byte_data": (first, *[(b"IDAT", stream[i : i + 1]) for i in range(len(stream))]),
        "more_rows": (first, (b"IDAT", zlib.compress(ROWS + ROWS[:3000]))),
        "end_with_payload": (first, data, (b"IEND", b"abc")),
    }
    for name, chunks in scored.items():
        yield from family("png-order", {name: png_of_chunks(*chunks)}, SCORED)
    for kind in (b"CgBI", b"JDAT", b"ABCD"):
        files = {f"critical_{kind.decode()}": png_of_chunks(first, (kind, b"x"), data)}
        yield from family("png-order", files, "unsupported_format")


def _cut() -> Iterator[Specimen]:
    image = photograph()
    whole: dict[str, Callable[[], bytes]] = {
        "baseline": lambda: encoded(image, "JPEG", quality=85),
        "progressive": lambda: encoded(image, "JPEG", quality=85, progressive=True),
        "gray": lambda: encoded(image.convert("L"), "JPEG"),
        "restarts": lambda: encoded(image, "JPEG", restart_marker_rows=1),
        "png": lambda: encoded(image, "PNG"),
        "palette": lambda: encoded(image.quantize(16), "PNG"),
    }
    for name, make in whole.items():
        data = make()
        for part in (1, 3, 10, len(data) // 4, len(data) // 2, len(data) * 9 // 10, len(data) - 1):
            yield from family("cut", {f"{name}_{part}": data[:part]}, "truncated")
        if data.endswith(EOI):
            start, end = data.rindex(b"\xff\xda") + 14, len(data) - 2
            for share in (0.0, 0.1, 0.5, 0.9):
                at = start + int(share * (end - start))
                files = {f"{name}_{at}": data[:at] + EOI}
                yield from family("cut-and-ended", files, "truncated")
    flat = encoded(Image.new("RGB", (WIDTH, HEIGHT), (128, 128, 128)), "JPEG")
    at = flat.rindex(b"\xff\xda") + 14 + 20
    yield from family("cut-and-ended", {"middle_gray": flat[:at] + EOI}, "truncated")
