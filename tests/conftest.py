"""A real S3 server for the whole test session, and a fresh bucket for each test."""

import os
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings
from pydantic import SecretStr
from roles import add_roles

from dermascan.settings import StorageSettings
from dermascan.stack.object_store import (
    GRPC_PORT_OFFSET,
    server_command,
    server_environment,
    write_identity,
)
from dermascan.storage import Store

STARTUP_SECONDS = 60

# Property tests look for new cases on a developer's machine; a change that waits to land is
# judged by the same cases each time.
hypothesis_settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    hypothesis_settings.load_profile("ci")


def _free_ports(count: int) -> list[int]:
    """Find ports that are free together with their gRPC twins, below the ephemeral range."""
    ports: list[int] = []
    start = 11_000 + uuid.uuid4().int % 8_000
    for port in range(start, start + 2_000):
        if all(_is_free(p) for p in (port, port + GRPC_PORT_OFFSET)):
            ports.append(port)
        if len(ports) == count:
            return ports
    raise RuntimeError("no free ports for the test's S3 server")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _wait_until_ready(settings: StorageSettings, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + STARTUP_SECONDS
    while True:
        try:
            Store(settings.impatient(), "readiness").ensure_bucket()
        except Exception:
            if server.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


@pytest.fixture(scope="session")
def storage_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StorageSettings]:
    folder: Path = tmp_path_factory.mktemp("object-store")
    ports = _free_ports(4)
    secret = uuid.uuid4().hex
    write_identity(folder / "identity.json", "tests", secret)
    add_roles(folder / "identity.json", secret)
    (folder / "data").mkdir()
    command = server_command(folder / "data", folder / "identity.json", tuple(ports))
    settings = StorageSettings(
        bucket="unused",
        endpoint_url=f"http://127.0.0.1:{ports[0]}",
        access_key_id="tests",
        secret_access_key=SecretStr(secret),
    )
    environment = {**os.environ, **server_environment()}
    log = (folder / "log").open("wb")
    with log, subprocess.Popen(command, stdout=log, stderr=log, env=environment) as server:
        try:
            _wait_until_ready(settings, server)
            yield settings
        finally:
            server.kill()


@pytest.fixture
def store(storage_settings: StorageSettings) -> Store:
    bucket_store = Store(storage_settings, f"test-{uuid.uuid4().hex[:16]}")
    bucket_store.ensure_bucket()
    return bucket_store
