"""An archive of tiny JPEG files: of no use for learning; what costs is all but the pixels."""

import csv
import io
import logging
from pathlib import Path

import cv2
import numpy as np

from dermascan.isic.catalogue import METADATA_FILE
from dermascan.isic.synthetic import (
    ATTRIBUTION,
    COLUMNS,
    LICENSE,
    LICENSE_TEXT,
    metadata_row,
    plan_archive,
)
from dermascan.progress import tracked

logger = logging.getLogger(__name__)

WIDTH, HEIGHT = 48, 36


def write_tiny_archive(folder: Path, images: int) -> None:
    """Write images of random pixels, so that no two are alike, with drawn metadata.

    The metadata comes last: a folder that has it is complete.
    """
    (folder / "licenses").mkdir(parents=True, exist_ok=True)
    plan = plan_archive(images, seed=1)
    random, text = np.random.default_rng(0), io.StringIO(newline="")
    rows = csv.DictWriter(text, COLUMNS)
    rows.writeheader()
    for image in tracked(plan, logger, "images written", images):
        pixels = random.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        _, jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 50])
        (folder / image.filename).write_bytes(jpeg.tobytes())
        rows.writerow({**metadata_row(image), "pixels_x": WIDTH, "pixels_y": HEIGHT})
    (folder / "attribution.txt").write_text(ATTRIBUTION)
    (folder / "licenses" / f"{LICENSE}.txt").write_text(LICENSE_TEXT)
    (folder / METADATA_FILE).write_bytes(text.getvalue().encode())
