"""Progress of long work in a log: count, share, rate and time left."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def format_seconds(seconds: float) -> str:
    """Render a duration in seconds as `7 s`, `3 min 05 s` or `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Progress:
    """Count finished things and log a line at most every `interval` seconds, and at the end.

    Args:
        logger: where the lines go.
        what: plural noun for the counted things, such as `images`.
        total: how many there will be, None when unknown.
        interval: seconds between lines.
        clock: monotonic seconds; replaced in tests.
    """

    def __init__(
        self,
        logger: logging.Logger,
        what: str,
        total: int | None,
        interval: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logger, self._what, self._total = logger, what, total
        self._interval, self._clock = interval, clock
        self._started = self._last_line = clock()
        self.done = 0

    def advance(self, count: int = 1) -> None:
        """Note that `count` more things are finished."""
        self.done += count
        now = self._clock()
        if now - self._last_line >= self._interval or self.done == self._total:
            self._last_line = now
            self._logger.info("%s", self.line())

    def line(self) -> str:
        """Return the current state in one line."""
        elapsed = max(self._clock() - self._started, 1e-9)
        rate = self.done / elapsed
        if self._total is None:
            return f"{self.done} {self._what}, {rate:.1f}/s"
        share = 100 * self.done / self._total if self._total else 100
        left = (self._total - self.done) / rate if rate else 0
        ending = f"{format_seconds(left)} left" if left else f"in {format_seconds(elapsed)}"
        return f"{self.done}/{self._total} {self._what} ({share:.0f} %), {rate:.1f}/s, {ending}"


def tracked(
    items: Iterable[T], logger: logging.Logger, what: str, total: int | None
) -> Iterator[T]:
    """Yield `items` unchanged and log progress as they are consumed."""
    progress = Progress(logger, what, total)
    for item in items:
        yield item
        progress.advance()
