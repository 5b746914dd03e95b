"""Who may ask, and how often: an optional key, and a rate for each client."""

import hashlib
import hmac
import ipaddress
import math
import secrets
import stat
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dermascan.errors import InputError
from dermascan.stack.layout import write_private

KEY_BYTES, SHORTEST_KEY = 32, 16
REMEMBERED_CLIENTS = 10_000
_IPV6_NETWORK_BITS = 64


class ApiKey:
    """A key that requests must show; only its hash is kept."""

    def __init__(self, key: str) -> None:
        self._digest = _digest(key)

    def matches(self, given: str | None) -> bool:
        """Compare a key, in a time that does not depend on where they differ."""
        return given is not None and hmac.compare_digest(_digest(given), self._digest)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()


def load_or_create_key(path: Path) -> ApiKey:
    """Read a key from a file, or draw one and write the file, for its owner's eyes only.

    Raises:
        InputError: others may read the file, or the key is too short to be one.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_private(path, secrets.token_urlsafe(KEY_BYTES) + "\n")
    if stat.S_IMODE(path.stat().st_mode) & (stat.S_IRWXG | stat.S_IRWXO):
        raise InputError(f"others may read {path}: run `chmod 600 {path}`")
    key = path.read_text().strip()
    if len(key) < SHORTEST_KEY:
        raise InputError(f"{path} holds no key of {SHORTEST_KEY} characters or more: delete it")
    return ApiKey(key)


@dataclass
class _Bucket:
    """What a client may still ask for, and when that was true."""

    tokens: float
    at: float


class RateLimiter:
    """A token bucket for each client; used by the event loop's thread only.

    Args:
        per_minute: tokens that a bucket gains.
        burst: tokens that it holds.
        clock: monotonic seconds; replaced in tests.
    """

    def __init__(
        self, per_minute: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_second, self._burst, self._clock = per_minute / 60, float(burst), clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def seconds_to_wait(self, address: str) -> int:
        """Take a token from a client's bucket; return 0, or when there will be one."""
        now, client = self._clock(), _client(address)
        bucket = self._buckets.pop(client, None) or _Bucket(self._burst, now)
        gained = (now - bucket.at) * self._per_second
        bucket.tokens, bucket.at = min(self._burst, bucket.tokens + gained), now
        self._buckets[client] = bucket
        if len(self._buckets) > REMEMBERED_CLIENTS:
            self._buckets.popitem(last=False)
        if bucket.tokens < 1:
            return max(1, math.ceil((1 - bucket.tokens) / self._per_second))
        bucket.tokens -= 1
        return 0


def _client(address: str) -> str:
    """Return an address, or of IPv6 the network, of which one client may have every address."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    return str(ipaddress.ip_network((parsed, _IPV6_NETWORK_BITS), strict=False))
