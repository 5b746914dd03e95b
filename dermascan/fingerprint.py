"""Names for results, made from what they are made of."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Buffer

Plain = str | int | float | bool | None | Sequence["Plain"] | Mapping[str, "Plain"]

FINGERPRINT_HEX_DIGITS = 24


def sha256_hex(data: "Buffer") -> str:
    """Return the lower-case hexadecimal SHA-256 of `data` (64 characters)."""
    return hashlib.sha256(data).hexdigest()


def canonical_json(value: Plain) -> bytes:
    """Encode a plain value so that equal values give equal bytes (sorted keys, UTF-8)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def canonical_json_of(items: Iterable[tuple[str, Plain]]) -> bytes:
    """Encode a mapping that is given by its items, in the order of their keys.

    The bytes are those of `canonical_json` of a `dict`, which need not be in memory.
    """
    encoded = bytearray(b"{")
    for key, value in items:
        encoded += (b"," if len(encoded) > 1 else b"") + canonical_json(key) + b":"
        encoded += canonical_json(value)
    return bytes(encoded + b"}")


def items_of_canonical_json(encoded: bytes) -> Iterator[tuple[str, Any]]:
    """Yield the items of a mapping that `canonical_json` encoded, which need not be in memory.

    Raises:
        json.JSONDecodeError: the bytes are not what `canonical_json` makes of a mapping.
    """
    text, decoder, place = encoded.decode(), json.JSONDecoder(), 0
    if text == "{}":
        return
    while place < len(text) - 1:
        key, place = decoder.raw_decode(text, place + 1)  # after the brace, or a comma
        value, place = decoder.raw_decode(text, place + 1)  # after the colon
        yield key, value
    if text[place:] != "}":
        raise json.JSONDecodeError("the mapping does not end", text, place)


class ListFingerprint:
    """The fingerprint of a list that need not be in memory as a whole."""

    def __init__(self) -> None:
        self._digest, self._separator = hashlib.sha256(b"["), b""

    def add(self, value: Plain) -> None:
        """Append a value."""
        self._digest.update(self._separator + canonical_json(value))
        self._separator = b","

    def add_list(self, values: Iterable[Plain]) -> None:
        """Append a list, which need not be in memory as a whole either."""
        self._digest.update(self._separator + b"[")
        for number, value in enumerate(values):
            self._digest.update((b"," if number else b"") + canonical_json(value))
        self._digest.update(b"]")
        self._separator = b","

    def name(self) -> str:
        """Return what `fingerprint` returns for the list so far."""
        whole = self._digest.copy()
        whole.update(b"]")
        return whole.hexdigest()[:FINGERPRINT_HEX_DIGITS]


def fingerprint(value: Plain) -> str:
    """Return a 24-digit hexadecimal name for a plain value; equal values share a name."""
    return sha256_hex(canonical_json(value))[:FINGERPRINT_HEX_DIGITS]
