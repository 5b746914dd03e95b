"""The only module that talks to object storage.

Bulk reads and writes go through obstore (Rust, pooled connections, SHA-256 trailers);
listing and bucket administration go through boto3, which also reads the few keys that
obstore cannot name (control characters, a trailing slash, dot segments).
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast
from uuid import uuid4

import obstore
from obstore.exceptions import AlreadyExistsError, PreconditionError

from dermascan.errors import ConflictError, InputError, NotFoundError, TransientError
from dermascan.fingerprint import Plain, canonical_json, sha256_hex
from dermascan.settings import StorageSettings
from dermascan.storage_calls import Caller, CorruptBytesError, read_until_sound, refusal
from dermascan.storage_clients import boto3_client, obstore_can_name, obstore_client

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import ListObjectsV2OutputTypeDef, ObjectTypeDef
    from obstore import GetResult, PutMode
    from typing_extensions import Buffer

logger = logging.getLogger(__name__)

CONCURRENCY = 32
# A large object moves in parts, each its own request: a line must carry one part in the time that a
# request may take, or all the parts that are written at once (1.4 Mbit/s at 60 s). S3 takes none
# smaller, and no more of them than these: only an object that would have more has larger ones.
PART_BYTES = 5 * 1024 * 1024
MOST_PARTS = 10_000
PARTS_WRITTEN_AT_ONCE = 2
# Looking first whether an object is there costs as much as sending one of this size.
SMALL_BYTES = 256 * 1024
PAGE_KEYS = 1000
# User metadata of what this library writes: what the bytes must be when they are read again, and
# which write put them there.
SHA256, WRITE = "sha256", "dermascan-write"
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class ObjectInfo:
    """What a listing says of one object: key, size in bytes, entity tag without quotes."""

    key: str
    size: int
    etag: str


@dataclass(frozen=True)
class Folder:
    """What lies directly under a prefix, in key order.

    Attributes:
        objects: the objects there.
        folders: prefixes with "/" at the end that hold more.
        complete: whether that is all, and no limit cut it short.
    """

    objects: tuple[ObjectInfo, ...]
    folders: tuple[str, ...]
    complete: bool


@dataclass(frozen=True)
class UnfinishedUpload:
    """An upload in parts that has not ended: its key, its identifier, and when it began (UTC)."""

    key: str
    identifier: str
    started: datetime


@dataclass(frozen=True)
class S3Address:
    """A place in object storage: bucket and key prefix."""

    bucket: str
    prefix: str

    @classmethod
    def parse(cls, text: str, default_bucket: str) -> "S3Address":
        """Read `s3://bucket/prefix`, or a bare prefix in `default_bucket`.

        Raises:
            InputError: the text names no bucket or uses another scheme.
        """
        scheme, separator, rest = text.partition("://")
        if not separator:
            return cls(default_bucket, text.lstrip("/"))
        bucket, _, prefix = rest.partition("/")
        if scheme != "s3" or not bucket:
            message = f"{text!r} is not an S3 address: write s3://bucket/prefix or a bare prefix"
            raise InputError(message)
        return cls(bucket, prefix)

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"


class Store:
    """One bucket.

    What may pass is tried again for as long as `settings.patience` says. Bytes travel with their
    SHA-256 in both directions: the server checks what it gets, and what it gives back is checked
    here.

    Raises, from every method: `NotFoundError` for a missing object, `InputError` when the server
    refuses, `TransientError` when it still cannot be reached or fails once patience is at its
    end, `IntegrityError` when what is read is not what was written.
    """

    def __init__(self, settings: StorageSettings, bucket: str | None = None) -> None:
        self.settings = settings
        self.bucket = bucket or settings.bucket
        self._objects = obstore_client(settings, self.bucket)
        self._s3 = boto3_client(settings)
        self._caller = Caller(settings.endpoint_url or "AWS", settings.patience)

    def in_bucket(self, bucket: str) -> "Store":
        """Return a store for another bucket that the same credentials reach."""
        return self if bucket == self.bucket else Store(self.settings, bucket)

    def address(self, key: str) -> str:
        """Return the `s3://` address of a key."""
        return f"s3://{self.bucket}/{key}"

    def ensure_bucket(self) -> None:
        """Create the bucket unless it is there."""
        try:
            self._call(lambda: self._s3.head_bucket(Bucket=self.bucket), "", "find")
        except NotFoundError:
            self._call(self._create_bucket, "", "create")

    # Reading

    def get(self, key: str) -> bytes:
        """Return an object's bytes, checked against their SHA-256 if this library wrote them.

        Bytes that somebody else wrote are checked against an entity tag that is their MD5; where
        the tag is something else, two reads must agree.
        """
        return self._get(key)[0]

    def get_if_present(self, key: str) -> bytes | None:
        """Return an object's bytes, or None when there is no such object."""
        try:
            return self.get(key)
        except NotFoundError:
            return None

    def get_verified(self, key: str, sha256: str) -> bytes:
        """Return an object's bytes after checking them against their SHA-256.

        Raises:
            IntegrityError: the bytes are not those that were promised.
        """
        return self._get(key, sha256)[0]

    def get_json(self, key: str) -> dict[str, Plain]:
        """Return a JSON object."""
        return cast("dict[str, Plain]", json.loads(self.get(key)))

    def get_file(self, key: str, path: Path) -> str:
        """Write an object to `path`, holding one part of it in memory; return its SHA-256.

        Raises:
            TransientError: the object was replaced while it was read.
            IntegrityError: the bytes are not those that were written.
        """
        return read_until_sound(lambda: self._get_file(key, path), self.address(key))

    def get_folder(self, prefix: str, folder: Path) -> Path:
        """Write all objects under a prefix to files of the same relative paths; return `folder`."""
        for found in self.list(prefix):
            path = folder / found.key.removeprefix(prefix)
            path.parent.mkdir(parents=True, exist_ok=True)
            self.get_file(found.key, path)
        return folder

    def head(self, key: str) -> ObjectInfo | None:
        """Return what is known of an object without reading it, None when it is not there."""
        try:
            meta = self._call(lambda: obstore.head(self._objects, key), key, "look up")
        except NotFoundError:
            return None
        return ObjectInfo(key, meta["size"], (meta["e_tag"] or "").strip('"'))

    def exists(self, key: str) -> bool:
        """Tell whether an object is there."""
        return self.head(key) is not None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects under a prefix in key order, a page of 1,000 at a time."""
        for found, _ in self.list_dated(prefix):
            yield found

    def list_dated(self, prefix: str) -> Iterator[tuple[ObjectInfo, datetime]]:
        """Yield the objects under a prefix, each with the time of its last change (UTC)."""
        for page in self._pages(prefix):
            for entry in page.get("Contents", []):
                yield _described(entry), entry["LastModified"]

    def folder(self, prefix: str, limit: int = PAGE_KEYS, after: str = "") -> Folder:
        """List what lies directly under a prefix, in one request whatever lies deeper.

        Args:
            prefix: ends with "/".
            limit: at most this many objects and folders, 1 to 1,000, the first in key order.
            after: only what comes after this key.
        """
        page = self._call(
            lambda: self._s3.list_objects_v2(
                Bucket=self.bucket, Prefix=prefix, Delimiter="/", MaxKeys=limit, StartAfter=after
            ),
            prefix,
            "list",
        )
        return Folder(
            tuple(
                _described(entry)
                for entry in page.get("Contents", [])
                if entry["Key"] != prefix  # how SeaweedFS tells of a folder that was emptied
            ),
            tuple(entry["Prefix"] for entry in page.get("CommonPrefixes", [])),
            complete=not page["IsTruncated"],
        )

    def folders(self, prefix: str) -> Iterator[str]:
        """Yield the prefixes that end in the first `/` after a prefix, in key order.

        What is in them is not listed: one request tells of 1,000 folders, however full.
        """
        for page in self._pages(prefix, delimiter="/"):
            yield from (entry["Prefix"] for entry in page.get("CommonPrefixes", []))

    def unfinished_uploads(self) -> Iterator[UnfinishedUpload]:
        """Yield the uploads in parts that were neither completed nor given up."""
        paginator = self._s3.get_paginator("list_multipart_uploads")
        pages = self._call(
            lambda: list(paginator.paginate(Bucket=self.bucket)), "", "list the uploads of"
        )
        for entry in chain.from_iterable(page.get("Uploads", []) for page in pages):
            yield UnfinishedUpload(entry["Key"], entry["UploadId"], entry["Initiated"])

    def give_up(self, upload: UnfinishedUpload) -> None:
        """Delete the parts of an upload; one that is not there any more is no error."""
        try:
            self._call(
                lambda: self._s3.abort_multipart_upload(
                    Bucket=self.bucket, Key=upload.key, UploadId=upload.identifier
                ),
                upload.key,
                "give up the upload of",
            )
        except (NotFoundError, InputError):
            logger.info("the upload of %s has ended meanwhile", upload.key)

    # Writing

    def put(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> str:
        """Write an object, replacing what is there; return its entity tag."""
        return self._put(key, data, content_type)

    def put_if_absent(
        self, key: str, data: bytes, content_type: str = "application/octet-stream"
    ) -> bool:
        """Create an object; return False, and write nothing, if somebody else took the key."""
        return self._put_if(key, data, content_type, "create")

    def put_immutable(
        self, key: str, data: bytes, content_type: str = "application/octet-stream"
    ) -> bool:
        """Make sure that an object holds these bytes; large ones that it holds are not sent again.

        Returns:
            False, with nothing written, if the key holds other bytes.
        """
        if len(data) > SMALL_BYTES and (found := self.head(key)):
            return found.etag == _md5(data) or self.get(key) == data
        if self.put_if_absent(key, data, content_type):
            return True
        found = self.head(key)
        if found and found.etag == _md5(data):
            return True
        return self.get(key) == data

    def put_json(self, key: str, value: Plain) -> None:
        """Write a JSON object with sorted keys."""
        self.put(key, canonical_json(value), "application/json")

    def put_file(
        self, key: str, path: Path, content_type: str = "application/octet-stream"
    ) -> None:
        """Write a file's bytes, in several parts when it is large."""
        self._put(key, path, content_type)

    def put_named_file(self, key: str, path: Path) -> bool:
        """Write a file under a key that is named by its content, in parts when it is large.

        Returns:
            False, with nothing written, if the object is there already.
        """
        if self.exists(key):
            return False
        self.put_file(key, path)
        return True

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; a key that is not there is no error."""
        for start in range(0, len(keys), 1000):
            batch = keys[start : start + 1000]
            self._call(partial(self._delete, batch), batch[0], f"delete {len(batch)} objects from")

    # Pointers

    def read_pointer(self, key: str) -> tuple[dict[str, Plain] | None, str | None]:
        """Return a pointer's value and the tag to replace it by; (None, None) when unset."""
        try:
            data, tag = self._get(key)
        except NotFoundError:
            return None, None
        return json.loads(data), tag

    def move_pointer(self, key: str, value: Plain, expected_tag: str | None) -> None:
        """Replace a pointer if it is still the one that was read (compare-and-swap).

        Args:
            key: the pointer's key.
            value: the new value.
            expected_tag: the tag from `read_pointer`; None if it was unset.

        Raises:
            ConflictError: somebody else moved it in between; nothing was written.
        """
        mode: PutMode = "create" if expected_tag is None else {"e_tag": expected_tag}
        data = canonical_json(value)
        if self._put_if(key, data, "application/json", mode) or self.get_if_present(key) == data:
            return
        message = f"{self.address(key)} was changed by somebody else: read it again and decide"
        raise ConflictError(message)

    # Inside

    def _get(self, key: str, promised: str | None = None) -> tuple[bytes, str | None]:
        """Return an object's bytes, checked, and its entity tag as the server writes it."""

        def read() -> tuple[bytes, str | None]:
            found = self._call(lambda: self._read(key), key, "read")
            for sha256 in (promised, found.sha256):
                _check(sha256, sha256_hex(found.data))
            if not (promised or found.sha256 or found.matches_tag()):
                again = self._call(lambda: self._read(key), key, "read")
                _check(sha256_hex(found.data), sha256_hex(again.data))
            return bytes(found.data), found.tag

        return read_until_sound(read, self.address(key))

    def _read(self, key: str) -> "_Found":
        if obstore_can_name(key):
            return _Found.of(obstore.get(self._objects, key))
        answer = self._s3.get_object(Bucket=self.bucket, Key=key)
        sha256 = answer["Metadata"].get(SHA256)
        return _Found(answer["Body"].read(), answer["ETag"], answer["ContentLength"], sha256)

    def _get_file(self, key: str, path: Path) -> str:
        digest, promised = hashlib.sha256(), None
        with path.open("wb") as file:
            for part in self._parts(key):
                digest.update(part.data)
                file.write(part.data)
                promised = part.sha256
        _check(promised, digest.hexdigest())
        return digest.hexdigest()

    def _parts(self, key: str) -> Iterator["_Found"]:
        whole = self._call(lambda: obstore.head(self._objects, key), key, "look up")
        for start in range(0, whole["size"], PART_BYTES):
            part = self._call(partial(self._part, key, start), key, "read")
            if (part.tag, part.size) != (whole["e_tag"], whole["size"]):
                message = f"{self.address(key)} was replaced while it was read: read it again"
                raise TransientError(message)
            yield part

    def _part(self, key: str, start: int) -> "_Found":
        span = (start, start + PART_BYTES)
        return _Found.of(obstore.get(self._objects, key, options={"range": span}))

    def _pages(self, prefix: str, delimiter: str = "") -> Iterator["ListObjectsV2OutputTypeDef"]:
        token: str | None = None
        while True:
            page = self._call(partial(self._page, prefix, delimiter, token), prefix, "list")
            yield page
            if not page["IsTruncated"]:
                return
            token = page["NextContinuationToken"]

    def _page(self, prefix: str, delimiter: str, token: str | None) -> "ListObjectsV2OutputTypeDef":
        ask = partial(
            self._s3.list_objects_v2,
            Bucket=self.bucket,
            Prefix=prefix,
            Delimiter=delimiter,
            MaxKeys=PAGE_KEYS,
        )
        return ask() if token is None else ask(ContinuationToken=token)

    def _put(self, key: str, data: bytes | Path, content_type: str) -> str:
        attributes = _attributes(data, content_type)
        result = self._call(lambda: self._write(key, data, attributes, "overwrite"), key, "write")
        return result or ""

    def _put_if(self, key: str, data: bytes, content_type: str, mode: "PutMode") -> bool:
        """Write if a condition is met; tell whether this very call did.

        The answer to a write can be lost after the write took effect. What is tried again is then
        refused, by the object that the first try left; it is known by its token.
        """
        token = uuid4().hex
        attributes = {**_attributes(data, content_type), WRITE: token}

        def write() -> bool:
            try:
                self._write(key, data, attributes, mode)
            except (AlreadyExistsError, PreconditionError):
                return self._last_write(key, required=mode == "create") == token
            return True

        return self._call(write, key, "write")

    def _write(
        self, key: str, data: bytes | Path, attributes: dict[str, str], mode: "PutMode"
    ) -> str | None:
        size = len(data) if isinstance(data, bytes) else data.stat().st_size
        return obstore.put(
            self._objects,
            key,
            data,
            attributes=attributes,
            mode=mode,
            chunk_size=part_bytes(size),
            max_concurrency=PARTS_WRITTEN_AT_ONCE,
        )["e_tag"]

    def _last_write(self, key: str, *, required: bool) -> str | None:
        try:
            found = obstore.get(self._objects, key, options={"head": True})
        except FileNotFoundError as error:
            if required:  # AWS answers so while another write of a new key is under way
                message = f"{self.address(key)} is neither taken nor free: somebody is writing it"
                raise TransientError(message) from error
            return None
        return found.attributes.get(WRITE)

    def _delete(self, keys: Sequence[str]) -> None:
        answer = self._s3.delete_objects(
            Bucket=self.bucket,
            Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True},
        )
        for failure in answer.get("Errors", []):  # the answer as a whole is 200
            code, address = failure.get("Code", ""), self.address(failure.get("Key", ""))
            raise refusal(code, 403 if code == "AccessDenied" else 500, code, address)

    def _create_bucket(self) -> None:
        try:
            self._s3.create_bucket(Bucket=self.bucket)
        except self._s3.exceptions.BucketAlreadyOwnedByYou:
            return  # the answer to a first try was lost, or another process was faster

    def _call(self, operation: Callable[[], R], key: str, verb: str) -> R:
        return self._caller(operation, verb, self.address(key))


@dataclass(frozen=True)
class _Found:
    """Bytes of an object, with its tag, its whole size, and the SHA-256 it was written with."""

    data: "Buffer"
    tag: str | None
    size: int
    sha256: str | None

    @classmethod
    def of(cls, result: "GetResult") -> "_Found":
        meta, sha256 = result.meta, result.attributes.get(SHA256)
        return cls(result.bytes(), meta["e_tag"], meta["size"], sha256)

    def matches_tag(self) -> bool:
        return (self.tag or "").strip('"') == _md5(self.data)


def part_bytes(size: int) -> int:
    """Return of how many bytes each part of an object of `size` bytes is when it is written."""
    return max(PART_BYTES, -(-size // MOST_PARTS))


def _described(entry: "ObjectTypeDef") -> ObjectInfo:
    return ObjectInfo(entry["Key"], entry["Size"], entry["ETag"].strip('"'))


def _attributes(data: bytes | Path, content_type: str) -> dict[str, str]:
    return {"Content-Type": content_type, SHA256: _sha256(data)}


def _sha256(data: bytes | Path) -> str:
    if isinstance(data, bytes):
        return sha256_hex(data)
    with data.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _md5(data: "Buffer") -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _check(promised: str | None, sha256: str) -> None:
    if promised and promised != sha256:
        message = f"does not match its SHA-256 {promised} (it has {sha256})"
        raise CorruptBytesError(message)


def concurrently(
    function: Callable[[T], R], items: Iterable[T], concurrency: int = CONCURRENCY, ahead: int = 0
) -> Iterator[R]:
    """Apply a blocking function with threads, in order, holding at most a window in memory.

    Args:
        function: called once for each item.
        items: consumed only as fast as results are taken.
        concurrency: how many calls are under way at once.
        ahead: how many results may wait to be taken, beside them.
    """
    iterator = iter(items)
    with ThreadPoolExecutor(concurrency) as pool:
        window: list[Future[R]] = [
            pool.submit(function, x) for x in islice(iterator, concurrency + ahead)
        ]
        while window:
            result = window.pop(0).result()
            window.extend(pool.submit(function, x) for x in islice(iterator, 1))
            yield result
