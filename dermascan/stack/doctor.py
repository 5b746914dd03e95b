"""Check a machine and an object storage for what DermaScan needs, and say how to mend it."""

import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from pydantic import SecretStr

from dermascan.errors import DermaScanError, InputError, NotFoundError, TransientError
from dermascan.settings import StorageSettings
from dermascan.stack import object_store, ports, processes
from dermascan.stack.credentials import Credentials
from dermascan.stack.embedded import BUCKET, PART_OF_PORT, EmbeddedStack
from dermascan.stack.environment import inherited_environment
from dermascan.stack.findings import Finding
from dermascan.stack.layout import StackPaths
from dermascan.stack.object_store import LOOPBACK, weed_binary

if TYPE_CHECKING:
    from dermascan.stack.storage_checks import StorageCheck
    from dermascan.storage import Store

GIB = 2**30
OLDEST_PYTHON, NEXT_PYTHON = (3, 11), (3, 14)
DISK_NEEDED, DISK_ADVISED = 3 * GIB, 20 * GIB
MEMORY_NEEDED, MEMORY_ADVISED = 4 * GIB, 8 * GIB
TRIAL_START_SECONDS = 60.0
RETRY_SECONDS = 5.0
PROBE_PREFIX = "dermascan-doctor/"


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

    What is written stays under a prefix of its own and is deleted again. Nothing else is tried
    while the bucket cannot be reached, or while reading, writing, listing or deleting is denied.
    """
    from dermascan.stack import storage_checks as checks  # noqa: PLC0415  # boto3 takes half a second to import
    from dermascan.storage import Store  # noqa: PLC0415  # likewise

    where = f"{settings.endpoint_url or 'AWS'}, bucket {settings.bucket}"
    prefix = f"{PROBE_PREFIX}{uuid.uuid4().hex}/"
    try:
        store = Store(settings.impatient(RETRY_SECONDS))
        trouble = checks.reach(store, prefix)
    except ValueError as error:
        trouble = str(error)
    if trouble:
        remedy = "check address, keys (AWS_ACCESS_KEY_ID ...), bucket name and this machine's clock"
        return [Finding("S3 access", "problem", f"{where}: {trouble}", remedy)]
    findings = [Finding("S3 access", "ok", where), _run(checks.RIGHTS, store, prefix)]
    try:
        if not findings[-1].is_problem:
            findings += [_run(check, store, prefix) for check in checks.STORAGE_CHECKS]
    finally:
        _clean_up(store, prefix)
    return [*findings, Finding("S3 cannot promise", "ok", checks.NOT_PROMISED)]


def _run(check: "StorageCheck", store: "Store", prefix: str) -> Finding:
    started = time.monotonic()
    try:
        flaw = check.flaw(store, prefix)
    except Exception as error:  # noqa: BLE001  # whatever a foreign server provokes is the finding
        flaw = f"{type(error).__name__}: {error}"
    if flaw:
        return Finding(check.name, check.level, flaw, check.remedy)
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
