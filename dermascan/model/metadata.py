"""What somebody who has only an exported model must know to use it rightly.

`metadata.json` beside the SavedModel, in the spirit of the MONAI bundle's file of that name. It
needs no TensorFlow to be read.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)

from dermascan.errors import InputError, IntegrityError, NotFoundError
from dermascan.imaging import Preprocessing
from dermascan.model.calibration import Calibration
from dermascan.model.ensemble import TestTimeViews
from dermascan.taxonomy import CLASS_NAMES, LESION_CLASSES

METADATA_FILE = "metadata.json"

_ENCODED_BYTES = (
    "not offered: TensorFlow's decoders do not apply the checks, the EXIF orientation and the "
    "resampling of `dermascan.imaging`, so that equal files would get other scores. Decode with "
    "`dermascan.imaging.decode` and `prepare`"
)
_DESCRIPTION = (
    "Classifies dermoscopic images of skin lesions into seven classes, and estimates the "
    "probability that a lesion is malignant"
)
_INTENDED_USE = "Research and education. Not a medical device; not for diagnosis."
_LICENCE = "Bound by the licences of the training data and of the initial weights: see `licences`"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class ArrayDescription(_Frozen):
    """What an input or output of a signature holds.

    Attributes:
        shape: null where any length will do.
        dtype: of the elements.
        meaning: in words.
        axes: meaning of each axis, N for images.
        value_range: lowest and highest value, null where there is none.
        channels: meaning of the last axis, in order; none where it has no names.
    """

    shape: tuple[int | None, ...]
    dtype: str
    meaning: str
    axes: tuple[str, ...] = ()
    value_range: tuple[float | None, float | None] = (None, None)
    channels: tuple[str, ...] = ()


class SignatureDescription(_Frozen):
    """Inputs and outputs of a signature, by name."""

    inputs: dict[str, ArrayDescription]
    outputs: dict[str, ArrayDescription]


def _as_preprocessing(value: object) -> object:
    if not isinstance(value, Mapping):
        return value
    try:
        return Preprocessing.from_plain(value)
    except InputError as error:
        raise ValueError(str(error)) from error


def _as_plain(value: Preprocessing) -> dict[str, Any]:
    return dict(value.as_plain())


class ModelMetadata(_Frozen):
    """The description of an exported model. All of it but the last three is given to `export`.

    Format 1, which older models have, is read too. It knew neither class offsets nor slope of
    the calibration, neither views nor several networks; its signatures take prepared images
    only. Format 2 is as 3, but has one slope for both groups.

    Attributes:
        format: version of this description.
        name: of the kind of model.
        description: what it does.
        intended_use: what it may be used for.
        licence: of the trained weights.
        licences: of training data and initial weights.
        classes: meaning of the columns of `probabilities`, in order.
        class_names: what the classes stand for.
        malignant_classes: classes whose probabilities add up to `p_malignant`, neither none
            nor all.
        threshold: `p_malignant` from which an image is called malignant.
        threshold_choice: how it was chosen.
        calibration: from averaged logits to probabilities, inside the model (already done).
        views: of each image, averaged inside the model (already done).
        preprocessing: with which `dermascan.imaging.prepare` must make the images; as a plain
            mapping in JSON.
        encoded_bytes: whether there is a signature that takes image files.
        dataset: name of the training data.
        dataset_fingerprint: names their manifest.
        class_counts: images of each class that networks learned from; empty if not recorded.
        training_fingerprint: names the run that made it.
        network: architecture and initial weights.
        initial_weights: where the weights came from that training began with.
        networks: how many were averaged.
        signatures: what the SavedModel offers.
        versions: of the software that made it.
    """

    format: Literal[2, 3] = 3
    name: str = "dermascan-lesion-classifier"
    description: str = _DESCRIPTION
    intended_use: str = _INTENDED_USE
    licence: str = _LICENCE
    licences: dict[str, str]
    classes: tuple[str, ...] = LESION_CLASSES
    class_names: dict[str, str] = CLASS_NAMES
    malignant_classes: tuple[str, ...]
    threshold: float = Field(ge=0, le=1)
    threshold_choice: str = "on validation images"
    calibration: Calibration = Calibration()
    views: TestTimeViews = TestTimeViews()
    preprocessing: Annotated[
        Preprocessing, BeforeValidator(_as_preprocessing), PlainSerializer(_as_plain)
    ]
    encoded_bytes: str = _ENCODED_BYTES
    dataset: str | None = None
    dataset_fingerprint: str
    class_counts: dict[str, int] = Field(default_factory=dict)
    training_fingerprint: str
    network: dict[str, Any]
    initial_weights: str = "see `network`"
    networks: int = Field(default=1, ge=1)
    signatures: dict[str, SignatureDescription] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _from_format_1(cls, document: object) -> object:
        if isinstance(document, Mapping) and "temperature" in document:
            return _upgraded(document)
        return document

    @model_validator(mode="after")
    def _has_two_groups_of_its_classes(self) -> Self:
        malignant, offsets = set(self.malignant_classes), self.calibration.class_offsets
        if not malignant or not malignant < set(self.classes):
            wanted = f"some, but not all, of {self.classes}"
            raise ValueError(f"malignant classes {self.malignant_classes} must be {wanted}")
        if offsets and len(offsets) != len(self.classes):
            raise ValueError(f"{len(offsets)} class offsets for {len(self.classes)} classes")
        return self

    @property
    def temperature(self) -> float:
        """Return the number that the logits are divided by, inside the model."""
        return self.calibration.temperature

    def malignant_indices(self) -> tuple[int, ...]:
        """Return the columns of `probabilities` that add up to `p_malignant`."""
        return tuple(self.classes.index(name) for name in self.malignant_classes)


def read_metadata(folder: Path) -> ModelMetadata:
    """Read the description beside a SavedModel; needs no TensorFlow.

    Raises:
        NotFoundError: there is no `metadata.json`.
        IntegrityError: it does not say what it must, or is of a later format.
    """
    path = folder / METADATA_FILE
    if not path.is_file():
        raise NotFoundError(f"{path} does not exist: not a model that DermaScan exported")
    try:
        return ModelMetadata.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise IntegrityError(f"{path} is not a model's description: {error}") from error


def _upgraded(document: Mapping[str, Any]) -> dict[str, Any]:
    """Make format 2 of format 1, which is known by its `temperature`."""
    changed = ("format", "temperature", "inputs", "outputs")
    upgraded = {name: value for name, value in document.items() if name not in changed}
    outputs = document.get("outputs", {})
    upgraded["calibration"] = {"temperature": document["temperature"]}
    upgraded["signatures"] = {
        name: {"inputs": {"images": description}, "outputs": outputs}
        for name, description in document.get("inputs", {}).items()
    }
    return upgraded
