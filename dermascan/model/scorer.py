"""What every runtime of an exported model offers: images in, scores and activations out."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dermascan.errors import InputError
from dermascan.model.metadata import ModelMetadata
from dermascan.model.signatures import EXPLAIN_SIGNATURE, UINT8_SIGNATURE

SCORING_BATCH = 32

Arrays = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Scores:
    """What a model says of N images.

    Attributes:
        probabilities: float32 (N, 7), rows add up to 1, columns as `LESION_CLASSES`.
        p_malignant: float32 (N,), 0..1.
        embedding: float32 (N, D), the features before the classifier.
    """

    probabilities: NDArray[np.float32]
    p_malignant: NDArray[np.float32]
    embedding: NDArray[np.float32]


class Scorer(ABC):
    """A loaded model, whatever computes it.

    Attributes:
        metadata: of the model.
        runtime: what computes, with its version, for people.
    """

    def __init__(self, metadata: ModelMetadata, runtime: str) -> None:
        self.metadata, self.runtime = metadata, runtime

    def score(self, images: NDArray[np.uint8], batch_size: int = SCORING_BATCH) -> Scores:
        """Score images, some at a time.

        Args:
            images: uint8 (N, H, W, 3) RGB, 0..255, from `dermascan.imaging.prepare` with
                `metadata.preprocessing`; N may be 0.
            batch_size: how many go through the model together; a runtime may take fewer.

        Returns:
            One row for each image, in order; the same whatever the batch size, to 1e-6.

        Raises:
            InputError: the array has another type or shape.
        """
        outputs = self._outputs(UINT8_SIGNATURE, images, batch_size)
        return Scores(outputs["probabilities"], outputs["p_malignant"], outputs["embedding"])

    def explain(
        self, images: NDArray[np.uint8], batch_size: int = SCORING_BATCH
    ) -> NDArray[np.float32]:
        """Show where in each image the evidence for each class lies.

        Args:
            images: as for `score`.
            batch_size: likewise.

        Returns:
            float32 (N, h, w, 7), coarser than the image: class activation maps, see
            `dermascan.model.ensemble.activation_model`; 0 speaks neither for nor against a class.

        Raises:
            InputError: the array has another type or shape, or the model was exported before
                there were explanations.
        """
        if not self.offers(EXPLAIN_SIGNATURE):
            message = "the model cannot explain: it is of format 1; train it anew"
            raise InputError(message)
        return self._outputs(EXPLAIN_SIGNATURE, images, batch_size)["activation"]

    @abstractmethod
    def offers(self, signature: str) -> bool:
        """Tell whether the model has a signature."""

    @abstractmethod
    def _parts(self, signature: str, images: NDArray[np.uint8], batch_size: int) -> list[Arrays]:
        """Compute a signature of images (N, H, W, 3), N at least 1, at most so many together.

        Returns:
            Its outputs for each part of the images, in order.
        """

    def _outputs(self, signature: str, images: NDArray[np.uint8], batch_size: int) -> Arrays:
        self._require_prepared(images)
        if not len(images):  # convolutions refuse an empty batch
            one = np.zeros((1, *images.shape[1:]), np.uint8)
            return {name: each[:0] for name, each in self._parts(signature, one, 1)[0].items()}
        parts = self._parts(signature, images, batch_size)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _require_prepared(self, images: NDArray[np.uint8]) -> None:
        size = self.metadata.preprocessing.image_size
        wanted = (size.height, size.width, 3)
        if images.dtype != np.uint8 or images.shape[1:] != wanted:
            message = (
                f"the model takes uint8 images (N, {size.height}, {size.width}, 3), "
                f"not {images.dtype} {images.shape}: prepare them with its preprocessing"
            )
            raise InputError(message)


def in_parts(images: NDArray[np.uint8], size: int) -> list[NDArray[np.uint8]]:
    """Cut images (N, H, W, 3) into parts of `size`; the last may be smaller."""
    return [images[start : start + size] for start in range(0, len(images), size)]
