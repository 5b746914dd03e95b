"""The whole of docker-compose.yml, running as processes beside an archive of drawn images."""

import asyncio
import threading
from collections.abc import Iterator, Mapping

import pytest
from compose.processes import PROJECT, Host, running
from compose.specification import read_environment, services
from live import live
from pydantic import SecretStr
from starlette.types import ASGIApp, Receive, Scope, Send

from dermascan.isic.archive import create_app
from dermascan.isic.synthetic import write_archive
from dermascan.settings import StorageSettings
from dermascan.stack.airflow_api import AirflowApi
from dermascan.stack.compose import write_environment
from dermascan.stack.credentials import ADMIN
from dermascan.storage import Store

IMAGES = 60
HEARTBEAT_TIMEOUT = 20  # seconds; a test has no minute to wait
# What the smallest of models passes.
GATE = """
rules:
  - name: enough images
    metric: images
    comparison: at_least
    threshold: 1
    why: the workers are on trial, not the model
"""


class Turnstile:
    """An archive that lets those who ask for images wait as long as it is shut."""

    def __init__(self, archive: ASGIApp) -> None:
        self._archive = archive
        self._open, self._somebody_waits = threading.Event(), threading.Event()
        self._open.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        while not self._open.is_set() and scope.get("path", "").startswith("/files/"):
            self._somebody_waits.set()
            await asyncio.sleep(0.1)
        await self._archive(scope, receive, send)

    def shut(self) -> None:
        self._somebody_waits.clear()
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def wait_for_somebody(self, seconds: float) -> None:
        assert self._somebody_waits.wait(seconds), "nobody asks for an image"


@pytest.fixture(scope="module")
def turnstile(tmp_path_factory) -> Turnstile:
    folder = tmp_path_factory.mktemp("drawn")
    write_archive(folder, images=IMAGES, seed=3)
    return Turnstile(create_app(folder))


@pytest.fixture(scope="module")
def variables(tmp_path_factory, turnstile) -> Iterator[dict[str, str]]:
    """Yield what a user's `.env` holds, with the archive's address and a short timeout."""
    written = write_environment(tmp_path_factory.mktemp("project"), "seaweedfs")
    with live(turnstile) as url:
        yield {
            **read_environment(written),
            # A name, as 127.0.0.1 means the container itself.
            "DERMASCAN_ISIC_URL": url.replace("127.0.0.1", "localhost"),
            "DERMASCAN_HEARTBEAT_TIMEOUT": str(HEARTBEAT_TIMEOUT),
        }


@pytest.fixture(scope="module")
def host(variables, tmp_path_factory) -> Iterator[Host]:
    found = services(PROJECT / "docker-compose.yml", variables)
    with running(found, tmp_path_factory.mktemp("host"), {"include/gate.yaml": GATE}) as it:
        yield it


@pytest.fixture(scope="module")
def api(host: Host, variables: Mapping[str, str]) -> Iterator[AirflowApi]:
    password = SecretStr(variables["AIRFLOW_ADMIN_PASSWORD"])
    with AirflowApi(host.url("airflow-api", 8080), ADMIN, password) as it:
        yield it


@pytest.fixture(scope="module")
def bucket(host: Host, variables: Mapping[str, str]) -> Store:
    settings = StorageSettings(
        bucket="dermascan",
        endpoint_url=host.url("seaweedfs", 9000),
        access_key_id=variables["S3_ACCESS_KEY_ID"],
        secret_access_key=SecretStr(variables["S3_SECRET_ACCESS_KEY"]),
    )
    return Store(settings)
