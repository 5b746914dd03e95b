import stat

import pytest

from dermascan.errors import InputError
from dermascan.serving import guard
from dermascan.serving.guard import RateLimiter, load_or_create_key


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_rate_limiter_when_the_burst_is_used_up_says_how_long_to_wait(clock):
    limiter = RateLimiter(per_minute=30, burst=3, clock=clock)

    waits = [limiter.seconds_to_wait("10.0.0.1") for _ in range(4)]

    assert waits == [0, 0, 0, 2]
    assert limiter.seconds_to_wait("10.0.0.2") == 0
    clock.now = 2.0
    assert [limiter.seconds_to_wait("10.0.0.1") for _ in range(2)] == [0, 2]


def test_rate_limiter_when_a_client_rests_gives_no_more_than_the_burst(clock):
    limiter = RateLimiter(per_minute=60, burst=2, clock=clock)
    limiter.seconds_to_wait("10.0.0.1")
    clock.now = 1e6

    assert [limiter.seconds_to_wait("10.0.0.1") for _ in range(3)] == [0, 0, 1]


def test_rate_limiter_when_addresses_are_of_one_ipv6_network_takes_them_for_one_client(clock):
    limiter = RateLimiter(per_minute=1, burst=1, clock=clock)

    assert limiter.seconds_to_wait("2001:db8::1") == 0
    assert limiter.seconds_to_wait("2001:db8::ffff:2") == 60
    assert limiter.seconds_to_wait("2001:db8:0:1::1") == 0


def test_rate_limiter_when_clients_are_many_remembers_some(clock, monkeypatch):
    monkeypatch.setattr(guard, "REMEMBERED_CLIENTS", 10)
    limiter = RateLimiter(per_minute=1, burst=1, clock=clock)

    assert {limiter.seconds_to_wait(f"10.0.0.{number}") for number in range(100)} == {0}

    assert len(limiter._buckets) == 10
    assert limiter.seconds_to_wait("10.0.0.99") == 60


def test_load_or_create_key_when_there_is_none_draws_one_for_its_owner_only(tmp_path):
    path = tmp_path / "new" / "key"

    drawn = load_or_create_key(path)

    key = path.read_text().strip()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(key) >= 32
    assert load_or_create_key(path).matches(key)
    assert drawn.matches(key)
    assert not drawn.matches(key[:-1])
    assert not drawn.matches(None)


@pytest.mark.parametrize(
    ("mode", "text", "words"),
    [(0o640, "k" * 40, "chmod 600"), (0o600, "short\n", "no key of 16 characters")],
)
def test_load_or_create_key_when_the_file_is_unsafe_says_what_to_do(tmp_path, mode, text, words):
    path = tmp_path / "key"
    path.write_text(text)
    path.chmod(mode)

    with pytest.raises(InputError, match=words):
        load_or_create_key(path)
