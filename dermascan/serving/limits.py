"""What one server takes on: limits of requests, and how they are set."""

from collections.abc import Mapping
from dataclasses import replace

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dermascan.errors import InputError
from dermascan.imaging import DEFAULT_LIMITS, Preprocessing

MIB = 1024 * 1024
VARIABLE_PREFIX = "DERMASCAN_SERVING_"


class ServingLimits(BaseModel):
    """What a server takes on; each is a variable `DERMASCAN_SERVING_<NAME>`.

    Attributes:
        images: in one request.
        image_bytes: of one encoded image; the model's own limit holds where it is lower.
        image_pixels: width times height of one image; likewise.
        request_bytes: of one request's body.
        buffered_bytes: of all bodies in memory at the same time.
        requests: under way at the same time.
        seconds: from the first byte of a request until its answer.
        waiting_images: decoded and not scored yet.
        batch: images that go through the model together.
        requests_per_minute: of one client, on average.
        burst: requests that a client may make at once after a pause.
        poll_seconds: between two looks at the champion pointer.
    """

    model_config = ConfigDict(frozen=True)

    images: int = Field(default=32, ge=1)
    image_bytes: int = Field(default=DEFAULT_LIMITS.max_bytes, ge=1)
    image_pixels: int = Field(default=DEFAULT_LIMITS.max_pixels, ge=1)
    request_bytes: int = Field(default=64 * MIB, ge=1)
    buffered_bytes: int = Field(default=512 * MIB, ge=1)
    requests: int = Field(default=64, ge=1)
    seconds: float = Field(default=60, gt=0)
    waiting_images: int = Field(default=512, ge=1)
    batch: int = Field(default=32, ge=1)
    requests_per_minute: float = Field(default=600, gt=0)
    burst: int = Field(default=60, ge=1)
    poll_seconds: float = Field(default=5, gt=0)

    def applied_to(self, preprocessing: Preprocessing) -> Preprocessing:
        """Return a model's preprocessing with the stricter of its limits and these."""
        own = preprocessing.limits
        stricter = replace(
            own,
            max_bytes=min(own.max_bytes, self.image_bytes),
            max_pixels=min(own.max_pixels, self.image_pixels),
        )
        return replace(preprocessing, limits=stricter)


def limits_from_environment(environment: Mapping[str, str]) -> ServingLimits:
    """Read the variables that are set; the others keep their defaults.

    Raises:
        InputError: a value is no number or out of range.
    """
    names = {name: VARIABLE_PREFIX + name.upper() for name in ServingLimits.model_fields}
    given = {
        name: environment[variable] for name, variable in names.items() if variable in environment
    }
    try:
        return ServingLimits.model_validate(given)
    except ValidationError as error:
        wrong = "; ".join(
            f"{names[str(problem['loc'][0])]}: {problem['msg']}" for problem in error.errors()
        )
        raise InputError(wrong) from error
