"""From an archive server to verified objects in S3, with and without latency."""

import socket
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.rounds import Contender, Trial, timed
from benchmarks.workspace import Workspace, aws_environment, object_store, run_program, serving
from dermascan.ingest.downloading import download
from dermascan.ingest.planning import IngestRequest, plan
from dermascan.ingest.publishing import publish_manifest
from dermascan.ingest.staging import IngestPlan
from dermascan.ingest.uploading import upload
from dermascan.isic.client import IsicClient
from dermascan.storage import Store

TITLE = "Ingest: archive server to verified objects in S3"
AIM = "at least 2x the faster of them, with more checks"
IMAGES = 1000
LATENCIES_MS = (0, 200)
# Mapped tasks of a run take turns on the workers; as many at once as the embedded stack's.
TASKS_AT_ONCE = 2
STARTUP_SECONDS = 60
SERVER = Path(__file__).with_name("archive_server.py")
# The official client's development address is fixed in a table.
CLIENT = """
import sys
import isic_cli.cli
isic_cli.cli.DOMAINS["dev"] = sys.argv.pop(1)
sys.exit(isic_cli.cli.main())
"""


def trials(workspace: Workspace) -> Iterator[Trial]:
    """Compare on servers of this machine, the archive's with so many milliseconds of latency."""
    folder = workspace.folder(IMAGES)
    images = workspace.images or IMAGES
    with object_store(workspace.scratch / "store") as store:
        for latency in LATENCIES_MS:
            with served_archive(workspace.scratch, folder, latency) as url:
                race = _Race(workspace, store, url)
                title = f"{images:,} images, archive with {latency} ms latency"
                yield Trial(title, images, "images", race.contenders())


@dataclass(frozen=True)
class _Race:
    workspace: Workspace
    store: Store
    url: str

    def contenders(self) -> tuple[Contender, ...]:
        s5cmd = [str(self.workspace.s5cmd), "cp"]
        aws = [str(self.workspace.peers / "aws"), "s3", "cp", "--recursive", "--only-show-errors"]
        return (
            Contender("DermaScan", "ours", timed(self._ours)),
            Contender("isic, then s5cmd cp", "peer", lambda: self._official(s5cmd, "/s5cmd/")),
            Contender("isic, then aws s3 cp", "peer", lambda: self._official(aws, "/aws/")),
        )

    def _ours(self) -> None:
        request = IngestRequest(f"benchmark-{time.time_ns()}")  # finds nothing done
        with IsicClient(self.url) as client:
            planned = plan(self.store, client, request)
            with ThreadPoolExecutor(TASKS_AT_ONCE) as pool:
                list(pool.map(partial(self._shard, planned), range(planned.shards)))
            publish_manifest(self.store, client, planned)

    def _shard(self, planned: IngestPlan, number: int) -> None:
        with IsicClient(self.url) as client:  # a task's own
            download(self.store, client, planned, number)
        upload(self.store, planned, number)

    def _official(self, copy: list[str], prefix: str) -> float:
        python = str(self.workspace.peers / "python")
        options = ["--guest", "--dev", "--no-version-check", "image", "download"]
        with tempfile.TemporaryDirectory(dir=self.workspace.scratch) as name:
            home: Mapping[str, str] = {"HOME": name, "NO_PROXY": "*"}
            out = f"{name}/images/"
            seconds = run_program([python, "-c", CLIENT, self.url, *options, out], home)
            target = f"s3://{self.store.bucket}{prefix}{time.time_ns()}/"
            return seconds + run_program([*copy, out, target], aws_environment(self.store.settings))


@contextmanager
def served_archive(scratch: Path, folder: Path, latency_ms: int) -> Iterator[str]:
    """Serve a folder as an archive that answers late; yield its address.

    Args:
        scratch: for the server's log.
        folder: as the official client writes it.
        latency_ms: milliseconds before each answer.
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    command = [sys.executable, str(SERVER), str(folder), str(port), str(latency_ms)]
    project = {"PYTHONPATH": str(SERVER.parents[1])}
    with serving(command, scratch / f"archive-{port}.log", project):
        url = f"http://127.0.0.1:{port}"
        _wait_until_serving(f"{url}/api/v2/collections/")
        yield url


def _wait_until_serving(url: str) -> None:
    deadline = time.monotonic() + STARTUP_SECONDS
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()  # noqa: S310  # loopback
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return
