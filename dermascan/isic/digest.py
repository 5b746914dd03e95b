"""What a server says of the bytes it sends, so that they can be checked: RFC 9530 and S3."""

import base64
import binascii
import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from functools import lru_cache
from pathlib import Path
from typing import Any

HEADER = "Repr-Digest"

_SHA256 = re.compile(r"(?:^|[,\s])sha-256=:([A-Za-z0-9+/=]+):")
_MD5_TAG = re.compile(r'"([0-9a-f]{32})"')

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]
AsgiApp = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


def of_bytes(data: bytes) -> str:
    """Return the value of `Repr-Digest` for a body (RFC 9530, section 3)."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


def of_file(path: Path) -> str:
    """Return the value of `Repr-Digest` for a file, read once for as long as it is unchanged."""
    facts = path.stat()
    return _of_file(path, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=100_000)
def _of_file(path: Path, _mtime_ns: int, _size: int) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    return f"sha-256=:{base64.b64encode(digest).decode()}:"


def contradicted(headers: Mapping[str, str], body: bytes) -> str | None:
    """Tell which statement of an answer its body contradicts.

    Args:
        headers: of the answer; names in lower case.
        body: all of it, with no content coding.

    Returns:
        The statement; None if there is none that can be checked, or the body agrees.
    """
    if found := _SHA256.search(headers.get(HEADER.lower(), "")):
        agrees = _decoded(found.group(1)) == hashlib.sha256(body).digest()
        return None if agrees else "its SHA-256"
    promised = _md5_of_s3(headers)
    if promised and promised != hashlib.md5(body, usedforsecurity=False).hexdigest():
        return "the MD5 in its entity tag"
    return None


def _md5_of_s3(headers: Mapping[str, str]) -> str | None:
    """Return the MD5 that an answer of Amazon S3 carries as its entity tag, None elsewhere.

    Source: Amazon S3 API reference, Object: the tag is the MD5 unless the object was written in
    parts or is encrypted with a key of the customer's or of KMS.
    """
    encryption = headers.get("x-amz-server-side-encryption", "AES256")
    by_customer = "x-amz-server-side-encryption-customer-algorithm" in headers
    if headers.get("server") != "AmazonS3" or encryption != "AES256" or by_customer:
        return None
    found = _MD5_TAG.fullmatch(headers.get("etag", ""))
    return found.group(1) if found else None


def _decoded(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return None


class DigestMiddleware:
    """Adds `Repr-Digest` to the answers of an ASGI application that are held in memory.

    An answer with a digest of its own, or of an image, is left as it is.
    """

    def __init__(self, app: AsgiApp) -> None:
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http":
            send = _Digesting(send)
        await self._app(scope, receive, send)


class _Digesting:
    """Holds the beginning of an answer back until its body is known."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and not _is_file(message):
            self._start = message
        elif message["type"] == "http.response.body" and self._start is not None:
            await self._hold(self._start, message)
        else:
            await self._send(message)

    async def _hold(self, start: Message, message: Message) -> None:
        self._body += message.get("body", b"")
        if message.get("more_body"):
            return
        digest = (HEADER.lower().encode(), of_bytes(self._body).encode())
        await self._send({**start, "headers": [*start["headers"], digest]})
        await self._send({**message, "body": self._body})


def _is_file(start: Message) -> bool:
    headers = {name.lower(): value for name, value in start["headers"]}
    return HEADER.lower().encode() in headers or headers.get(b"content-type", b"").startswith(
        b"image/"
    )
