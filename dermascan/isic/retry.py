"""When to try a request again: back-off with jitter, `Retry-After`, a pause that all share."""

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

logger = logging.getLogger(__name__)

_DOUBLINGS = 60  # beyond this the cap has long been reached; keeps 2**n a finite float


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how patiently a failed request is tried again.

    Attributes:
        attempts: tries of one request that fail by themselves, at least 1.
        throttled_attempts: answers that name a time to come back at; they say that the
            server is busy, nothing about the request, so they have an allowance of their own.
        base_seconds: upper bound of the first back-off; it doubles each time.
        cap_seconds: upper bound of any back-off.
        retry_after_cap_seconds: the longest pause that a server may ask for.
        sleep: waits that many seconds; replaced in tests.
        random: uniform in [0, 1); replaced in tests.
    """

    attempts: int = 6
    throttled_attempts: int = 10
    base_seconds: float = 0.5
    cap_seconds: float = 60.0
    retry_after_cap_seconds: float = 300.0
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    random: Callable[[], float] = random.random

    def backoff_seconds(self, failures: int) -> float:
        """Return how long to wait after the `failures`-th failure (from 1).

        Source: "full jitter" in Brooker, Exponential Backoff And Jitter, AWS Architecture
        Blog, 2015.
        """
        ceiling = self.base_seconds * 2.0 ** min(failures - 1, _DOUBLINGS)
        return self.random() * min(self.cap_seconds, ceiling)


def retry_after_seconds(header: str | None, now: datetime) -> float | None:
    """Read a `Retry-After` header, in seconds or as an HTTP date (RFC 9110, 10.2.3).

    Args:
        header: the header's value, None when there is none.
        now: the current time, with a time zone.

    Returns:
        Seconds to wait, at least 0; None when the header says nothing that can be understood.
    """
    text = (header or "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())


class Gate:
    """A pause that every worker keeps, because a busy server means all of them."""

    def __init__(self, policy: RetryPolicy, clock: Callable[[], float] = time.monotonic) -> None:
        self._policy, self._clock = policy, clock
        self._closed_until = -math.inf

    def pause(self, seconds: float) -> None:
        """Let nobody through for `seconds`, or for longer if that was already agreed."""
        wait = min(seconds, self._policy.retry_after_cap_seconds)
        logger.info("the server asks for a pause: nothing is sent for %.0f s", wait)
        self._closed_until = max(self._closed_until, self._clock() + wait)

    async def wait(self) -> None:
        """Return once no pause is left; workers come back spread over `base_seconds`."""
        kept = -math.inf
        while self._closed_until > max(kept, self._clock()):
            kept = self._closed_until
            spread = self._policy.random() * self._policy.base_seconds
            await self._policy.sleep(max(0.0, kept - self._clock()) + spread)


class Attempts:
    """The tries of one request.

    Attributes:
        made: how many requests were sent.
    """

    def __init__(self, policy: RetryPolicy, gate: Gate) -> None:
        self._policy, self._gate = policy, gate
        self._failures = self._throttled = 0
        self._started = time.monotonic()
        self.made = 0

    @property
    def seconds(self) -> float:
        """Return the time since the first of them was due."""
        return time.monotonic() - self._started

    async def begin(self) -> None:
        """Wait for the gate and count one more try."""
        await self._gate.wait()
        self.made += 1

    async def may_continue(self, retry_after: float | None) -> bool:
        """After a failure, wait as long as is right; return False when it is time to give up."""
        if retry_after:
            self._throttled += 1
            self._gate.pause(retry_after)
            return self._throttled < self._policy.throttled_attempts
        self._failures += 1
        if self._failures >= self._policy.attempts:
            return False
        await self._policy.sleep(self._policy.backoff_seconds(self._failures))
        return True
