"""Check a machine and an object storage for what DermaScan needs, and say how to mend it."""

import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psutil
from pydantic import SecretStr

from dermascan.errors import (
    ConflictError,
    DermaScanError,
    InputError,
    NotFoundError,
    TransientError,
)
from dermascan.settings import StorageSettings
from dermascan.stack import object_store, ports, processes
from dermascan.stack.credentials import Credentials
from dermascan.stack.embedded import BUCKET, PART_OF_PORT, EmbeddedStack
from dermascan.stack.environment import inherited_environment
from dermascan.stack.layout import StackPaths
from dermascan.stack.object_store import LOOPBACK, weed_binary

if TYPE_CHECKING:
    from dermascan.storage import Store

GIB = 2**30
OLDEST_PYTHON, NEXT_PYTHON = (3, 11), (3, 14)
DISK_NEEDED, DISK_ADVISED = 3 * GIB, 20 * GIB
MEMORY_NEEDED, MEMORY_ADVISED = 4 * GIB, 8 * GIB
TRIAL_START_SECONDS = 60.0
RETRY_SECONDS = 5.0
PROBE_PREFIX = "dermascan-doctor/"
PROBE_BODY = bytes(range(256)) * 4


@dataclass(frozen=True)
class Finding:
    """The result of one check, and what to do about it."""

    check: str
    level: Literal["ok", "warning", "problem"]
    detail: str
    remedy: str = ""

    @property
    def is_problem(self) -> bool:
        """Whether DermaScan cannot work as things are."""
        return self.level == "problem"


# The machine


def examine_machine(stack: EmbeddedStack) -> list[Finding]:
    """Check Python, disk, memory, the S3 program and the ports of the embedded stack."""
    folder = stack.paths.state if stack.paths.state.exists() else stack.paths.project
    memory = psutil.virtual_memory()
    return [
        check_python(sys.version_info[:2]),
        check_disk(folder, shutil.disk_usage(folder).free),
        check_memory(memory.total, memory.available),
        check_program(),
        *check_ports(stack),
    ]


def check_python(version: tuple[int, int]) -> Finding:
    """Check the interpreter's version."""
    name = ".".join(map(str, version))
    if OLDEST_PYTHON <= version < NEXT_PYTHON:
        return Finding("Python", "ok", name)
    return Finding(
        "Python",
        "problem",
        f"{name}; 3.11, 3.12 or 3.13 is needed",
        "remove .venv and run `make PYTHON=/path/to/python3.12 environment`",
    )


def check_disk(folder: Path, free: int) -> Finding:
    """Check the room left on the disk of the stack's folder, in bytes."""
    detail = f"{free / GIB:.1f} GiB free in {folder}"
    if free < DISK_NEEDED:
        needed = f"free at least {DISK_NEEDED / GIB:.0f} GiB, or move the project"
        return Finding("disk", "problem", detail, needed)
    if free < DISK_ADVISED:
        advice = "enough for the demo; all of HAM10000 in full size with models wants 20 GiB"
        return Finding("disk", "warning", detail, advice)
    return Finding("disk", "ok", detail)


def check_memory(total: int, available: int) -> Finding:
    """Check the memory of the machine, in bytes."""
    detail = f"{total / GIB:.1f} GiB, of which {available / GIB:.1f} GiB are available"
    if total < MEMORY_NEEDED:
        return Finding("memory", "problem", detail, "use a machine with at least 4 GiB")
    if total < MEMORY_ADVISED or available < MEMORY_NEEDED / 2:
        return Finding("memory", "warning", detail, "close other programs before training")
    return Finding("memory", "ok", detail)


def check_program() -> Finding:
    """Check that the S3 server's program is installed."""
    try:
        return Finding("S3 program", "ok", weed_binary())
    except NotFoundError as error:
        return Finding("S3 program", "problem", str(error), "run `make environment`")


def check_ports(stack: EmbeddedStack) -> list[Finding]:
    """Check that each part of the stack has its port, or can have it."""
    chosen = stack.ports
    findings = []
    for wish in ports.WISHES:
        port, part = getattr(chosen, wish.field), PART_OF_PORT[wish.field]
        check = f"port {port} ({wish.part})"
        if stack.since(part):
            findings.append(Finding(check, "ok", "in use by this stack"))
        elif ports.is_free(port):
            findings.append(Finding(check, "ok", "free"))
        else:
            taken = f"taken by {ports.owner_of(port) or 'another program'}"
            remedy = f"stop that, or start with `dermascan up {wish.option} PORT`"
            findings.append(Finding(check, "problem", taken, remedy))
    return findings


# The object storage


def examine_embedded_storage(stack: EmbeddedStack) -> list[Finding]:
    """Check the stack's S3 server, or, while that is stopped, one started for the purpose."""
    if stack.since(object_store.NAME):
        return examine_storage(stack.storage_settings())
    try:
        with _trial_server() as settings:
            return examine_storage(settings)
    except DermaScanError as error:
        remedy = "see whether security software stops the program `weed`"
        return [Finding("S3 server", "problem", str(error), remedy)]


def examine_own_storage(
    endpoint_url: str | None, bucket: str | None, environment: Mapping[str, str] = os.environ
) -> list[Finding]:
    """Check an S3 server of the user's, with the keys of the usual AWS variables.

    Args:
        endpoint_url: None for AWS itself.
        bucket: where a few small objects are written and deleted again.
        environment: holds `AWS_ACCESS_KEY_ID` and so on.

    Raises:
        InputError: no bucket is named.
    """
    if bucket is None:
        raise InputError("name a bucket to check in with --bucket")
    secret = environment.get("AWS_SECRET_ACCESS_KEY")
    return examine_storage(
        StorageSettings(
            bucket=bucket,
            endpoint_url=endpoint_url,
            region=environment.get("AWS_DEFAULT_REGION", "us-east-1"),
            access_key_id=environment.get("AWS_ACCESS_KEY_ID"),
            secret_access_key=SecretStr(secret) if secret else None,
        )
    )


def examine_storage(settings: StorageSettings) -> list[Finding]:
    """Check what DermaScan asks of an object storage, in a bucket that exists.

    What is written stays under a prefix of its own and is deleted again.
    """
    from dermascan.storage import Store  # noqa: PLC0415  # boto3 takes half a second to import

    where = f"{settings.endpoint_url or 'AWS'}, bucket {settings.bucket}"
    try:
        store = Store(settings.impatient(RETRY_SECONDS))
        next(store.list(PROBE_PREFIX), None)
    except (DermaScanError, ValueError) as error:
        remedy = "check address, keys (AWS_ACCESS_KEY_ID ...), bucket name and policy"
        return [Finding("S3 access", "problem", f"{where}: {error}", remedy)]
    prefix = f"{PROBE_PREFIX}{uuid.uuid4().hex}/"
    try:
        checks = [_run(check, store, prefix) for check in STORAGE_CHECKS]
    finally:
        _clean_up(store, prefix)
    return [Finding("S3 access", "ok", where), *checks]


@dataclass(frozen=True)
class StorageCheck:
    """One property that the pipeline relies on.

    Attributes:
        name: shown to the user.
        holds: tries it in a store under a prefix; False, or an error, if it does not hold.
        remedy: what to do if it does not hold.
    """

    name: str
    holds: Callable[["Store", str], bool]
    remedy: str


def read_after_write(store: "Store", prefix: str) -> bool:
    """Whether an object reads back at once, also after it was replaced."""
    key = f"{prefix}read"
    store.put(key, b"first")
    store.put(key, PROBE_BODY)
    return store.get(key) == PROBE_BODY


def list_after_write(store: "Store", prefix: str) -> bool:
    """Whether a listing shows what was just written and not what was just deleted."""
    keys = [f"{prefix}list/{number}" for number in range(3)]
    for key in keys:
        store.put(key, b"x")
    store.delete(keys[:1])
    return [info.key for info in store.list(f"{prefix}list/")] == keys[1:]


def ranged_read(store: "Store", prefix: str) -> bool:
    """Whether a part of an object can be read."""
    import obstore  # noqa: PLC0415  # slow to import, only here

    key = f"{prefix}range"
    store.put(key, PROBE_BODY)
    objects = store._objects  # noqa: SLF001  # the pipeline itself has no ranged read to call
    return bytes(obstore.get_range(objects, key, start=100, end=200)) == PROBE_BODY[100:200]


def create_if_absent(store: "Store", prefix: str) -> bool:
    """Whether `If-None-Match: *` lets an object be created once only."""
    key = f"{prefix}create"
    first = store.put_if_absent(key, b"first")
    second = store.put_if_absent(key, b"second")
    return first and not second and store.get(key) == b"first"


def replace_if_unchanged(store: "Store", prefix: str) -> bool:
    """Whether `If-Match` refuses to replace an object that somebody else has changed."""
    key = f"{prefix}pointer"
    store.move_pointer(key, {"version": 1}, None)
    _, tag = store.read_pointer(key)
    store.move_pointer(key, {"version": 2}, tag)
    try:
        store.move_pointer(key, {"version": 3}, tag)
    except ConflictError:
        return store.get_json(key) == {"version": 2}
    return False


CONDITIONAL_WRITES = (
    "use a server with conditional writes (AWS S3, MinIO, SeaweedFS, Ceph from Squid on): "
    "without them two runs at once can overwrite each other's pointers"
)
STORAGE_CHECKS = (
    StorageCheck("S3 read after write", read_after_write, "switch off caches before the server"),
    StorageCheck("S3 list after write", list_after_write, "switch off caches before the server"),
    StorageCheck("S3 ranged read", ranged_read, "allow the header Range in proxies"),
    StorageCheck("S3 create once (If-None-Match)", create_if_absent, CONDITIONAL_WRITES),
    StorageCheck("S3 compare and swap (If-Match)", replace_if_unchanged, CONDITIONAL_WRITES),
)


def _run(check: StorageCheck, store: "Store", prefix: str) -> Finding:
    started = time.monotonic()
    try:
        holds = check.holds(store, prefix)
    except Exception as error:  # noqa: BLE001  # whatever a foreign server provokes is the finding
        return Finding(check.name, "problem", f"{type(error).__name__}: {error}", check.remedy)
    if not holds:
        return Finding(check.name, "problem", "does not hold", check.remedy)
    return Finding(check.name, "ok", f"in {1000 * (time.monotonic() - started):.0f} ms")


def _clean_up(store: "Store", prefix: str) -> None:
    try:
        store.delete([info.key for info in store.list(prefix)])
    except DermaScanError:
        return  # the checks have told already what is wrong with the server


@contextmanager
def _trial_server() -> Iterator[StorageSettings]:
    with tempfile.TemporaryDirectory(prefix="dermascan-doctor-") as folder:
        paths = StackPaths.of_project(Path(folder))
        paths.create()
        keys = Credentials.generate()
        chosen = ports.with_internal_ports(ports.Ports(s3=ports.any_free()))
        launch = object_store.launch(paths, chosen.object_store, keys, inherited_environment())
        record = processes.start(launch, paths.logs / "s3.log", paths.state)
        settings = StorageSettings(
            bucket=BUCKET,
            endpoint_url=f"http://{LOOPBACK}:{chosen.s3}",
            access_key_id=keys.s3_access_key_id,
            secret_access_key=keys.s3_secret_access_key,
        )
        try:
            _wait_for(settings, record, paths)
            yield settings
        finally:
            processes.stop([record], paths.state, grace=0)


def _wait_for(
    settings: StorageSettings, record: processes.ProcessRecord, paths: StackPaths
) -> None:
    from dermascan.storage import Store  # noqa: PLC0415  # boto3 takes half a second to import

    deadline = time.monotonic() + TRIAL_START_SECONDS
    while True:
        try:
            store = Store(settings.impatient())
            store.ensure_bucket()
            store.put(PROBE_PREFIX, b"ready")
        except DermaScanError as error:
            if not processes.is_running(record) or time.monotonic() > deadline:
                end = "\n".join(processes.last_lines(paths.logs / "s3.log", 5))
                raise TransientError(f"a trial S3 server did not come up:\n{end}") from error
            time.sleep(0.2)
        else:
            return
