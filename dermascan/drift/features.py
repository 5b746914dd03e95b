"""What of an image is compared with the training data, and the sample that it is compared with.

Features are taken where images enter the network: of the prepared image and of the embedding
that scoring gives, so that reference and batch are measured alike. The reference is made of
test images: networks were fitted to the others, and see new ones differently.
"""

import io
import zipfile
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from dermascan.errors import IntegrityError

REFERENCE_FILE = "reference.npz"
COMPONENTS = 16
LARGEST_SAMPLE = 1_000  # images that a batch is compared with; as many again give the components
COLOUR_FEATURES = (
    "lightness",
    "redness",
    "yellowness",
    "spread of lightness",
    "spread of redness",
    "spread of yellowness",
)
APPEARANCE_FEATURES = (*COLOUR_FEATURES, "sharpness")
_SMALLEST = 1e-6

Floats = NDArray[np.float32]


def appearance(image: NDArray[np.uint8]) -> Floats:
    """Measure colour and sharpness of a prepared image.

    Args:
        image: uint8 sRGB, (height, width, 3), from `imaging.prepare`.

    Returns:
        float32 (7,), as `APPEARANCE_FEATURES`: means and standard deviations of L*, a* and b*
        (CIELAB under D65), and the logarithm to base 10 of the variance of the Laplacian of L*.

    Source:
        Sharpness: Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy: a
        comparative study", ICPR 2000.
    """
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    pixels = lab.reshape(-1, 3).astype(np.float64)
    edges = cv2.Laplacian(lab[..., 0], cv2.CV_32F).var(dtype=np.float64)
    return np.array([*pixels.mean(axis=0), *pixels.std(axis=0), _log(edges)], np.float32)


def _log(value: "NDArray[np.float64] | np.float64") -> NDArray[np.float64]:
    logarithm: NDArray[np.float64] = np.log10(np.maximum(value, _SMALLEST))
    return logarithm


@dataclass(frozen=True, eq=False)
class Reference:
    """A sample of the images that a model version was made with, in few numbers an image.

    Attributes:
        mean: float32 (D,), of the embeddings.
        components: float32 (k, D), the directions in which embeddings differ most; rows are
            orthonormal.
        sample: float32 (M, 7 + k + 1), features of the images. They are not those that gave
            the components, which would lie closer to them than others.
    """

    mean: Floats
    components: Floats
    sample: Floats

    def features(self, images: NDArray[np.uint8], embedding: Floats) -> Floats:
        """Describe images as the sample is described.

        Args:
            images: uint8 RGB (N, H, W, 3), prepared for the model.
            embedding: float32 (N, D) of the same, from `Scorer.score`.

        Returns:
            float32 (N, 7 + k + 1): `appearance`, the embedding along the components, and the
            logarithm to base 10 of its distance from the space that they span.
        """
        return np.hstack([_appearances(images), self.projected(embedding)])

    def projected(self, embedding: Floats) -> Floats:
        """Return the part of the features that comes from embeddings."""
        centred = embedding - self.mean
        along = centred @ self.components.T
        beside = np.linalg.norm(centred - along @ self.components, axis=1, keepdims=True)
        return np.hstack([along, _log(beside)]).astype(np.float32)


def _appearances(images: NDArray[np.uint8]) -> Floats:
    rows = [appearance(image) for image in images]
    return np.array(rows, np.float32).reshape(-1, len(APPEARANCE_FEATURES))


@dataclass(frozen=True)
class FeatureFile:
    """Features of many images in a file, of which only some are wanted in memory.

    Attributes:
        path: float32 in the machine's byte order, image after image.
        images: how many.
        features: of each image.
    """

    path: Path
    images: int
    features: int

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, rows: NDArray[np.intp]) -> Floats:
        """Return float32 (rows, features) of some images, read one by one.

        A memory map would take the pages around each, which for a sample is most of the file.
        """
        width = self.features * np.dtype(np.float32).itemsize
        with self.path.open("rb") as file:
            read = b"".join(_read_at(file, row * width, width) for row in rows.tolist())
        return np.frombuffer(read, np.float32).reshape(-1, self.features)


def _read_at(file: BinaryIO, place: int, size: int) -> bytes:
    file.seek(place)
    return file.read(size)


@dataclass
class ReferenceMaker:
    """Collects what a reference is made of while images are scored.

    Attributes:
        seed: of the choice of images.
    """

    seed: int = 0
    _appearances: list[Floats] = field(default_factory=list)
    _embeddings: list[Floats] = field(default_factory=list)

    def add(self, images: NDArray[np.uint8], embedding: Floats) -> None:
        """Take in some images.

        Args:
            images: uint8 RGB (N, H, W, 3), prepared for the model.
            embedding: float32 (N, D) of the same.
        """
        self._appearances.append(_appearances(images))
        self._embeddings.append(embedding)

    def reference(self) -> Reference | None:
        """Make the reference; None of fewer than four images.

        One half gives the principal components, the other the sample.
        """
        appearances = np.concatenate(self._appearances or [np.zeros((0, 7), np.float32)])
        if len(appearances) < 4:
            return None
        embeddings = np.concatenate(self._embeddings)
        order = np.random.default_rng(self.seed).permutation(len(appearances))
        half = min(len(order) // 2, LARGEST_SAMPLE)
        shaping, sampled = embeddings[order[:half]], order[half : 2 * half]
        mean = shaping.mean(axis=0)
        _, _, directions = np.linalg.svd(shaping - mean, full_matrices=False)
        empty = np.zeros((0, 0), np.float32)
        basis = Reference(mean, directions[: min(COMPONENTS, half - 1)], empty)
        sample = np.hstack([appearances[sampled], basis.projected(embeddings[sampled])])
        return Reference(basis.mean, basis.components, sample)


def encode_reference(reference: Reference) -> bytes:
    """Return a reference as a compressed NumPy archive, some 200 kB."""
    sink = io.BytesIO()
    arrays = {each.name: getattr(reference, each.name) for each in fields(reference)}
    np.savez_compressed(sink, **arrays)
    return sink.getvalue()


def decode_reference(data: bytes) -> Reference:
    """Read what `encode_reference` made.

    Raises:
        IntegrityError: it is something else.
    """
    try:
        with np.load(io.BytesIO(data)) as arrays:
            return Reference(**{each.name: arrays[each.name] for each in fields(Reference)})
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise IntegrityError(f"{REFERENCE_FILE} cannot be read: {error}") from error


def read_reference(folder: Path) -> Reference | None:
    """Read the reference beside a model; None if there is none, as with older versions.

    Raises:
        IntegrityError: the file cannot be read.
    """
    path = folder / REFERENCE_FILE
    return decode_reference(path.read_bytes()) if path.is_file() else None
