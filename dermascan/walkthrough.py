"""The DAGs on a folder of images, through the embedded stack, step by step before an audience.

What the demo and the acceptance run have in common.
"""

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

from dermascan.errors import DermaScanError, NotFoundError, TransientError
from dermascan.settings import PUBLIC_ISIC_URL
from dermascan.stack.connections import ARCHIVE
from dermascan.stack.embedded import EmbeddedStack, UpRequest
from dermascan.stack.object_store import LOOPBACK
from dermascan.stack.ports import any_free
from dermascan.stack.runs import ENDED, Observer, RunOutcome, RunRequest, trigger_and_wait

if TYPE_CHECKING:
    from dermascan.stack.airflow_api import AirflowApi, Run, Task
    from dermascan.storage import Store

ARCHIVE_START_SECONDS = 60.0


class RunFailedError(DermaScanError):
    """A DAG run failed; its outcome was shown already.

    Args:
        outcome: of the run.
        logs: folder of the stack's logs.
    """

    def __init__(self, outcome: RunOutcome, logs: Path) -> None:
        super().__init__(f"{outcome.dag_id} failed: the stack's logs are in {logs}")
        self.outcome = outcome

    def failed_in(self, task: str) -> bool:
        """Tell whether it was a certain task that failed."""
        return any(failed.label == task for failed in self.outcome.failed)


@dataclass(frozen=True)
class Audience:
    """Who watches.

    Attributes:
        observe: makes an observer for each DAG run.
        show: is given the outcome of each DAG run.
        tell: is given a line of text at each step.
    """

    observe: Callable[[], AbstractContextManager[Observer]]
    show: Callable[[RunOutcome], None]
    tell: Callable[[str], None]


@dataclass(frozen=True)
class PastRun:
    """A run that ended: seconds as a whole, and its tasks."""

    seconds: float
    tasks: "tuple[Task, ...]"


class Walkthrough:
    """Start the stack for the time of a walkthrough.

    Args:
        stack: started if it does not run, and then stopped at the end.
        audience: who watches.
        patience: seconds that Airflow may take for an answer.
    """

    def __init__(self, stack: EmbeddedStack, audience: Audience, patience: float = 60.0) -> None:
        self._stack, self.audience, self._patience = stack, audience, patience

    @property
    def state(self) -> Path:
        """Return the stack's private folder."""
        return self._stack.paths.state

    @property
    def project(self) -> Path:
        """Return the project's folder."""
        return self._stack.paths.project

    @contextmanager
    def begin(self) -> "Iterator[Session]":
        """Start what does not run, and at the end stop it.

        Raises:
            DermaScanError: the stack could not be started.
        """
        with self._running_stack(), self._stack.airflow_api(self._patience) as api:
            yield Session(self._stack, api, self.audience)

    @contextmanager
    def _running_stack(self) -> Iterator[None]:
        ran_before = all(part.healthy for part in self._stack.status())
        if not ran_before:
            self._stack.up(UpRequest())
        try:
            yield
        finally:
            if not ran_before:
                self.audience.tell(f"stopping {', '.join(self._stack.down())}")


class Session:
    """What a walkthrough can do while the stack runs.

    Args:
        stack: the running stack.
        api: its Airflow.
        audience: who watches.
    """

    def __init__(self, stack: EmbeddedStack, api: "AirflowApi", audience: Audience) -> None:
        self._stack, self._api, self._audience = stack, api, audience

    def store(self, bucket: str | None = None) -> "Store":
        """Return a bucket of the stack's object storage, by default the pipeline's own."""
        from dermascan.storage import Store  # noqa: PLC0415  # boto3 takes half a second

        store = Store(self._stack.storage_settings())
        return store.in_bucket(bucket) if bucket else store

    @contextmanager
    def archive(self, folder: Path, log: Path) -> Iterator[None]:
        """Let the pipeline take a folder for the ISIC archive.

        Args:
            folder: as the official client writes it.
            log: what the archive's server says.

        Raises:
            TransientError: the archive could not be started.
        """
        with self._server(folder, log) as url, self.archive_at(url):
            yield

    def trigger(self, dag_id: str, conf: Mapping[str, JsonValue]) -> RunOutcome:
        """Run a DAG and wait for its end.

        Raises:
            RunFailedError: the run failed.
        """
        self._audience.tell(f"\n{dag_id}: {', '.join(f'{k}={v}' for k, v in conf.items())}")
        request = RunRequest(dag_id, conf, parsed_since=self._stack.since("dag-processor"))
        with self._audience.observe() as observer:
            outcome = trigger_and_wait(
                self._api, request, observer, check=self._stack.require_running
            )
        self._audience.show(outcome)
        if not outcome.succeeded:
            raise RunFailedError(outcome, self._stack.paths.logs)
        return outcome

    def returned(self, outcome: RunOutcome, task: str) -> JsonValue:
        """Return what a task of a run returned.

        Raises:
            NotFoundError: the task did not end, or returned nothing.
        """
        return self._api.returned(outcome.dag_id, outcome.run_id, task)

    def runs_like(self, outcome: RunOutcome, task: str) -> list[PastRun]:
        """Return the runs of the same DAG in which a task returned the same, the latest last.

        They had the same to do; only the first that came so far had to do it.
        """
        wanted = self.returned(outcome, task)
        runs = sorted(self._api.runs(outcome.dag_id), key=_start)
        alike = [run for run in runs if run.state in ENDED and self._did(run, task) == wanted]
        return [self._past(run) for run in alike]

    def _did(self, run: "Run", task: str) -> JsonValue:
        try:
            return self._api.returned(run.dag_id, run.dag_run_id, task)
        except NotFoundError:
            return None

    def _past(self, run: "Run") -> PastRun:
        tasks = self._api.tasks(run.dag_id, run.dag_run_id)
        return PastRun(run.seconds, tuple(tasks))

    @contextmanager
    def _server(self, folder: Path, log_path: Path) -> Iterator[str]:
        port = any_free()
        command = [sys.executable, "-m", "dermascan", "archive", "serve"]
        command += [str(folder), "--port", str(port)]
        url = f"http://{LOOPBACK}:{port}"
        log = log_path.open("wb")
        with log, subprocess.Popen(command, stdout=log, stderr=log) as server:  # noqa: S603  # our own program
            try:
                _wait_until_answering(url, server, log_path)
                self._audience.tell(f"the archive answers at {url}/api/v2/")
                yield url
            finally:
                server.terminate()

    @contextmanager
    def archive_at(self, url: str) -> Iterator[None]:
        """Point the connection `isic_archive` at an address, and back afterwards.

        Its own address is kept in a file meanwhile, so that the next walkthrough puts it back
        if this one is killed.
        """
        kept = self._stack.paths.state / "isic_archive.txt"
        if not kept.exists():
            before = self._api.connection(ARCHIVE)
            kept.write_text((before.host if before else None) or PUBLIC_ISIC_URL)
        self._api.change_connection(ARCHIVE, {"host": url})
        try:
            yield
        finally:
            self._api.change_connection(ARCHIVE, {"host": kept.read_text()})
            kept.unlink()


def _start(run: "Run") -> float:
    return run.start_date.timestamp() if run.start_date else 0.0


def _wait_until_answering(url: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + ARCHIVE_START_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/api/v2/collections/").is_success:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise TransientError(f"the archive does not answer at {url}: see {log}")
