"""A small archive folder, and a real server of it, for tests."""

import csv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from live import live

from dermascan.isic.archive import create_app

NEVUS = {
    "diagnosis_1": "Benign",
    "diagnosis_2": "Benign melanocytic proliferations",
    "diagnosis_3": "Nevus",
}
MELANOMA = {
    "diagnosis_1": "Malignant",
    "diagnosis_2": "Malignant melanocytic proliferations (Melanoma)",
    "diagnosis_3": "Melanoma, NOS",
}
COLUMNS = (
    "isic_id",
    "attribution",
    "copyright_license",
    "age_approx",
    "anatom_site_general",
    "diagnosis_1",
    "diagnosis_2",
    "diagnosis_3",
    "image_type",
    "lesion_id",
    "pixels_x",
    "pixels_y",
    "sex",
)


def isic_id(number: int) -> str:
    return f"ISIC_{number:07d}"


def picture(seed: int, height: int = 60, width: int = 80) -> bytes:
    """Encode a smooth random picture as JPEG; other seeds give other pictures."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 216, (6, 8, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()


def row(number: int, **changes: str) -> dict[str, str]:
    """Describe image `number`: every fourth is a melanoma, two images share a lesion."""
    values = {
        "isic_id": isic_id(number),
        "attribution": "Nobody: drawn for a test",
        "copyright_license": "CC-0",
        "age_approx": "45",
        "anatom_site_general": "anterior torso",
        "image_type": "dermoscopic",
        "lesion_id": f"IL_{number // 2:07d}",
        "pixels_x": "80",
        "pixels_y": "60",
        "sex": "female",
        **(MELANOMA if number // 2 % 4 == 0 else NEVUS),
    }
    return {**values, **changes}


def write_folder(
    folder: Path, rows: list[dict[str, str]], files: Mapping[str, bytes] | None = None
) -> Path:
    """Write rows and their files (a picture where none is given) as the official client does."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    given = {Path(name).stem for name in files or {}}
    for number, values in enumerate(rows):
        if values["isic_id"] not in given:
            (folder / f"{values['isic_id']}.jpg").write_bytes(picture(number))
    for name, data in (files or {}).items():
        (folder / name).write_bytes(data)
    return folder


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve a folder on a free port of loopback; yields the base URL."""
    with live(create_app(folder)) as url:
        yield url
