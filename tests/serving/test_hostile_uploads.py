"""The corpus of hostile files through the API: one of each family, and those made by hand.

`DERMASCAN_HOSTILE_UPLOADS=all` sends all of it. `docs/reliability/hostile-images.md` has the
figures.
"""

import base64
import os
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from hostile.corpus import corpus
from hostile.specimen import SCORED, Specimen
from serving.service import images, publish

from dermascan.imaging import ImageRefusedError, decode
from dermascan.stack import ports
from dermascan.storage import Store

TESTS = Path(__file__).parents[1]
ALL = os.environ.get("DERMASCAN_HOSTILE_UPLOADS") == "all"
CPU_SECONDS = 5.0  # for one file
# What the server may hold beyond its libraries: a decode for each core, and the uploads.
DECODE_MB, UPLOADS_MB = 1_000, 200
STARTUP_SECONDS = 60
CLIENTS = 8
PNG_PARTS = {b"IHDR", b"IDAT", b"IEND"}

pytestmark = pytest.mark.timeout(900)


def chosen() -> list[Specimen]:
    """Return all, or those that show every kind of damage."""
    first = {specimen.family: specimen for specimen in reversed(corpus())}
    few = [*first.values(), *(found for found in corpus() if found.family == "by-hand")]
    return list(corpus()) if ALL else list({found.name: found for found in few}.values())


@dataclass(frozen=True)
class Server:
    """A server under test: its process, a client of it, and what it held before any upload."""

    process: psutil.Process
    client: httpx.Client
    temporary: Path
    idle_mb: float

    def cpu_seconds(self) -> float:
        times = self.process.cpu_times()
        return times.user + times.system

    def peak_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1000


@pytest.fixture(scope="module")
def server(storage_settings, tmp_path_factory):
    store = Store(storage_settings, f"uploads-{uuid.uuid4().hex[:12]}")
    store.ensure_bucket()
    publish(store, tmp_path_factory.mktemp("published"), 0)
    temporary, port = tmp_path_factory.mktemp("temporary"), ports.any_free()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
        "TMPDIR": str(temporary),
        "DERMASCAN_BUCKET": store.bucket,
        "AWS_ENDPOINT_URL": storage_settings.endpoint_url,
        "AWS_ACCESS_KEY_ID": storage_settings.access_key_id,
        "AWS_SECRET_ACCESS_KEY": storage_settings.secret_access_key.get_secret_value(),
    }
    command = [sys.executable, "-m", "serving.hostile_server", str(port)]
    log = (temporary.parent / "server.log").open("wb")
    with log, subprocess.Popen(command, env=environment, stdout=log, stderr=log) as process:
        url = f"http://127.0.0.1:{port}"
        try:
            with httpx.Client(base_url=url, timeout=120, trust_env=False) as client:
                wait_until_ready(client)
                watched = psutil.Process(process.pid)
                yield Server(watched, client, temporary, watched.memory_info().rss / 1e6)
        finally:
            process.kill()


def wait_until_ready(client: httpx.Client) -> None:
    deadline = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < deadline:
        try:
            if client.get("/readyz").is_success:
                return
        except httpx.ConnectError:
            time.sleep(0.2)
    raise AssertionError("the server did not become ready")


def send(client: httpx.Client, data: bytes) -> dict:
    answer = client.post("/v1/predict", files=images(data), params={"explain": "true"})
    assert answer.status_code == 200, answer.text
    (result,) = answer.json()["results"]
    return result


def by_the_decoder(data: bytes) -> str | None:
    """Return the reason that ingest and batch inference give."""
    try:
        decode(data)
    except ImageRefusedError as error:
        return f"{error.reason}: {error.detail}"
    return None


def parts_of(png: bytes) -> set[bytes]:
    kinds, at = set(), 8
    while at < len(png):
        kinds.add(png[at + 4 : at + 8])
        at += 12 + int.from_bytes(png[at : at + 4], "big")
    return kinds


def test_every_file_is_scored_or_rejected_as_in_batch_inference_and_in_time(
    server, record_testsuite_property
):
    slowest, longest = (0.0, ""), (0.0, "")
    for specimen in chosen():
        before, started = server.cpu_seconds(), time.monotonic()
        result = send(server.client, specimen.data)
        longest = max(longest, (time.monotonic() - started, specimen.name))
        slowest = max(slowest, (server.cpu_seconds() - before, specimen.name))

        assert result["reason"] == by_the_decoder(specimen.data), specimen.name
        outcome = result["reason"].partition(":")[0] if result["reason"] else SCORED
        assert outcome in specimen.outcomes, specimen.name
        if result["explanation"]:
            assert parts_of(base64.b64decode(result["explanation"]["png"])) == PNG_PARTS
    assert slowest[0] <= CPU_SECONDS, slowest
    record_testsuite_property("most processor seconds", slowest)
    record_testsuite_property("most seconds", longest)


def test_many_at_once_end_neither_the_server_nor_its_memory(server, record_testsuite_property):
    sent = chosen()
    with ThreadPoolExecutor(CLIENTS) as clients:
        results = list(clients.map(lambda found: send(server.client, found.data), sent))

    outcomes = [(result["reason"] or SCORED).partition(":")[0] for result in results]
    assert all(got in found.outcomes for got, found in zip(outcomes, sent, strict=True))
    grown = server.peak_mb() - server.idle_mb
    record_testsuite_property("files", len(sent))
    record_testsuite_property("MB more than before", grown)
    assert grown <= (os.cpu_count() or 1) * DECODE_MB + UPLOADS_MB
    assert list(server.temporary.iterdir()) == []
    assert server.client.get("/readyz").is_success
