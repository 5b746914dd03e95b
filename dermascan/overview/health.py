"""Whether object storage and tracking answer, without waiting for them."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import httpx

T = TypeVar("T")

TRACKING_SECONDS = 0.25


@dataclass(frozen=True)
class Health:
    """How one service is.

    Attributes:
        name: of the service.
        answers: whether it does.
        detail: how fast, or what is wrong.
    """

    name: str
    answers: bool
    detail: str


def storage_health(address: str, problem: str | None, seconds: float) -> Health:
    """Say how object storage is, from what reading it came to.

    Args:
        address: of the bucket.
        problem: what was wrong, None if nothing.
        seconds: that reading took.
    """
    detail = problem or f"{address} answered in {1000 * seconds:.0f} ms"
    return Health("Object storage", problem is None, detail)


def tracking_health(uri: str | None) -> Health:
    """Ask the MLflow server whether it is well, for a quarter of a second at most."""
    name = "Tracking (MLflow)"
    if not uri or not uri.startswith(("http://", "https://")):
        return Health(name, answers=False, detail="no server is configured: runs are not tracked")
    started = time.monotonic()
    try:
        response = httpx.get(f"{uri.rstrip('/')}/health", timeout=TRACKING_SECONDS, trust_env=False)
        response.raise_for_status()
    except httpx.HTTPError as error:
        return Health(name, answers=False, detail=f"{uri} does not answer ({type(error).__name__})")
    return Health(name, answers=True, detail=f"{uri} answered in {_milliseconds(started)}")


def _milliseconds(started: float) -> str:
    return f"{1000 * (time.monotonic() - started):.0f} ms"


def timed(function: Callable[[], T]) -> tuple[T, float]:
    """Return what a function returns, and how many seconds it took."""
    started = time.monotonic()
    return function(), time.monotonic() - started
