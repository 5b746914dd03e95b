"""Write a synthetic archive: drawn lesions with metadata, in the folder layout of the ISIC client.

Patients, lesions and images are planned one after another from the seed, so image number
i is the same whatever the size of the archive. The folder is complete when `metadata.csv`
is in it, which is written last.
"""

import csv
import io
import itertools
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from dermascan.errors import InputError
from dermascan.isic.drawing import (
    HEIGHT,
    SKIN_MELANIN,
    WIDTH,
    Skin,
    draw_picture,
    sample_appearance,
    sample_view,
)
from dermascan.progress import tracked
from dermascan.taxonomy import LESION_CLASSES

logger = logging.getLogger(__name__)

ATTRIBUTION = "Synthetic image drawn by DermaScan: not a patient"
LICENSE = "CC-0"
LICENSE_TEXT = f"""{LICENSE}

{ATTRIBUTION}.

A program drew these pictures from random numbers and made up the metadata beside them.
They show no person and must not be used to judge anybody's skin. Everything in this
folder is dedicated to the public domain under CC0 1.0 Universal:
https://creativecommons.org/publicdomain/zero/1.0/
"""
JPEG_QUALITY = 90
FIRST_NUMBER = 9_000_000  # of ISIC ids, which have seven digits
MAX_IMAGES = 1_000_000
# The official client's order: three columns, then the others by name.
COLUMNS = (
    "isic_id",
    "attribution",
    "copyright_license",
    "age_approx",
    "anatom_site_general",
    "diagnosis_1",
    "diagnosis_2",
    "diagnosis_3",
    "diagnosis_confirm_type",
    "fitzpatrick_skin_type",
    "image_manipulation",
    "image_type",
    "lesion_id",
    "patient_id",
    "pixels_x",
    "pixels_y",
    "sex",
)

# Share of images.
CLASS_SHARES: Mapping[str, float] = {
    "akiec": 0.08,
    "bcc": 0.12,
    "bkl": 0.14,
    "df": 0.05,
    "mel": 0.16,
    "nv": 0.40,
    "vasc": 0.05,
}
IMAGES_PER_LESION = (0.75, 0.17, 0.08)  # share of lesions with one, two, three images
LESIONS_PER_PATIENT = (0.70, 0.20, 0.10)
SKIN_TYPE_SHARES = (0.12, 0.27, 0.27, 0.17, 0.11, 0.06)  # Fitzpatrick I to VI
RECORDED_SKIN_TYPES = ("I", "II", "III", "IV", "V")  # isic-metadata 4 refuses VI
HAIR_COLOURS = ((0.13, 0.10, 0.09), (0.27, 0.19, 0.14), (0.55, 0.42, 0.30), (0.85, 0.82, 0.78))
SITES = (
    "anterior torso",
    "posterior torso",
    "lower extremity",
    "upper extremity",
    "head/neck",
)

HISTOPATHOLOGY = "histopathology"
UNCONFIRMED = (
    HISTOPATHOLOGY,
    "serial imaging showing no change",
    "single image expert consensus",
)


@dataclass(frozen=True)
class Epidemiology:
    """Who has a lesion of a class, where, and under which names the archive knows it.

    Attributes:
        diagnoses: `diagnosis_1` to `diagnosis_3` joined by colons, with their shares.
        age: mean and standard deviation, years.
        sites: weights in the order of `SITES`.
        confirmed: share of lesions that were excised and looked at under a microscope.
    """

    diagnoses: Mapping[str, float]
    age: tuple[float, float]
    sites: tuple[float, float, float, float, float]
    confirmed: float


_EPIDERMAL = "Benign:Benign epidermal proliferations"
_MELANOMA = "Malignant:Malignant melanocytic proliferations (Melanoma)"
_VASCULAR = "Benign:Benign soft tissue proliferations - Vascular"

EPIDEMIOLOGY: Mapping[str, Epidemiology] = {
    "akiec": Epidemiology(
        {
            "Indeterminate:Indeterminate epidermal proliferations:Solar or actinic keratosis": 0.7,
            "Malignant:Malignant epidermal proliferations:Squamous cell carcinoma in situ": 0.3,
        },
        age=(66, 12),
        sites=(1, 1, 2, 3, 5),
        confirmed=1.0,
    ),
    "bcc": Epidemiology(
        {
            "Malignant:Malignant adnexal epithelial proliferations - Follicular"
            ":Basal cell carcinoma": 1.0
        },
        age=(66, 14),
        sites=(2, 3, 1, 2, 5),
        confirmed=1.0,
    ),
    "bkl": Epidemiology(
        {
            f"{_EPIDERMAL}:Pigmented benign keratosis": 0.4,
            f"{_EPIDERMAL}:Seborrheic keratosis": 0.3,
            f"{_EPIDERMAL}:Solar lentigo": 0.2,
            f"{_EPIDERMAL}:Lichen planus like keratosis": 0.1,
        },
        age=(63, 14),
        sites=(3, 4, 2, 2, 3),
        confirmed=0.6,
    ),
    "df": Epidemiology(
        {"Benign:Benign soft tissue proliferations - Fibro-histiocytic:Dermatofibroma": 1.0},
        age=(52, 14),
        sites=(1, 1, 6, 3, 1),
        confirmed=0.5,
    ),
    "mel": Epidemiology(
        {
            f"{_MELANOMA}:Melanoma, NOS": 0.5,
            f"{_MELANOMA}:Melanoma in situ": 0.3,
            f"{_MELANOMA}:Melanoma Invasive": 0.2,
        },
        age=(60, 15),
        sites=(2, 4, 3, 3, 2),
        confirmed=1.0,
    ),
    "nv": Epidemiology(
        {"Benign:Benign melanocytic proliferations:Nevus": 1.0},
        age=(46, 15),
        sites=(4, 5, 4, 2, 1),
        confirmed=0.4,
    ),
    "vasc": Epidemiology(
        # the third level stays open in HAM10000
        {_VASCULAR: 0.7, f"{_VASCULAR}:Hemangioma": 0.2, f"{_VASCULAR}:Angiokeratoma": 0.1},
        age=(51, 20),
        sites=(4, 2, 2, 1, 2),
        confirmed=0.4,
    ),
}


@dataclass(frozen=True)
class Patient:
    """Someone who does not exist.

    Attributes:
        patient_id: as in the archive.
        age: years, None when not recorded.
        sex: `male` or `female`, None when not recorded.
        skin_type: Fitzpatrick type, None when not recorded.
        skin: what it looks like.
    """

    patient_id: str
    age: int | None
    sex: str | None
    skin_type: str | None
    skin: Skin


@dataclass(frozen=True)
class Lesion:
    """One lesion of a patient.

    Attributes:
        number: counts lesions from 0; with the seed it decides the lesion's looks.
        patient: who has it.
        lesion_class: one of `LESION_CLASSES`.
        diagnosis: three levels, "" where the archive says nothing.
        confirm_type: how the diagnosis was confirmed.
        site: where it is, None when not recorded.
    """

    number: int
    patient: Patient
    lesion_class: str
    diagnosis: tuple[str, str, str]
    confirm_type: str
    site: str | None

    @property
    def lesion_id(self) -> str:
        """Return the id in the archive's form."""
        return f"IL_{FIRST_NUMBER + self.number:07d}"


@dataclass(frozen=True)
class PlannedImage:
    """One image to draw: `take` counts the images of a lesion from 0."""

    isic_id: str
    lesion: Lesion
    take: int

    @property
    def filename(self) -> str:
        """Return the name of the image's file."""
        return f"{self.isic_id}.jpg"


@dataclass(frozen=True)
class SyntheticArchive:
    """What is in a folder after `write_archive`.

    Attributes:
        directory: the folder.
        images: images in it.
        lesions: lesions that they show.
        patients: patients who have these lesions.
        drawn: images that this call drew; 0 when the folder was complete before.
    """

    directory: Path
    images: int
    lesions: int
    patients: int
    drawn: int


def _random(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """Return a generator of its own for one purpose, independent of all others."""
    return np.random.default_rng([seed, *purpose.encode(), *numbers])


def _maybe(value: str, chance: float, rng: np.random.Generator) -> str | None:
    """Return the value with a chance, else None: real metadata has holes."""
    return value if rng.random() < chance else None


def invent_patient(number: int, lesion_class: str, seed: int) -> Patient:
    """Invent a patient whose age fits a lesion class; skin tone and sex fit any.

    Args:
        number: counts patients from 0.
        lesion_class: of the patient's first lesion.
        seed: of the archive.
    """
    rng = _random(seed, "patient", number)
    mean, deviation = EPIDEMIOLOGY[lesion_class].age
    age = int(np.clip(5 * round(rng.normal(mean, deviation) / 5), 15, 85))
    sex, skin_type = str(rng.choice(["male", "female"])), _skin_type(rng)
    darkness = list(SKIN_MELANIN).index(skin_type)
    skin = Skin(
        melanin=SKIN_MELANIN[skin_type] * rng.uniform(0.8, 1.25),
        blood=rng.uniform(0.10, 0.34),
        sun_damage=float(np.clip((age - 15) / 90 + rng.normal(0, 0.2) - 0.08 * darkness, 0, 1)),
        hairiness=rng.beta(1, 2.5 if sex == "female" else 1.5),
        hair_colour=HAIR_COLOURS[int(rng.choice(4, p=_hair_shares(age, darkness)))],
    )
    recorded = skin_type if skin_type in RECORDED_SKIN_TYPES and rng.random() < 0.6 else None
    return Patient(
        patient_id=f"IP_{FIRST_NUMBER + number:07d}",
        age=age if rng.random() < 0.96 else None,
        sex=_maybe(sex, 0.97, rng),
        skin_type=recorded,
        skin=skin,
    )


def _skin_type(rng: np.random.Generator) -> str:
    return str(rng.choice(list(SKIN_MELANIN), p=SKIN_TYPE_SHARES))


def _hair_shares(age: int, darkness: int) -> Sequence[float]:
    """Return shares of black, brown, fair and grey hair."""
    if age > 65:
        return (0.3, 0.2, 0.1, 0.4)
    return (0.5, 0.35, 0.15, 0.0) if darkness < 3 else (1.0, 0.0, 0.0, 0.0)


def invent_lesion(number: int, patient: Patient, lesion_class: str, seed: int) -> Lesion:
    """Invent a lesion of a class.

    Args:
        number: counts lesions from 0.
        patient: who has it.
        lesion_class: one of `LESION_CLASSES`.
        seed: of the archive.
    """
    rng = _random(seed, "lesion", number)
    facts = EPIDEMIOLOGY[lesion_class]
    path = str(rng.choice(list(facts.diagnoses), p=list(facts.diagnoses.values())))
    first, second, third = (*path.split(":"), "")[:3]
    weights = np.array(facts.sites) / sum(facts.sites)
    confirmed = path.startswith("Malignant") or rng.random() < facts.confirmed
    return Lesion(
        number=number,
        patient=patient,
        lesion_class=lesion_class,
        diagnosis=(first, second, third),
        confirm_type=HISTOPATHOLOGY if confirmed else str(rng.choice(UNCONFIRMED[1:])),
        site=_maybe(str(rng.choice(SITES, p=weights)), 0.86, rng),
    )


def plan_lesions(seed: int) -> Iterator[tuple[Lesion, int]]:
    """Invent lesions without end, each with its number of images.

    The next class is the one that lacks most images, give or take a little chance, so that
    every stretch of the archive has the shares of `CLASS_SHARES`.
    """
    shares = np.array([CLASS_SHARES[name] for name in LESION_CLASSES])
    counts = np.zeros(len(shares))
    patient_number, lesions_left, patient = -1, 0, None
    for number in itertools.count():
        rng = _random(seed, "plan", number)
        lacking = shares * (counts.sum() + 1) - counts
        index = int(np.argmax(lacking + rng.uniform(0, 0.5, len(shares))))
        if patient is None or lesions_left == 0:
            patient_number += 1
            lesions_left = 1 + int(rng.choice(3, p=LESIONS_PER_PATIENT))
            patient = invent_patient(patient_number, LESION_CLASSES[index], seed)
        lesions_left -= 1
        takes = 1 + int(rng.choice(3, p=IMAGES_PER_LESION))
        counts[index] += takes
        yield invent_lesion(number, patient, LESION_CLASSES[index], seed), takes


def plan_archive(images: int, seed: int) -> list[PlannedImage]:
    """Decide what is on each image of an archive; a larger archive begins with a smaller one.

    Args:
        images: 1 to `MAX_IMAGES`.
        seed: 0 or more.

    Raises:
        InputError: an argument is out of range.
    """
    if not 1 <= images <= MAX_IMAGES:
        raise InputError(f"cannot draw {images} images: ask for 1 to {MAX_IMAGES}")
    if seed < 0:
        raise InputError(f"seed {seed} is negative: choose 0 or more")
    takes = ((lesion, take) for lesion, count in plan_lesions(seed) for take in range(count))
    return [
        PlannedImage(f"ISIC_{FIRST_NUMBER + number:07d}", lesion, take)
        for number, (lesion, take) in enumerate(itertools.islice(takes, images))
    ]


def metadata_row(image: PlannedImage) -> Mapping[str, str | int | None]:
    """Return an image's row of `metadata.csv`; keys are `COLUMNS`."""
    lesion, patient = image.lesion, image.lesion.patient
    return {
        "isic_id": image.isic_id,
        "attribution": ATTRIBUTION,
        "copyright_license": LICENSE,
        "age_approx": patient.age,
        "anatom_site_general": lesion.site,
        "diagnosis_1": lesion.diagnosis[0],
        "diagnosis_2": lesion.diagnosis[1],
        "diagnosis_3": lesion.diagnosis[2],
        "diagnosis_confirm_type": lesion.confirm_type,
        "fitzpatrick_skin_type": patient.skin_type,
        "image_manipulation": "synthetic",
        "image_type": "dermoscopic",
        "lesion_id": lesion.lesion_id,
        "patient_id": patient.patient_id,
        "pixels_x": WIDTH,
        "pixels_y": HEIGHT,
        "sex": patient.sex,
    }


def encode_metadata(plan: Sequence[PlannedImage]) -> bytes:
    """Return `metadata.csv` as the official client writes it, UTF-8."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(metadata_row(image) for image in plan)
    return text.getvalue().encode()


def draw_jpeg(image: PlannedImage, seed: int) -> bytes:
    """Draw a planned image and return it as a JPEG that says in a comment what it is."""
    number = image.lesion.number
    looks = sample_appearance(image.lesion.lesion_class, _random(seed, "looks", number))
    view_rng = _random(seed, "view", number, image.take)
    skin = image.lesion.patient.skin
    view = sample_view(skin, looks.radius, view_rng)
    picture = draw_picture(skin, looks, view, _random(seed, "details", number), view_rng)
    blue_first = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", blue_first, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return _with_comment(encoded.tobytes(), ATTRIBUTION)


def _with_comment(jpeg: bytes, comment: str) -> bytes:
    """Insert a comment segment after the JFIF header, where the standard wants it."""
    text = comment.encode()
    segment = b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text
    header_end = 4 + int.from_bytes(jpeg[4:6], "big")
    return jpeg[:header_end] + segment + jpeg[header_end:]


def write_archive(directory: Path, images: int, seed: int) -> SyntheticArchive:
    """Draw an archive into a folder; the same arguments always give the same bytes.

    A folder that is complete is left alone; of one that was complete, missing images are
    drawn again; one that was never finished is drawn anew.

    Args:
        directory: made if need be; may hold a synthetic archive of the same arguments.
        images: 1 to `MAX_IMAGES`.
        seed: 0 or more.

    Raises:
        InputError: an argument is out of range, or the folder holds other images.
    """
    plan = plan_archive(images, seed)
    metadata = encode_metadata(plan)
    missing = _images_to_draw(directory, plan, metadata)
    if missing:
        _draw_files(directory, missing, seed)
        _write_whole(directory / "attribution.txt", ATTRIBUTION.encode())
        _write_whole(directory / "licenses" / f"{LICENSE}.txt", LICENSE_TEXT.encode())
        _write_whole(directory / "metadata.csv", metadata)
        logger.info("%s: drew %d of %d images", directory, len(missing), images)
    else:
        logger.info("%s: all %d images are there already, nothing to do", directory, images)
    return SyntheticArchive(
        directory=directory,
        images=images,
        lesions=len({image.lesion.lesion_id for image in plan}),
        patients=len({image.lesion.patient.patient_id for image in plan}),
        drawn=len(missing),
    )


def _images_to_draw(
    directory: Path, plan: Sequence[PlannedImage], metadata: bytes
) -> Sequence[PlannedImage]:
    """Return what of a plan is not in a folder yet."""
    if not directory.exists():
        return plan
    if not directory.is_dir():
        raise InputError(f"{directory} is not a folder: name another place for the archive")
    present = {path.name for path in directory.glob("*.jpg")}
    finished = directory / "metadata.csv"
    other_metadata = finished.exists() and finished.read_bytes() != metadata
    if other_metadata or present - {image.filename for image in plan}:
        raise InputError(
            f"{directory} holds an archive of other images, count or seed: "
            "name another folder or remove this one"
        )
    return [image for image in plan if not (finished.exists() and image.filename in present)]


def _draw_files(directory: Path, plan: Sequence[PlannedImage], seed: int) -> None:
    """Draw images into a folder on all cores: OpenCV and NumPy let go of Python's lock."""
    (directory / "licenses").mkdir(parents=True, exist_ok=True)

    def draw_file(image: PlannedImage) -> None:
        _write_whole(directory / image.filename, draw_jpeg(image, seed))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in tracked(pool.map(draw_file, plan), logger, "images drawn", len(plan)):
            pass


def _write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(data)
    partial.replace(path)
