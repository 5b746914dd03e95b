"""Properties that the pipeline relies on in an object storage, each tried on the real server.

A check writes under a prefix of its own, and returns what is wrong, or None.
"""

import os
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import obstore
from botocore.exceptions import ClientError

from dermascan.errors import ConflictError, DermaScanError, InputError
from dermascan.fingerprint import sha256_hex
from dermascan.storage import PART_BYTES, SHA256, Store

BODY = bytes(range(256)) * 4
RACERS, RACES = 8, 3
# S3 refuses requests that are 15 minutes off; time-outs of signed URLs suffer before that.
SKEW_WARNING_SECONDS, SKEW_PROBLEM_SECONDS = 60, 600

Flaw = str | None


@dataclass(frozen=True)
class StorageCheck:
    """One property that the pipeline relies on.

    Attributes:
        name: shown to the user.
        flaw: tries it in a store under a prefix; says what is wrong, None if nothing is. An
            error is a flaw, too.
        remedy: how to mend it.
        level: how bad a flaw is.
    """

    name: str
    flaw: Callable[[Store, str], Flaw]
    remedy: str
    level: Literal["warning", "problem"] = "problem"


# Rights


def denied_actions(store: Store, prefix: str) -> Flaw:
    """Name the actions, in the words of S3 policies, that the keys do not allow."""
    key = f"{prefix}rights"
    actions: dict[str, Callable[[], object]] = {
        "s3:ListBucket": lambda: next(store.list(prefix), None),
        "s3:PutObject": lambda: store.put(key, BODY),
        "s3:GetObject": lambda: store.get_if_present(key),
        "s3:DeleteObject": lambda: store.delete([key]),
    }
    refused = [action for action, use in actions.items() if _is_refused(use)]
    return f"denied: {', '.join(refused)}" if refused else None


def _is_refused(use: Callable[[], object]) -> bool:
    try:
        use()
    except InputError as error:
        if "access denied" not in str(error):
            raise
        return True
    return False


# Reading and listing what was written


def read_after_write(store: Store, prefix: str) -> Flaw:
    """Read an object right after it was written, replaced and deleted."""
    key = f"{prefix}read"
    if store.get_if_present(key) is not None:
        return "there is an object that nobody wrote"
    for body in (b"first", BODY):
        store.put(key, body)
        if store.get(key) != body:
            return "an object reads as it was before it was replaced"
    store.delete([key])
    return None if store.get_if_present(key) is None else "a deleted object can still be read"


def list_after_write(store: Store, prefix: str) -> Flaw:
    """List objects right after they were written and deleted."""
    folder = f"{prefix}list/"
    keys = [f"{folder}{number}" for number in range(3)]
    if _listed(store, folder):
        return "the listing shows objects that nobody wrote"
    for key in keys:
        store.put(key, b"x")
    if _listed(store, folder) != keys:
        return "the listing lacks objects that were just written"
    store.delete(keys[:1])
    return None if _listed(store, folder) == keys[1:] else "the listing shows deleted objects"


def _listed(store: Store, prefix: str) -> list[str]:
    return [found.key for found in store.list(prefix)]


def ranged_read(store: Store, prefix: str) -> Flaw:
    """Read a part of an object."""
    key = f"{prefix}range"
    store.put(key, BODY)
    part = obstore.get_range(store._objects, key, start=100, end=200)  # noqa: SLF001  # the pipeline reads ranges of large objects only
    return None if bytes(part) == BODY[100:200] else "other bytes came than were asked for"


def multipart_upload(store: Store, prefix: str) -> Flaw:
    """Write and read an object that needs more than one part."""
    key = f"{prefix}large"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large"
        path.write_bytes(os.urandom(PART_BYTES + 1000))
        sha256 = sha256_hex(path.read_bytes())
        store.put_file(key, path)
        return None if store.get_file(key, path) == sha256 else "other bytes came back"


# Writing under a condition


def create_if_absent(store: Store, prefix: str) -> Flaw:
    """Create an object once with `If-None-Match: *`, and try to do so again."""
    key = f"{prefix}create"
    if not store.put_if_absent(key, b"first"):
        return "a new object was refused"
    if store.put_if_absent(key, b"second") or store.get(key) != b"first":
        return "an object that exists was replaced"
    return None


def replace_if_unchanged(store: Store, prefix: str) -> Flaw:
    """Replace an object with `If-Match`, and try to with a tag that is out of date."""
    key = f"{prefix}pointer"
    store.move_pointer(key, {"version": 1}, None)
    _, tag = store.read_pointer(key)
    store.move_pointer(key, {"version": 2}, tag)
    try:
        store.move_pointer(key, {"version": 3}, tag)
    except ConflictError:
        if store.get_json(key) == {"version": 2}:
            return None
    return "an object that somebody else had changed was replaced"


def race_to_create(store: Store, prefix: str) -> Flaw:
    """Let several threads create the same object at the same instant."""

    def create(key: str, racer: int) -> bool:
        return store.put_if_absent(key, b"racer %d" % racer)

    return _race(store, f"{prefix}race-create", create, lambda _key: None)


def race_to_replace(store: Store, prefix: str) -> Flaw:
    """Let several threads replace the same object at the same instant."""
    tags: dict[str, str | None] = {}

    def replace(key: str, racer: int) -> bool:
        try:
            store.move_pointer(key, {"racer": racer}, tags[key])
        except ConflictError:
            return False
        return True

    def prepare(key: str) -> None:
        store.put_json(key, {"racer": None})
        tags[key] = store.read_pointer(key)[1]

    return _race(store, f"{prefix}race-replace", replace, prepare)


def _race(
    store: Store,
    prefix: str,
    run: Callable[[str, int], bool],
    prepare: Callable[[str], None],
) -> Flaw:
    for race in range(RACES):
        key = f"{prefix}/{race}"
        prepare(key)
        start = threading.Barrier(RACERS)

        def racer(number: int, key: str = key, start: threading.Barrier = start) -> bool:
            start.wait()
            return run(key, number)

        with ThreadPoolExecutor(RACERS) as pool:
            winners = [number for number, won in enumerate(pool.map(racer, range(RACERS))) if won]
        if len(winners) != 1:
            return f"of {RACERS} that wrote at once {len(winners)} were told that they won"
        if f"{winners[0]}".encode() not in store.get(key):
            return "of several that wrote at once another one won than was told so"
    return None


# Checksums, metadata, time


def rejects_wrong_checksum(store: Store, prefix: str) -> Flaw:
    """Write an object with a SHA-256 that is not its own."""
    try:
        store._s3.put_object(  # noqa: SLF001  # the store itself sends right checksums only
            Bucket=store.bucket, Key=f"{prefix}checksum", Body=BODY, ChecksumSHA256="A" * 43 + "="
        )
    except ClientError as error:
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        return None if status == 400 else f"a wrong SHA-256 was answered with {status}"
    return "an object with a wrong SHA-256 was accepted"


def keeps_metadata(store: Store, prefix: str) -> Flaw:
    """Read the metadata that an object was written with."""
    key = f"{prefix}metadata"
    store.put(key, BODY)
    found = obstore.get(store._objects, key).attributes.get(SHA256)  # noqa: SLF001  # likewise
    return None if found == sha256_hex(BODY) else "x-amz-meta-sha256 was not kept"


def clock_skew(store: Store, _prefix: str) -> Flaw:
    """Compare the server's clock with this machine's."""
    return _skew_over(store, SKEW_PROBLEM_SECONDS)


def slight_clock_skew(store: Store, _prefix: str) -> Flaw:
    """Compare the clocks closely."""
    return _skew_over(store, SKEW_WARNING_SECONDS)


def _skew_over(store: Store, limit: float) -> Flaw:
    answer = store._s3.head_bucket(Bucket=store.bucket)["ResponseMetadata"]  # noqa: SLF001  # the store hides headers
    date = answer["HTTPHeaders"].get("date")
    if date is None:
        return "the server does not tell its time"
    skew = (parsedate_to_datetime(date) - datetime.now(UTC)).total_seconds()
    if abs(skew) <= limit:
        return None
    return f"the server's clock is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}"


# Settings of the bucket and of the line


def versioning(store: Store, _prefix: str) -> Flaw:
    """Ask whether what is deleted or replaced stays as an old version."""
    try:
        answer = store._s3.get_bucket_versioning(Bucket=store.bucket)  # noqa: SLF001  # administration
    except ClientError as error:
        return _untold(error)
    state = answer.get("Status")
    return f"versioning is {state.lower()}: what is replaced or deleted stays" if state else None


def object_lock(store: Store, _prefix: str) -> Flaw:
    """Ask whether objects cannot be deleted for a time."""
    try:
        answer = store._s3.get_object_lock_configuration(Bucket=store.bucket)  # noqa: SLF001  # administration
    except ClientError as error:
        return _untold(error)
    rule = answer["ObjectLockConfiguration"].get("Rule", {}).get("DefaultRetention")
    if not rule:
        return None
    span = f"{rule['Days']} days" if "Days" in rule else f"{rule.get('Years')} years"
    return f"each object is locked for {span} ({rule.get('Mode', '').lower()})"


def _untold(error: ClientError) -> Flaw:
    """Return None where the server has no such setting, else that it does not tell."""
    code = error.response["Error"].get("Code", "")
    if error.response["ResponseMetadata"]["HTTPStatusCode"] == 403:
        return f"the keys do not allow to ask ({code})"
    return None


def plain_http(store: Store, _prefix: str) -> Flaw:
    """Ask whether bytes travel without TLS over a network."""
    parts = urlsplit(store.settings.endpoint_url or "https://")
    if parts.scheme == "https" or parts.hostname in {"127.0.0.1", "::1", "localhost"}:
        return None
    return "plain http: S3 sends listings without a checksum, and anybody on the way can read"


CACHES = "switch off caches in front of the server"
CONDITIONAL_WRITES = (
    "use a server with conditional writes (AWS S3, MinIO, SeaweedFS, Ceph from Squid on) and let "
    "proxies pass If-Match and If-None-Match: without them two runs at once can overwrite each "
    "other's pointers"
)
CLOCKS = "set both clocks by NTP"
RIGHTS = StorageCheck(
    "S3 permissions",
    denied_actions,
    "allow them for these keys in this bucket; `dermascan policy` prints policies for each role",
)
STORAGE_CHECKS = (
    StorageCheck("S3 read after write", read_after_write, CACHES),
    StorageCheck("S3 list after write", list_after_write, CACHES),
    StorageCheck("S3 ranged read", ranged_read, "allow the header Range in proxies"),
    StorageCheck(
        "S3 multipart upload",
        multipart_upload,
        "allow s3:AbortMultipartUpload, and bodies of 8 MiB in proxies",
    ),
    StorageCheck("S3 create once (If-None-Match)", create_if_absent, CONDITIONAL_WRITES),
    StorageCheck("S3 compare and swap (If-Match)", replace_if_unchanged, CONDITIONAL_WRITES),
    StorageCheck("S3 create race", race_to_create, CONDITIONAL_WRITES),
    StorageCheck("S3 replace race", race_to_replace, CONDITIONAL_WRITES),
    StorageCheck(
        "S3 checksum",
        rejects_wrong_checksum,
        "use a server that checks x-amz-checksum-sha256: bytes that change on the way to this one "
        "are noticed only when they are read",
    ),
    StorageCheck(
        "S3 metadata",
        keeps_metadata,
        "let proxies pass x-amz-meta-*: it holds the SHA-256 of each object, and tells a write "
        "whose answer was lost from a lost race",
    ),
    StorageCheck("S3 clock", clock_skew, CLOCKS),
    StorageCheck("S3 clock to the minute", slight_clock_skew, CLOCKS, "warning"),
    StorageCheck(
        "S3 versioning",
        versioning,
        "no harm to the pipeline; give the bucket a lifecycle rule that removes old versions",
        "warning",
    ),
    StorageCheck(
        "S3 object lock",
        object_lock,
        "keep models/ in such a bucket if at all: staging/ and old checkpoints are meant to go",
        "warning",
    ),
    StorageCheck("S3 encryption on the way", plain_http, "use an https endpoint", "warning"),
)
NOT_PROMISED = (
    "no server checks listings, changes two objects at once, or tells whether a write took effect "
    "when its answer is lost and somebody else has replaced it since"
)


def reach(store: Store, prefix: str) -> str | None:
    """Say why the bucket cannot be reached, None if it can, allowed or not."""
    try:
        next(store.list(prefix), None)
    except InputError as error:
        return None if "access denied (AccessDenied)" in str(error) else str(error)
    except (DermaScanError, ValueError) as error:
        return str(error)
    return None
