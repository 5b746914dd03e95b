"""What the API answers, field by field. Names are those of `inference.PREDICTIONS_SCHEMA`."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from dermascan import DISCLAIMER

Label = Literal["malignant", "benign"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ScoringModel(_Frozen):
    """The model version that an answer is from, all of it."""

    name: str
    version: int = Field(description="UTC time at which the version was made.")
    classes: tuple[str, ...] = Field(description="Names of the probabilities.")


class Warned(_Frozen):
    """A reason to distrust an image's score."""

    code: str = Field(examples=["blurred"])
    message: str


class Quality(_Frozen):
    """What was measured of a photograph."""

    width: int = Field(description="Pixels, upright.")
    height: int = Field(description="Pixels, upright.")
    format: Literal["JPEG", "PNG"]
    sharpness: float = Field(ge=0, description="Variance of the Laplacian; near 0 is blurred.")
    brightness: float = Field(ge=0, le=255, description="Mean luma.")
    clipped_fraction: float = Field(ge=0, le=1, description="Share of black and white pixels.")
    warnings: tuple[Warned, ...]


class Explanation(_Frozen):
    """Where in the image the evidence for one class lies."""

    png: str = Field(
        description="Base64 of a PNG with an alpha channel, to be laid over the image as the "
        "model saw it: turned and cropped to the model's proportions.",
        json_schema_extra={"contentEncoding": "base64", "contentMediaType": "image/png"},
    )
    image_class: str = Field(description="The likeliest class, which the map is about.")


class Result(_Frozen):
    """What became of one image, in the order of the request.

    A rejected image has a `reason`, which begins with a code such as `not_an_image`; whatever
    could not be found out is null.
    """

    filename: str = Field(description="As the client named it; empty if it did not.")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="Of the bytes received.")
    status: Literal["ok", "rejected"]
    reason: str | None = None
    p_malignant: float | None = Field(default=None, ge=0, le=1)
    label: Label | None = None
    probabilities: dict[str, float] | None = None
    quality: Quality | None = None
    explanation: Explanation | None = None


class Predictions(_Frozen):
    """One result for each image of the request."""

    model: ScoringModel
    threshold: float = Field(ge=0, le=1, description="`p_malignant` from which it is malignant.")
    disclaimer: str = DISCLAIMER
    results: tuple[Result, ...]


class LesionClass(_Frozen):
    """One of the classes."""

    code: str = Field(examples=["mel"])
    name: str = Field(examples=["Melanoma"])
    malignant: bool


class PixelSize(_Frozen):
    """Size of what the model sees."""

    height: int
    width: int


class CurrentModel(_Frozen):
    """The model version that answers at present."""

    name: str
    version: int
    since: str = Field(description="When it was made champion, ISO 8601.")
    published_by: str = Field(description="Who or what made it champion.")
    classes: tuple[LesionClass, ...]
    threshold: float = Field(ge=0, le=1)
    threshold_choice: str
    operating_specificity: float | None = Field(
        description="Specificity on validation images that the threshold was chosen for."
    )
    image_size: PixelSize
    runtime: str = Field(description="What computes the scores, with its version.")
    metrics: dict[str, float] | None = Field(
        description="Figures of held-out images; null if the version has none."
    )
    disclaimer: str = DISCLAIMER


class Health(_Frozen):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Readiness(_Frozen):
    """A model is loaded and warm."""

    status: Literal["ready"] = "ready"
    model: str
    version: int
    warning: str | None = Field(
        description="Why a newer champion is not served; null if nothing is wrong."
    )
