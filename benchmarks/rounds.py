"""Contenders that take turns, so that whatever else the machine does meets all of them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

Role = Literal["ours", "peer", "limit"]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Contender:
    """One way to do the work.

    Attributes:
        name: for people.
        role: `ours`; `peer` for an alternative; `limit` for what nothing can be faster than.
        run: does the work once and returns the seconds that count.
    """

    name: str
    role: Role
    run: Callable[[], float]


@dataclass(frozen=True)
class Trial:
    """Work that several contenders do, each in its own way.

    Attributes:
        title: what the work is.
        amount: how many things one run brings about.
        unit: what is counted, in the plural.
        contenders: exactly one of them is `ours`.
    """

    title: str
    amount: int
    unit: str
    contenders: Sequence[Contender]


@dataclass(frozen=True)
class Timing:
    """The seconds of a contender, one for each round that counts."""

    name: str
    role: Role
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class Outcome:
    """What a trial came to; `timings` in the order of its contenders."""

    title: str
    amount: int
    unit: str
    timings: tuple[Timing, ...]

    def rates(self, timing: Timing) -> list[float]:
        """Return things per second, one for each round."""
        return [self.amount / seconds for seconds in timing.seconds]

    def ours(self) -> Timing:
        """Return the timing of what is measured against all others."""
        return next(timing for timing in self.timings if timing.role == "ours")

    def lead(self, other: Timing) -> float:
        """Return how many times as fast as `other` ours is: the median of the rounds' ratios.

        Both runs of a ratio come from one round, so a slow minute of the machine cancels.
        """
        pairs = zip(other.seconds, self.ours().seconds, strict=True)
        return median(theirs / own for theirs, own in pairs)


def timed(work: Callable[[], object]) -> Callable[[], float]:
    """Return a function that does the work and returns the seconds it took."""

    def run() -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    return run


def compare(trial: Trial, rounds: int, tell: Tell) -> Outcome:
    """Let all contenders run in turn, once to warm up and then `rounds` times.

    Each round begins with another contender.
    """
    seconds: dict[str, list[float]] = {contender.name: [] for contender in trial.contenders}
    for number in range(rounds + 1):
        first = number % len(trial.contenders)
        for contender in (*trial.contenders[first:], *trial.contenders[:first]):
            taken = contender.run()
            label = f"round {number} of {rounds}" if number else "warm-up"
            tell(f"{trial.title}, {label}: {contender.name} {taken:.3f} s")
            if number:
                seconds[contender.name].append(taken)
    timings = tuple(Timing(c.name, c.role, tuple(seconds[c.name])) for c in trial.contenders)
    return Outcome(trial.title, trial.amount, trial.unit, timings)
