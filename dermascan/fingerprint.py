"""Names for results, made from what they are made of."""

import hashlib
import json
from collections.abc import Mapping, Sequence

Plain = str | int | float | bool | None | Sequence["Plain"] | Mapping[str, "Plain"]

FINGERPRINT_HEX_DIGITS = 24


def sha256_hex(data: bytes) -> str:
    """Return the lower-case hexadecimal SHA-256 of `data` (64 characters)."""
    return hashlib.sha256(data).hexdigest()


def canonical_json(value: Plain) -> bytes:
    """Encode a plain value so that equal values give equal bytes (sorted keys, UTF-8)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def fingerprint(value: Plain) -> str:
    """Return a 24-digit hexadecimal name for a plain value; equal values share a name."""
    return sha256_hex(canonical_json(value))[:FINGERPRINT_HEX_DIGITS]
