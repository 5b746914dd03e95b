import asyncio
import math
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime

from hypothesis import given
from hypothesis import strategies as st

from dermascan.isic.retry import Attempts, Gate, RetryPolicy, retry_after_seconds

NOW = datetime(2024, 5, 17, 12, 0, tzinfo=UTC)


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self):
        self.now = 1000.0
        self.slept = []

    def __call__(self):
        return self.now

    async def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


@given(
    st.integers(1, 10_000),
    st.floats(0.001, 100),
    st.floats(0.001, 1000),
    st.floats(0, 1, exclude_max=True),
)
def test_backoff_seconds_stays_between_zero_and_the_cap_and_the_doubling(
    failures, base, cap, chance
):
    policy = RetryPolicy(base_seconds=base, cap_seconds=cap, random=lambda: chance)

    wait = policy.backoff_seconds(failures)

    assert 0 <= wait <= cap
    assert wait <= base * 2 ** min(failures - 1, 900)


def test_backoff_seconds_at_the_upper_end_doubles_until_the_cap():
    policy = RetryPolicy(base_seconds=0.5, cap_seconds=3, random=lambda: 1.0)

    waits = [policy.backoff_seconds(failures) for failures in range(1, 6)]

    assert waits == [0.5, 1, 2, 3, 3]


@given(st.integers(0, 10**400))
def test_retry_after_seconds_when_given_digits_returns_them(seconds):
    expected = float(seconds) if seconds < 10**300 else None

    found = retry_after_seconds(f" {seconds} ", NOW)

    assert found == expected if expected is not None else found > 10**299


@given(st.integers(-(10**6), 10**6), st.integers(-12, 12))
def test_retry_after_seconds_when_given_a_date_returns_the_distance(seconds, hours_east):
    moment = (NOW + timedelta(seconds=seconds)).astimezone(timezone(timedelta(hours=hours_east)))

    assert retry_after_seconds(format_datetime(moment), NOW) == max(0, seconds)


@given(st.none() | st.text(max_size=60))
def test_retry_after_seconds_when_given_anything_returns_a_wait_or_none(text):
    found = retry_after_seconds(text, NOW)

    assert found is None or found >= 0
    assert not (isinstance(found, float) and math.isnan(found))


def test_gate_when_paused_holds_back_everybody_once():
    clock = Clock()
    policy = RetryPolicy(sleep=clock.sleep, random=lambda: 0.0)
    gate = Gate(policy, clock)
    gate.pause(7)
    gate.pause(3)

    asyncio.run(gate.wait())
    asyncio.run(gate.wait())

    assert clock.slept == [7]


def test_gate_when_asked_for_a_very_long_pause_keeps_to_the_cap():
    clock = Clock()
    policy = RetryPolicy(sleep=clock.sleep, random=lambda: 0.0, retry_after_cap_seconds=30)
    gate = Gate(policy, clock)
    gate.pause(math.inf)

    asyncio.run(gate.wait())

    assert clock.slept == [30]


def test_gate_when_paused_again_during_the_wait_waits_for_the_second_pause_too():
    clock = Clock()
    gates = []

    async def sleep(seconds):
        await clock.sleep(seconds)
        if len(clock.slept) == 1:
            gates[0].pause(5)

    gate = Gate(RetryPolicy(sleep=sleep, random=lambda: 0.0), clock)
    gates.append(gate)
    gate.pause(2)

    asyncio.run(gate.wait())

    assert clock.slept == [2, 5]


def test_attempts_when_every_try_fails_gives_up_after_the_policys_number():
    clock = Clock()
    policy = RetryPolicy(attempts=4, base_seconds=1, sleep=clock.sleep, random=lambda: 1.0)
    attempts = Attempts(policy, Gate(policy, clock))

    async def run():
        await attempts.begin()
        while await attempts.may_continue(retry_after=None):
            await attempts.begin()

    asyncio.run(run())

    assert attempts.made == 4
    assert clock.slept == [1, 2, 4]


def test_attempts_when_throttled_spares_the_tries_for_real_failures():
    clock = Clock()
    policy = RetryPolicy(attempts=2, throttled_attempts=5, sleep=clock.sleep, random=lambda: 0.0)
    attempts = Attempts(policy, Gate(policy, clock))

    answers = [asyncio.run(attempts.may_continue(retry_after=1)) for _ in range(5)]

    assert answers == [True, True, True, True, False]
    assert asyncio.run(attempts.may_continue(retry_after=None))
