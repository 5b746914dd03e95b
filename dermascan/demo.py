"""The whole pipeline on drawn images, through the embedded stack, as a newcomer sees it first."""

import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
from pydantic import JsonValue

from dermascan.errors import DermaScanError, TransientError
from dermascan.progress import format_seconds
from dermascan.settings import PUBLIC_ISIC_URL
from dermascan.stack.connections import ARCHIVE
from dermascan.stack.embedded import EmbeddedStack, UpRequest
from dermascan.stack.object_store import LOOPBACK
from dermascan.stack.ports import any_free
from dermascan.stack.runs import Observer, RunOutcome, RunRequest, trigger_and_wait

if TYPE_CHECKING:
    from dermascan.stack.airflow_api import AirflowApi
    from dermascan.storage import Store

logger = logging.getLogger(__name__)

NAME = "demo"  # of the dataset and of the model
INBOX_BUCKET = "demo-inbox"
INBOX_PREFIX = "first-batch/"
ARCHIVE_START_SECONDS = 60.0


@dataclass(frozen=True)
class DemoPlan:
    """How large the demo is.

    Attributes:
        images: drawn for the archive, to train and test on.
        new_images: drawn with another seed, for the new prefix.
        image_size: HEIGHTxWIDTH for the network.
        epochs: of fine-tuning.
        seed: of the drawing.
    """

    images: int = 600
    new_images: int = 24
    image_size: str = "96x128"
    epochs: int = 3
    seed: int = 1


@dataclass(frozen=True)
class DemoReport:
    """One HTML report of the demo, kept as a local file so that it outlives the stack."""

    title: str
    path: Path


class DemoFailedError(DermaScanError):
    """A DAG run of the demo failed; its outcome was shown already."""


class Demo:
    """Draw an archive, ingest it, train and promote a model, and score a new prefix.

    Args:
        stack: started if it does not run, and then stopped at the end.
        observe: makes an observer for each DAG run.
        show: is given the outcome of each DAG run.
        tell: is given a line of text at each step.
        plan: how large.
    """

    def __init__(
        self,
        stack: EmbeddedStack,
        observe: Callable[[], AbstractContextManager[Observer]],
        show: Callable[[RunOutcome], None],
        tell: Callable[[str], None],
        plan: DemoPlan | None = None,
    ) -> None:
        self._stack, self._observe, self._show, self._tell = stack, observe, show, tell
        self._plan = plan or DemoPlan()
        self._folder = stack.paths.state / "demo"

    def run(self) -> list[DemoReport]:
        """Do everything and stop what was started.

        Raises:
            DemoFailedError: a DAG run failed.
            DermaScanError: the stack or the archive could not be started.
        """
        started = time.monotonic()
        self._draw()
        with self._running_stack(), self._stack.airflow_api() as api:
            with self._archive() as url, self._archive_connection(api, url):
                self._trigger(api, "ingest_isic", {"dataset": NAME, "start_training": False})
            self._trigger(api, "train_model", self._training_params())
            self._fill_inbox()
            inference = {
                "prefix": f"s3://{INBOX_BUCKET}/{INBOX_PREFIX}",
                "model": f"{NAME}/champion",
            }
            self._trigger(api, "batch_inference", inference)
            reports = self._keep_reports()
        self._tell(f"the demo took {format_seconds(time.monotonic() - started)}")
        return reports

    def _draw(self) -> None:
        from dermascan.isic.synthetic import write_archive  # noqa: PLC0415  # OpenCV, only here

        plan = self._plan
        self._tell(f"drawing {plan.images} images for the archive, {plan.new_images} to score")
        write_archive(self._folder / "archive", plan.images, plan.seed)
        write_archive(self._folder / "new", plan.new_images, plan.seed + 1)

    @contextmanager
    def _running_stack(self) -> Iterator[None]:
        ran_before = all(part.healthy for part in self._stack.status())
        if not ran_before:
            self._stack.up(UpRequest())
        try:
            yield
        finally:
            if not ran_before:
                self._tell(f"stopping {', '.join(self._stack.down())}")

    @contextmanager
    def _archive(self) -> Iterator[str]:
        port = any_free()
        command = [sys.executable, "-m", "dermascan", "archive", "serve"]
        command += [str(self._folder / "archive"), "--port", str(port)]
        url = f"http://{LOOPBACK}:{port}"
        log = (self._folder / "archive.log").open("wb")
        with log, subprocess.Popen(command, stdout=log, stderr=log) as server:  # noqa: S603  # our own program
            try:
                _wait_until_answering(url, server, self._folder / "archive.log")
                self._tell(f"the archive answers at {url}/api/v2/")
                yield url
            finally:
                server.terminate()

    @contextmanager
    def _archive_connection(self, api: "AirflowApi", url: str) -> Iterator[None]:
        """Point the connection `isic_archive` at the demo's archive, and back afterwards.

        Its own address is kept in a file meanwhile, so that the next demo puts it back if
        this one is killed.
        """
        kept = self._folder / "isic_archive.txt"
        if not kept.exists():
            before = api.connection(ARCHIVE)
            kept.write_text((before.host if before else None) or PUBLIC_ISIC_URL)
        api.change_connection(ARCHIVE, {"host": url})
        try:
            yield
        finally:
            api.change_connection(ARCHIVE, {"host": kept.read_text()})
            kept.unlink()

    def _trigger(self, api: "AirflowApi", dag_id: str, conf: Mapping[str, JsonValue]) -> None:
        self._tell(f"\n{dag_id}: {', '.join(f'{k}={v}' for k, v in conf.items())}")
        request = RunRequest(dag_id, conf, parsed_since=self._stack.since("dag-processor"))
        with self._observe() as observer:
            outcome = trigger_and_wait(api, request, observer, check=self._stack.require_running)
        self._show(outcome)
        if not outcome.succeeded:
            raise DemoFailedError(
                f"{dag_id} failed: the stack's logs are in {self._stack.paths.logs}"
            )

    def _training_params(self) -> dict[str, JsonValue]:
        plan = self._plan
        size: dict[str, JsonValue] = {"image_size": plan.image_size, "epochs": plan.epochs}
        return {"dataset": NAME, "model": NAME, **size}

    def _store(self, bucket: str | None = None) -> "Store":
        from dermascan.storage import Store  # noqa: PLC0415  # boto3 takes half a second

        store = Store(self._stack.storage_settings())
        return store.in_bucket(bucket) if bucket else store

    def _fill_inbox(self) -> None:
        inbox = self._store(INBOX_BUCKET)
        inbox.ensure_bucket()
        files = sorted((self._folder / "new").glob("*.jpg"))
        for file in files:
            inbox.put_immutable(INBOX_PREFIX + file.name, file.read_bytes(), "image/jpeg")
        inbox.put_immutable(INBOX_PREFIX + "not an image.txt", b"to show that it is rejected\n")
        self._tell(
            f"\nput {len(files)} new images and a text file under s3://{INBOX_BUCKET}/{INBOX_PREFIX}"
        )

    def _keep_reports(self) -> list[DemoReport]:
        from dermascan.inference import resolve  # noqa: PLC0415  # pandas, only here
        from dermascan.layout import ModelKeys  # noqa: PLC0415  # likewise
        from dermascan.registry import ModelReference, require_champion  # noqa: PLC0415  # likewise

        store = self._store()
        version = require_champion(store, NAME).version
        address = f"s3://{INBOX_BUCKET}/{INBOX_PREFIX}"
        predictions = resolve(store, address, ModelReference(NAME, str(version))).output
        keys = {
            "evaluation": f"{ModelKeys(NAME).version(version)}report.html",
            "predictions": f"{predictions}report.html",
        }
        return [self._keep(store, title, key) for title, key in keys.items()]

    def _keep(self, store: "Store", title: str, key: str) -> DemoReport:
        path = self._folder / f"{title}.html"
        path.write_bytes(store.get(key))
        return DemoReport(f"{title} report (also {store.address(key)})", path)


def _wait_until_answering(url: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + ARCHIVE_START_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/api/v2/collections/").is_success:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise TransientError(f"the archive does not answer at {url}: see {log}")
