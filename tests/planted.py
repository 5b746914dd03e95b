"""Images that carry what cameras and clinics write into them, in words that a test can find."""

import io
import struct
import zlib
from pathlib import Path

from hostile.samples import png_chunk, segment, with_chunks, with_segments
from PIL import Image
from PIL.ExifTags import GPS, IFD, Base
from PIL.TiffImagePlugin import IFDRational

# By where it stands; the place is one of no town.
MARKERS = {
    "patient in EXIF": "Doe^Jane^Planted-1",
    "description in EXIF": "Planted-2 born 1970-01-01",
    "camera's serial in EXIF": "Planted-3-SN4711",
    "GPS in EXIF": "Planted-4-48.8584",
    "latitude in EXIF": struct.pack(">6I", 4129, 7, 5410, 11, 6511, 13).decode("ascii"),
    "comment": "Planted-5 seen by Dr Roe",
    "XMP": "Planted-6-patient",
    "IPTC": "Planted-7-city",
    "ICC description": "Planted-8-monitor",
    "PNG text": "Planted-9-text",
    "compressed PNG text": "Planted-10-text",
}


def exif() -> bytes:
    """Return a TIFF structure of patient, serial and place; upright."""
    tags = Image.Exif()
    tags[Base.Artist] = MARKERS["patient in EXIF"]
    tags[Base.ImageDescription] = MARKERS["description in EXIF"]
    tags[Base.Orientation] = 1
    tags.get_ifd(IFD.Exif)[Base.BodySerialNumber] = MARKERS["camera's serial in EXIF"]
    place = tags.get_ifd(IFD.GPSInfo)
    place[GPS.GPSAreaInformation] = MARKERS["GPS in EXIF"]
    place[GPS.GPSLatitude] = (
        IFDRational(4129, 7),
        IFDRational(5410, 11),
        IFDRational(6511, 13),
    )
    return tags.tobytes().removeprefix(b"Exif\0\0")


def planted(data: bytes) -> bytes:
    """Return a JPEG or PNG with all of it, and the same pixels."""
    return _jpeg(data) if data.startswith(b"\xff\xd8") else _png(data)


def plant(folder: Path) -> None:
    """Do it to every JPEG of an archive's folder."""
    for path in folder.rglob("*.jpg"):
        path.write_bytes(planted(path.read_bytes()))


def _profile() -> bytes:
    return bytes(128) + MARKERS["ICC description"].encode()


def _jpeg(data: bytes) -> bytes:
    xmp = b"http://ns.adobe.com/xap/1.0/\0<x>" + MARKERS["XMP"].encode() + b"</x>"
    iptc = b"Photoshop 3.0\x008BIM\x04\x04\0\0" + MARKERS["IPTC"].encode()
    return with_segments(
        data,
        segment(0xE1, b"Exif\0\0" + exif()),
        segment(0xE1, xmp),
        segment(0xE2, b"ICC_PROFILE\0\1\1" + _profile()),
        segment(0xED, iptc),
        segment(0xFE, MARKERS["comment"].encode()),
    )


def _png(data: bytes) -> bytes:
    packed = zlib.compress(MARKERS["compressed PNG text"].encode())
    return with_chunks(
        data,
        png_chunk(b"iCCP", b"monitor\0\0" + zlib.compress(_profile())),
        png_chunk(b"eXIf", exif()),
        png_chunk(b"tEXt", b"Patient\0" + MARKERS["PNG text"].encode()),
        png_chunk(b"zTXt", b"Patient\0\0" + packed),
    )


def as_png(jpeg: bytes) -> bytes:
    """Return a JPEG's pixels as PNG, with all of it."""
    file = io.BytesIO()
    with Image.open(io.BytesIO(jpeg)) as image:
        image.convert("RGB").save(file, "PNG")
    return planted(file.getvalue())
