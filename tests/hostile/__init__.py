"""Files that are not what they seem, each with what must become of it."""

from hostile.refused import EXPECTED, hostile_images
from hostile.samples import encoded, photograph, png_chunk

__all__ = ["EXPECTED", "encoded", "hostile_images", "photograph", "png_chunk"]
