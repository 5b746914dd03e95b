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
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import boto3
import obstore
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import S3Store

from dermascan.errors import (
    ConflictError,
    InputError,
    IntegrityError,
    NotFoundError,
    TransientError,
)
from dermascan.fingerprint import Plain, canonical_json, sha256_hex
from dermascan.settings import StorageSettings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from obstore import ObjectMeta
    from obstore.store import S3Config

logger = logging.getLogger(__name__)

CONCURRENCY = 32
# A large object moves in parts of this size, each its own request: a request may take
# REQUEST_SECONDS, so a line must carry one part in that time, or all the parts that are written
# at once (here 4.5 Mbit/s), however large the object is.
PART_BYTES = 8 * 1024 * 1024
PARTS_WRITTEN_AT_ONCE = 4
REQUEST_SECONDS = 60
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class ObjectInfo:
    """What a listing says of one object: key, size in bytes, entity tag without quotes."""

    key: str
    size: int
    etag: str


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

    Raises, from every method: `NotFoundError` for a missing object, `TransientError`
    when the server cannot be reached or answers with an error that may pass.
    """

    def __init__(self, settings: StorageSettings, bucket: str | None = None) -> None:
        self.settings = settings
        self.bucket = bucket or settings.bucket
        self._objects = _obstore_client(settings, self.bucket)
        self._s3 = _boto3_client(settings)

    def in_bucket(self, bucket: str) -> "Store":
        """Return a store for another bucket that the same credentials reach."""
        return self if bucket == self.bucket else Store(self.settings, bucket)

    def address(self, key: str) -> str:
        """Return the `s3://` address of a key."""
        return f"s3://{self.bucket}/{key}"

    def ensure_bucket(self) -> None:
        """Create the bucket unless it is there."""
        try:
            self._call(lambda: self._s3.head_bucket(Bucket=self.bucket), "")
        except NotFoundError:
            self._call(lambda: self._s3.create_bucket(Bucket=self.bucket), "")

    # Reading

    def get(self, key: str) -> bytes:
        """Return an object's bytes."""
        if not _obstore_can_name(key):
            return self._call(
                lambda: bytes(self._s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()), key
            )
        return self._call(lambda: bytes(obstore.get(self._objects, key).bytes()), key)

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
        data = self.get(key)
        if sha256_hex(data) != sha256:
            message = f"{self.address(key)} does not match its SHA-256 {sha256}: restore the object"
            raise IntegrityError(message)
        return data

    def get_json(self, key: str) -> dict[str, Plain]:
        """Return a JSON object."""
        return cast("dict[str, Plain]", json.loads(self.get(key)))

    def get_file(self, key: str, path: Path) -> str:
        """Write an object to `path`, holding one part of it in memory; return its SHA-256.

        Raises:
            TransientError: the object was replaced while it was read.
        """
        digest = hashlib.sha256()
        with path.open("wb") as file:
            for chunk in self._parts(key):
                digest.update(chunk)
                file.write(chunk)
        return digest.hexdigest()

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
            meta = self._call(lambda: obstore.head(self._objects, key), key)
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
        pages = self._s3.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=prefix
        )
        iterator = iter(pages)
        while True:
            page = self._call(lambda: next(iterator, None), prefix)
            if page is None:
                return
            for entry in page.get("Contents", []):
                found = ObjectInfo(entry["Key"], entry["Size"], entry["ETag"].strip('"'))
                yield found, entry["LastModified"]

    def unfinished_uploads(self) -> Iterator[UnfinishedUpload]:
        """Yield the uploads in parts that were neither completed nor given up."""
        pages = iter(self._s3.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket))
        while True:
            page = self._call(lambda: next(pages, None), "")
            if page is None:
                return
            for entry in page.get("Uploads", []):
                yield UnfinishedUpload(entry["Key"], entry["UploadId"], entry["Initiated"])

    def give_up(self, upload: UnfinishedUpload) -> None:
        """Delete the parts of an upload; one that is not there any more is no error."""
        try:
            self._call(
                lambda: self._s3.abort_multipart_upload(
                    Bucket=self.bucket, Key=upload.key, UploadId=upload.identifier
                ),
                upload.key,
            )
        except (NotFoundError, InputError):
            logger.info("the upload of %s has ended meanwhile", upload.key)

    # Writing

    def put(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> str:
        """Write an object, replacing what is there; return its entity tag."""
        return self._put(key, data, content_type, "overwrite")

    def put_if_absent(
        self, key: str, data: bytes, content_type: str = "application/octet-stream"
    ) -> bool:
        """Create an object; return False, and write nothing, if the key is taken."""
        try:
            self._put(key, data, content_type, "create")
        except AlreadyExistsError:
            return False
        return True

    def put_immutable(
        self, key: str, data: bytes, content_type: str = "application/octet-stream"
    ) -> bool:
        """Make sure that an object holds these bytes, moving none if it does already.

        Returns:
            False, with nothing written, if the key holds other bytes.
        """
        found = self.head(key)
        if found is None and self.put_if_absent(key, data, content_type):
            return True
        if found and found.etag == hashlib.md5(data, usedforsecurity=False).hexdigest():
            return True
        return self.get(key) == data

    def put_json(self, key: str, value: Plain) -> None:
        """Write a JSON object with sorted keys."""
        self.put(key, canonical_json(value), "application/json")

    def put_file(
        self, key: str, path: Path, content_type: str = "application/octet-stream"
    ) -> None:
        """Write a file's bytes, in several parts when it is large."""
        self._put(key, path, content_type, "overwrite")

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; a key that is not there is no error."""
        for start in range(0, len(keys), 1000):
            batch = [{"Key": key} for key in keys[start : start + 1000]]
            self._call(
                lambda batch=batch: self._s3.delete_objects(  # type: ignore[misc]  # default binds the loop variable
                    Bucket=self.bucket, Delete={"Objects": batch, "Quiet": True}
                ),
                f"{len(batch)} objects",
            )

    # Pointers

    def read_pointer(self, key: str) -> tuple[dict[str, Plain] | None, str | None]:
        """Return a pointer's value and the tag to replace it by; (None, None) when unset."""
        try:
            result = self._call(lambda: obstore.get(self._objects, key), key)
        except NotFoundError:
            return None, None
        return json.loads(bytes(result.bytes())), result.meta["e_tag"]

    def move_pointer(self, key: str, value: Plain, expected_tag: str | None) -> None:
        """Replace a pointer if it is still the one that was read (compare-and-swap).

        Args:
            key: the pointer's key.
            value: the new value.
            expected_tag: the tag from `read_pointer`; None if it was unset.

        Raises:
            ConflictError: somebody else moved it in between; nothing was written.
        """
        mode = "create" if expected_tag is None else {"e_tag": expected_tag}
        data = canonical_json(value)
        try:
            self._put(key, data, "application/json", mode)
        except (AlreadyExistsError, PreconditionError) as error:
            if self.get_if_present(key) == data:
                return  # our own write, whose answer was lost before obstore tried again
            message = f"{self.address(key)} was changed by somebody else: read it again and decide"
            raise ConflictError(message) from error

    # Inside

    def _parts(self, key: str) -> Iterator[bytes]:
        whole = self._call(lambda: obstore.head(self._objects, key), key)
        for start in range(0, whole["size"], PART_BYTES):
            meta, chunk = self._call(lambda at=start: self._part(key, at), key)  # type: ignore[misc]  # default binds the loop variable
            if (meta["e_tag"], meta["size"]) != (whole["e_tag"], whole["size"]):
                message = f"{self.address(key)} was replaced while it was read: read it again"
                raise TransientError(message)
            yield chunk

    def _part(self, key: str, start: int) -> "tuple[ObjectMeta, bytes]":
        span = (start, start + PART_BYTES)
        result = obstore.get(self._objects, key, options={"range": span})
        return result.meta, bytes(result.bytes())

    def _put(self, key: str, data: bytes | Path, content_type: str, mode: object) -> str:
        result = self._call(
            lambda: obstore.put(
                self._objects,
                key,
                data,
                attributes={"Content-Type": content_type},
                mode=mode,  # type: ignore[arg-type]  # obstore's PutMode is a stub-only name
                chunk_size=PART_BYTES,
                max_concurrency=PARTS_WRITTEN_AT_ONCE,
            ),
            key,
        )
        return result["e_tag"] or ""

    def _call(self, operation: Callable[[], R], key: str) -> R:
        try:
            return operation()
        except (AlreadyExistsError, PreconditionError):
            raise
        except FileNotFoundError as error:  # what obstore raises for a missing object
            message = f"{self.address(key)} does not exist"
            raise NotFoundError(message) from error
        except ClientError as error:
            raise _translated(error, self.address(key)) from error
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise InputError(_denied(self.address(key), type(error).__name__)) from error
        except (BaseError, BotoCoreError) as error:
            summary = str(error).splitlines()[0]
            message = f"{self.address(key)}: object storage failed: {summary}"
            raise TransientError(message) from error


def concurrently(
    function: Callable[[T], R], items: Iterable[T], concurrency: int = CONCURRENCY
) -> Iterator[R]:
    """Apply a blocking function with threads, in order, holding at most a window in memory.

    Args:
        function: called once for each item.
        items: consumed only as fast as results are taken.
        concurrency: how many calls are under way at once.
    """
    iterator = iter(items)
    with ThreadPoolExecutor(concurrency) as pool:
        window: list[Future[R]] = [pool.submit(function, x) for x in islice(iterator, concurrency)]
        while window:
            result = window.pop(0).result()
            window.extend(pool.submit(function, x) for x in islice(iterator, 1))
            yield result


def _obstore_client(settings: StorageSettings, bucket: str) -> S3Store:
    secret = settings.secret_access_key
    config = {
        "region": settings.region,
        "checksum_algorithm": "SHA256",
        "endpoint": settings.endpoint_url,
        "access_key_id": settings.access_key_id,
        "secret_access_key": secret.get_secret_value() if secret else None,
    }
    return S3Store(
        bucket,
        config=cast("S3Config", {name: value for name, value in config.items() if value}),
        client_options={
            "allow_http": True,
            "timeout": f"{REQUEST_SECONDS}s",
            "connect_timeout": "5s",
        },
    )


def _boto3_client(settings: StorageSettings) -> "S3Client":
    secret = settings.secret_access_key
    return boto3.client(
        "s3",
        endpoint_url=settings.endpoint_url,
        region_name=settings.region,
        aws_access_key_id=settings.access_key_id,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
        config=Config(
            connect_timeout=5,
            read_timeout=REQUEST_SECONDS,
            retries={"max_attempts": 5, "mode": "standard"},
            s3={"addressing_style": "path" if settings.endpoint_url else "auto"},
        ),
    )


def _obstore_can_name(key: str) -> bool:
    segments = key.split("/")
    plain = all(segment not in ("", ".", "..") for segment in segments)
    return plain and key.isprintable()


def _denied(address: str, code: str) -> str:
    return f"{address}: access denied ({code}): check the connection's keys and policy"


def _translated(error: ClientError, address: str) -> Exception:
    code = error.response.get("Error", {}).get("Code", "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in {"NoSuchKey", "NoSuchBucket", "404"}:
        return NotFoundError(f"{address} does not exist ({code})")
    if status in {401, 403}:
        return InputError(_denied(address, code))
    if 400 <= status < 500 and status != 429:
        return InputError(f"{address}: the request was refused ({code})")
    return TransientError(f"{address}: object storage failed ({code or status})")
