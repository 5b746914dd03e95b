"""Errors of the API as `application/problem+json`."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"
BUSY_SECONDS = 2
NO_MODEL_SECONDS = 10


class Problem(BaseModel):
    """What went wrong with a request.

    Attributes:
        type: always `about:blank`: the status says what kind of problem it is.
        title: the status in words.
        status: of HTTP.
        detail: what is wrong with this very request, and what to do about it.

    Source:
        RFC 9457, Problem Details for HTTP APIs.
    """

    model_config = ConfigDict(frozen=True)

    type: str = "about:blank"
    title: str
    status: int
    detail: str


class ProblemError(Exception):
    """Ends a request with a problem.

    Args:
        status: of HTTP.
        detail: what is wrong, and what to do about it; nothing that the client sent.
        headers: of the answer.
    """

    def __init__(
        self, status: HTTPStatus, detail: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """Return the answer."""
        return problem_response(self.status, self.detail, self.headers)


class BusyError(Exception):
    """There is no room for more work now."""


def problem_response(
    status: HTTPStatus, detail: str, headers: Mapping[str, str] | None = None
) -> Response:
    """Return the answer that says what is wrong."""
    body = Problem(title=status.phrase, status=status.value, detail=detail).model_dump_json()
    return Response(body, status.value, headers, media_type=MEDIA_TYPE)


def busy() -> ProblemError:
    """Return the problem of a server that has too much to do."""
    return later(HTTPStatus.SERVICE_UNAVAILABLE, BUSY_SECONDS, "too much to do at the moment")


def no_model(reason: str) -> ProblemError:
    """Return the problem of a server without a model."""
    return later(HTTPStatus.SERVICE_UNAVAILABLE, NO_MODEL_SECONDS, reason)


def later(status: HTTPStatus, seconds: int, reason: str) -> ProblemError:
    """Return a problem that passes by itself."""
    detail = f"{reason}: try again in {seconds} s"
    return ProblemError(status, detail, {"Retry-After": str(seconds)})


def documented(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI description of the problems that an operation may answer with."""
    return {status.value: _described(status) for status in statuses}


def _described(status: HTTPStatus) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    description: dict[str, Any] = {
        "description": status.description or status.phrase,
        "content": {MEDIA_TYPE: {"schema": schema}},
    }
    if status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}:
        retry = {"schema": {"type": "integer"}, "description": "Seconds to wait."}
        description["headers"] = {"Retry-After": retry}
    return description
