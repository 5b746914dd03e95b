"""Start, look at and stop the whole stack on one machine, on loopback only."""

import fcntl
import logging
import time
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from dermascan.errors import InputError, TransientError
from dermascan.settings import StorageSettings
from dermascan.stack import (
    airflow,
    connections,
    credentials,
    mlflow,
    object_store,
    ports,
    processes,
    serving,
)
from dermascan.stack.airflow_api import AirflowApi
from dermascan.stack.environment import inherited_environment
from dermascan.stack.health import HealthProbe
from dermascan.stack.layout import StackPaths, write_private
from dermascan.stack.object_store import LOOPBACK
from dermascan.stack.ports import Ports

if TYPE_CHECKING:
    from dermascan.storage import Store

logger = logging.getLogger(__name__)

OBJECT_STORE = object_store.NAME
PARTS = (OBJECT_STORE, mlflow.NAME, serving.NAME, *airflow.PARTS)
BUCKET = "dermascan"
PROBE = "stack/ready"
REGION = "us-east-1"
START_SECONDS = 240.0
STOP_SECONDS = 15.0
OBJECT_STORE_STOP_SECONDS = 1.0
POLL_SECONDS = 0.5
PART_OF_PORT = {
    "airflow": airflow.API_SERVER,
    "s3": OBJECT_STORE,
    "mlflow": mlflow.NAME,
    "serving": serving.NAME,
}
RECORDS = TypeAdapter(dict[str, processes.ProcessRecord])


@dataclass(frozen=True)
class UpRequest:
    """What the user wants of a start.

    Attributes:
        ports: field name of `Ports` -> port, None or absent to leave it as it was.
        isic_url: address for the connection `isic_archive`; None leaves it as it is.
    """

    ports: Mapping[str, int | None] = field(default_factory=dict)
    isic_url: str | None = None


@dataclass(frozen=True)
class PartStatus:
    """The state of one part: running or not, and whether it answers."""

    name: str
    healthy: bool
    detail: str
    pid: int | None
    url: str | None
    since: datetime | None


class EmbeddedStack:
    """The stack of one project folder.

    Args:
        paths: its folders.
        tell: is given a line of text at each step of starting and stopping.
    """

    def __init__(self, paths: StackPaths, tell: Callable[[str], None] = logger.info) -> None:
        self.paths = paths
        self._tell = tell

    # What it is

    @property
    def ports(self) -> Ports:
        """The ports of the last start."""
        return ports.load(self.paths.ports)

    @property
    def airflow_url(self) -> str:
        """Airflow's user interface and REST API."""
        return f"http://{LOOPBACK}:{self.ports.airflow}"

    @property
    def s3_url(self) -> str:
        """The S3 endpoint."""
        return f"http://{LOOPBACK}:{self.ports.s3}"

    @property
    def mlflow_url(self) -> str:
        """MLflow's user interface and tracking server."""
        return f"http://{LOOPBACK}:{self.ports.mlflow}"

    @property
    def serving_url(self) -> str:
        """The HTTP API, and the page to drop images on."""
        return f"http://{LOOPBACK}:{self.ports.serving}"

    def storage_settings(self, bucket: str = BUCKET) -> StorageSettings:
        """Return how to reach the stack's object storage."""
        keys = credentials.load(self.paths)
        return StorageSettings(
            bucket=bucket,
            endpoint_url=self.s3_url,
            region=REGION,
            access_key_id=keys.s3_access_key_id,
            secret_access_key=keys.s3_secret_access_key,
        )

    def airflow_api(self, patience: float = 60.0) -> AirflowApi:
        """Return a client for the stack's Airflow, signed in as its administrator."""
        password = credentials.admin_password(self.paths)
        return AirflowApi(self.airflow_url, credentials.ADMIN, password, patience=patience)

    def since(self, part: str) -> datetime | None:
        """Return since when a part runs, None if it does not."""
        record = self._running().get(part)
        return record.since if record else None

    def require_running(self) -> None:
        """Make sure that every part's process runs.

        Raises:
            TransientError: one does not; the message names it and its log.
        """
        running = self._running()
        dead = [part for part in PARTS if part not in running]
        if len(dead) == len(PARTS):
            raise TransientError("the stack is not running: start it with `dermascan up`")
        if dead:
            raise TransientError(
                f"{', '.join(dead)} no longer runs: see {self._log(dead[0])}, "
                "and start it again with `dermascan up`"
            )

    # What it does

    def up(self, request: UpRequest) -> list[PartStatus]:
        """Start what does not run yet and wait until everything answers.

        Raises:
            InputError: a port is taken or wrong, or somebody is starting or stopping the stack.
            TransientError: a part does not come up; the message shows the end of its log.
        """
        self.paths.create()
        with self._locked():
            running = self._running()
            missing = [part for part in PARTS if part not in running]
            self._stop(missing, 0)  # what a crash left of them, so that it holds no port
            chosen = self._choose_ports(request, running)
            keys = credentials.load_or_create(self.paths)
            try:
                self._start(missing, chosen, keys)
                self._wait_until_healthy(set(missing))
            except BaseException:
                self._tell("stopping what was started")
                self._stop(missing, STOP_SECONDS)
                raise
            with self.airflow_api() as api:
                connections.prepare(api, self.storage_settings(), request.isic_url)
            return self.status()

    def down(self) -> list[str]:
        """Stop what `up` started, and return the names of the parts that ran.

        Raises:
            InputError: somebody is starting or stopping the stack.
        """
        if not self.paths.state.exists():
            return []
        with self._locked():
            ran = [part for part in PARTS if part in self._running()]
            self._stop([*airflow.PARTS, serving.NAME, mlflow.NAME], STOP_SECONDS)
            # Last, as ending tasks may still write. Asked to end, the server waits 15 s for
            # itself; what it has acknowledged is safe when it is killed before that.
            self._stop([OBJECT_STORE], OBJECT_STORE_STOP_SECONDS)
            return ran

    def status(self) -> list[PartStatus]:
        """Return the state of every part."""
        running = self._running()
        with HealthProbe(self.ports) as probe:
            healthy = probe.healthy(running)
        return [
            _part_status(part, running.get(part), part in healthy, self._url(part))
            for part in PARTS
        ]

    # Starting

    def _choose_ports(self, request: UpRequest, running: Container[str]) -> Ports:
        before = self.ports
        chosen = ports.choose(before, request.ports)
        moved = any(getattr(chosen, name) != getattr(before, name) for name in PART_OF_PORT)
        if moved and any(part in running for part in PARTS):
            raise InputError("the stack runs on other ports: run `dermascan down` first")
        ports.require_free(
            chosen, [name for name, part in PART_OF_PORT.items() if part not in running]
        )
        if OBJECT_STORE not in running:
            chosen = ports.with_internal_ports(chosen)
        ports.save(self.paths.ports, chosen)
        return chosen

    def _start(self, parts: list[str], chosen: Ports, keys: credentials.Credentials) -> None:
        inherited = inherited_environment()
        variables = airflow.environment(self.paths, chosen, keys, inherited)
        launches = [
            object_store.launch(self.paths, chosen.object_store, keys, inherited),
            mlflow.launch(self.paths, chosen, keys, inherited),
            serving.launch(self.storage_settings(), chosen.serving, inherited),
        ]
        self._launch(launches, parts)
        if airflow.needs_migration(self.paths):
            self._tell("preparing Airflow's database")
            airflow.migrate(self.paths, variables)
        self._launch(airflow.launches(variables), parts)

    def _launch(self, launches: list[processes.Launch], parts: list[str]) -> None:
        for launch in launches:
            if launch.name in parts:
                self._tell(f"starting {launch.name}")
                record = processes.start(launch, self._log(launch.name), self.paths.state)
                self._remember({**self._records(), launch.name: record})

    def _wait_until_healthy(self, started: Container[str]) -> None:
        deadline = time.monotonic() + START_SECONDS
        waiting = list(PARTS)
        with HealthProbe(self.ports) as probe:
            while waiting:
                for part in self._newly_usable(waiting, probe):
                    waiting.remove(part)
                    self._tell(f"{part} is ready" if part in started else f"{part} already runs")
                if waiting and time.monotonic() > deadline:
                    raise TransientError(
                        f"{', '.join(waiting)} did not come up in {START_SECONDS:.0f} s: "
                        f"look into {self.paths.logs}"
                    )
                time.sleep(POLL_SECONDS if waiting else 0)

    def _newly_usable(self, waiting: list[str], probe: HealthProbe) -> list[str]:
        running = self._running()
        for part in waiting:
            if part not in running:
                raise TransientError(self._obituary(part))
        healthy = probe.healthy({part: running[part] for part in PARTS if part in running})
        return [part for part in waiting if part in healthy and self._usable(part)]

    def _usable(self, part: str) -> bool:
        if part != OBJECT_STORE:
            return True
        try:
            for bucket in (BUCKET, mlflow.BUCKET):
                self._store(bucket).ensure_bucket()
            self._store(BUCKET).put(PROBE, b"ready")  # fails until there is a volume to write to
            self._store(BUCKET).delete([PROBE])
        except TransientError as error:
            logger.debug("the object storage takes no data yet: %s", error)
            return False
        return True

    def _obituary(self, part: str) -> str:
        log = self._log(part)
        end = "\n".join(processes.last_lines(log, 15))
        return f"{part} ended while starting, see {log}:\n{end}"

    # Looking

    def _url(self, part: str) -> str | None:
        urls = {
            OBJECT_STORE: self.s3_url,
            mlflow.NAME: self.mlflow_url,
            serving.NAME: self.serving_url,
            airflow.API_SERVER: self.airflow_url,
        }
        return urls.get(part)

    def _store(self, bucket: str) -> "Store":
        from dermascan.storage import Store  # noqa: PLC0415  # boto3 takes half a second to import

        return Store(self.storage_settings(bucket).impatient())

    # Remembering

    def _log(self, part: str) -> Path:
        return self.paths.logs / f"{part}.log"

    def _records(self) -> dict[str, processes.ProcessRecord]:
        try:
            return RECORDS.validate_json(self.paths.processes.read_bytes())
        except FileNotFoundError:
            return {}
        except ValidationError:
            logger.warning("%s is damaged and ignored", self.paths.processes)
            return {}

    def _remember(self, records: dict[str, processes.ProcessRecord]) -> None:
        write_private(self.paths.processes, RECORDS.dump_json(records, indent=1).decode())

    def _running(self) -> dict[str, processes.ProcessRecord]:
        records = self._records().items()
        return {name: record for name, record in records if processes.is_running(record)}

    def _stop(self, parts: list[str], grace: float) -> None:
        records = self._records()
        chosen = [records[part] for part in parts if part in records]
        processes.stop(chosen, self.paths.state, grace)
        self._remember({name: record for name, record in records.items() if name not in parts})

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self.paths.lock.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(
                    f"another `dermascan` is starting or stopping the stack in {self.paths.state}: "
                    "wait until it is done"
                ) from error
            yield


def _part_status(
    part: str, record: processes.ProcessRecord | None, healthy: bool, url: str | None
) -> PartStatus:
    if record is None:
        return PartStatus(part, False, "stopped", None, url, None)
    detail = "running" if healthy else "running, but does not answer"
    return PartStatus(part, healthy, detail, record.pid, url, record.since)
