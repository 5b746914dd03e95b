"""Small previews of an archive's images: for eyes only, never for a model."""

import io
from pathlib import Path

from PIL import Image

from dermascan.errors import InputError

THUMBNAIL_SIDE = 256
THUMBNAIL_BYTES = 32 * 1024
SOURCE_PIXELS = 50_000_000
QUALITIES = (85, 60, 30, 10)


def make_thumbnail(path: Path) -> bytes:
    """Make an image small: at most 256 pixels a side, RGB, JPEG.

    Returns:
        Exactly `THUMBNAIL_BYTES` bytes (a JPEG comment fills up), so that the API can state the
        size of a thumbnail without making it.

    Raises:
        InputError: the file is no image, or one too large to decode safely.
    """
    try:
        with Image.open(path, formats=("JPEG", "PNG")) as image:
            if image.width * image.height > SOURCE_PIXELS:
                raise InputError(f"{path.name} has more than {SOURCE_PIXELS} pixels")
            image.draft("RGB", (THUMBNAIL_SIDE, THUMBNAIL_SIDE))
            small = image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path.name} cannot be read as an image: {error}") from error
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    small.info.clear()  # Pillow would write the original's comment into the copy
    content = b""
    for quality in QUALITIES:
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=quality)
        content = buffer.getvalue()
        if len(content) <= THUMBNAIL_BYTES - 4:
            break
    return _padded_jpeg(content, THUMBNAIL_BYTES)


def _padded_jpeg(content: bytes, size: int) -> bytes:
    """Bring a JPEG to `size` bytes by a comment segment after its first (JFIF) segment."""
    missing = size - len(content)
    comment = b"\xff\xfe" + (missing - 2).to_bytes(2, "big") + bytes(missing - 4)
    end = 4 + int.from_bytes(content[4:6], "big")
    return content[:end] + comment + content[end:]
