"""A client for the few parts of Airflow's REST API that the command line needs."""

import logging
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from types import TracebackType
from typing import Self

import httpx
from pydantic import BaseModel, ConfigDict, JsonValue, SecretStr, TypeAdapter

from dermascan.errors import InputError, NotFoundError, TransientError

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 60.0  # how long connection errors and 5xx answers are put up with
PAGE = 100
LOG_SOURCES, GROUP_END = "::group::Log message source", "::endgroup::"
JsonObject = dict[str, JsonValue]


class Dag(BaseModel):
    """What Airflow knows of a DAG."""

    model_config = ConfigDict(frozen=True)

    dag_id: str
    is_paused: bool
    is_stale: bool
    has_import_errors: bool
    last_parsed_time: datetime | None


class DagParam(BaseModel):
    """What a DAG says of one of its params: the JSON types that it takes, none for any."""

    model_config = ConfigDict(frozen=True)

    types: frozenset[str]


class ImportProblem(BaseModel):
    """A DAG file that could not be loaded."""

    model_config = ConfigDict(frozen=True)

    filename: str | None
    stack_trace: str | None


class Run(BaseModel):
    """One run of a DAG."""

    model_config = ConfigDict(frozen=True)

    dag_id: str
    dag_run_id: str
    state: str
    start_date: datetime | None
    end_date: datetime | None

    @property
    def seconds(self) -> float:
        """How long it took; 0 until it has ended."""
        if self.start_date is None or self.end_date is None:
            return 0.0
        return (self.end_date - self.start_date).total_seconds()


class Task(BaseModel):
    """One task of a run; a mapped task has one for each index."""

    model_config = ConfigDict(frozen=True)

    task_id: str
    map_index: int
    state: str | None
    try_number: int
    duration: float | None
    start_date: datetime | None

    @property
    def label(self) -> str:
        """Name of the task, with its index if it is mapped."""
        return self.task_id if self.map_index < 0 else f"{self.task_id}[{self.map_index}]"


class Connection(BaseModel):
    """An Airflow connection without its password."""

    model_config = ConfigDict(frozen=True)

    connection_id: str
    host: str | None = None
    login: str | None = None
    extra: str | None = None


class AirflowApi:
    """Talk to one Airflow, signing in as one user when first needed.

    Raises, from every method: `TransientError` when Airflow cannot be reached or keeps
    failing, `NotFoundError` for what it does not know, `InputError` for what it refuses,
    both with Airflow's own words.

    Args:
        base_url: such as `http://127.0.0.1:8080`.
        username: a user of Airflow's simple auth manager.
        password: the user's password.
        patience: seconds during which connection errors and 5xx answers are tried again.
        transport: replaces the network in tests.
    """

    def __init__(
        self,
        base_url: str,
        username: str,
        password: SecretStr,
        *,
        patience: float = PATIENCE_SECONDS,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.base_url = base_url
        self._username, self._password = username, password
        self._patience = patience
        self._client = httpx.Client(
            base_url=base_url, timeout=30, trust_env=False, transport=transport
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    # DAGs and runs

    def dag(self, dag_id: str) -> Dag:
        """Return what Airflow knows of a DAG."""
        return Dag.model_validate(self._call("GET", f"/dags/{dag_id}"))

    def params(self, dag_id: str) -> dict[str, DagParam]:
        """Return a DAG's params by name."""
        found = self._call("GET", f"/dags/{dag_id}/details").get("params")
        return {name: _param(value) for name, value in _as_object(found).items()}

    def dag_ids(self) -> list[str]:
        """Return the names of all DAGs."""
        return sorted(str(entry["dag_id"]) for entry in self._pages("/dags", "dags"))

    def import_problems(self) -> list[ImportProblem]:
        """Return the DAG files that could not be loaded."""
        pages = self._pages("/importErrors", "import_errors")
        return [ImportProblem.model_validate(entry) for entry in pages]

    def trigger(self, dag_id: str, run_id: str, conf: Mapping[str, JsonValue]) -> Run:
        """Start a run under a name of our own, so that a repeated request starts no second."""
        body: JsonObject = {"dag_run_id": run_id, "logical_date": None, "conf": dict(conf)}
        return Run.model_validate(self._call("POST", f"/dags/{dag_id}/dagRuns", body))

    def run(self, dag_id: str, run_id: str) -> Run:
        """Return a run's state."""
        return Run.model_validate(self._call("GET", f"/dags/{dag_id}/dagRuns/{run_id}"))

    def runs(self, dag_id: str) -> list[Run]:
        """Return all runs of a DAG."""
        pages = self._pages(f"/dags/{dag_id}/dagRuns", "dag_runs")
        return [Run.model_validate(entry) for entry in pages]

    def returned(self, dag_id: str, run_id: str, task_id: str) -> JsonValue:
        """Return what a task, not a mapped one, returned in a run."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/return_value"
        return self._call("GET", path)["value"]

    def tasks(self, dag_id: str, run_id: str) -> list[Task]:
        """Return all tasks of a run, in the order in which they started."""
        pages = self._pages(f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances", "task_instances")
        return [Task.model_validate(entry) for entry in pages]

    def log_lines(self, dag_id: str, run_id: str, task: Task) -> list[str]:
        """Return the log of a task's last try, without Airflow's folding marks."""
        path = (
            f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task.task_id}/logs/{task.try_number}"
        )
        answer = self._call("GET", path, params={"map_index": task.map_index, "full_content": True})
        return _log_lines(answer.get("content"))

    # Set-up

    def connection(self, connection_id: str) -> Connection | None:
        """Return a connection, None if there is none of this name."""
        try:
            answer = self._call("GET", f"/connections/{connection_id}")
        except NotFoundError:
            return None
        return Connection.model_validate(answer)

    def create_connection(self, body: JsonObject) -> None:
        """Create a connection."""
        self._call("POST", "/connections", body)

    def change_connection(self, connection_id: str, body: JsonObject) -> None:
        """Change the given fields of a connection and leave the others."""
        path = f"/connections/{connection_id}"
        known = self._call("GET", path)
        mask = {"update_mask": list(body)}
        full = {"connection_id": connection_id, "conn_type": known["conn_type"], **body}
        self._call("PATCH", path, full, params=mask)

    def ensure_pool(self, name: str, slots: int, description: str) -> None:
        """Create a pool unless there is one of this name."""
        body: JsonObject = {"name": name, "slots": slots, "description": description}
        try:
            self._call("GET", f"/pools/{name}")
        except NotFoundError:
            self._call("POST", "/pools", body)

    def resize_pool(self, name: str, slots: int) -> None:
        """Change how many tasks of a pool run at once."""
        self._call("PATCH", f"/pools/{name}", {"slots": slots}, params={"update_mask": ["slots"]})

    # Inside

    def _pages(self, path: str, field: str) -> Iterator[JsonObject]:
        offset = 0
        while True:
            answer = self._call("GET", path, params={"limit": PAGE, "offset": offset})
            entries = TypeAdapter(list[JsonObject]).validate_python(answer[field])
            yield from entries
            offset += len(entries)
            if not entries or offset >= int(str(answer["total_entries"])):
                return

    def _call(
        self,
        method: str,
        path: str,
        body: JsonObject | None = None,
        params: Mapping[str, str | int | bool | list[str]] | None = None,
    ) -> JsonObject:
        deadline = time.monotonic() + self._patience
        tries = 0
        while True:
            tries += 1
            try:
                response = self._signed(method, path, body, params)
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
            else:
                if response.status_code == httpx.codes.CONFLICT and tries > 1 and method == "POST":
                    return self._call("GET", f"{path}/{_created_name(body)}")
                if response.status_code < 500:
                    return _answer(response)
                problem = f"{response.status_code} {response.text[:200]}"
            if time.monotonic() > deadline:
                raise TransientError(
                    f"Airflow at {self.base_url} does not answer ({problem}): "
                    "look at `dermascan status`"
                )
            logger.debug("%s %s: %s, trying again", method, path, problem)
            time.sleep(min(0.5 * tries, 5))

    def _signed(
        self,
        method: str,
        path: str,
        body: JsonObject | None,
        params: Mapping[str, str | int | bool | list[str]] | None,
    ) -> httpx.Response:
        url = f"/api/v2{path}"
        if "Authorization" in self._client.headers:
            response = self._send(method, url, body, params)
            if response.status_code != httpx.codes.UNAUTHORIZED:
                return response
        signed_in = self._sign_in()
        return self._send(method, url, body, params) if signed_in.is_success else signed_in

    def _sign_in(self) -> httpx.Response:
        credentials: JsonObject = {
            "username": self._username,
            "password": self._password.get_secret_value(),
        }
        response = self._send("POST", "/auth/token", credentials)
        if response.is_success:
            self._client.headers["Authorization"] = f"Bearer {response.json()['access_token']}"
        return response

    def _send(
        self,
        method: str,
        url: str,
        body: JsonObject | None = None,
        params: Mapping[str, str | int | bool | list[str]] | None = None,
    ) -> httpx.Response:
        return self._client.request(method, url, json=body, params=params)


def _as_object(value: JsonValue) -> JsonObject:
    return value if isinstance(value, dict) else {}


def _param(value: JsonValue) -> DagParam:
    types = _as_object(_as_object(value).get("schema")).get("type") or []
    return DagParam(types=frozenset([types] if isinstance(types, str) else _texts(types)))


def _texts(value: JsonValue) -> list[str]:
    return [str(entry) for entry in value] if isinstance(value, list) else []


def _created_name(body: JsonObject | None) -> str:
    names = [str((body or {}).get(key)) for key in ("dag_run_id", "connection_id", "name")]
    return next(name for name in names if name != "None")


def _answer(response: httpx.Response) -> JsonObject:
    if response.is_success:
        return TypeAdapter(JsonObject).validate_json(response.content or b"{}")
    detail = _detail(response)
    if response.status_code == httpx.codes.NOT_FOUND:
        raise NotFoundError(f"Airflow says: {detail}")
    if response.status_code == httpx.codes.UNAUTHORIZED:
        raise InputError(f"Airflow does not let us in: {detail}")
    raise InputError(f"Airflow says: {detail} ({response.status_code})")


def _detail(response: httpx.Response) -> str:
    try:
        detail = response.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return response.text[:500]
    if isinstance(detail, list):  # one entry for each field that is not valid
        return "; ".join(_field_problem(entry) for entry in detail)
    return str(detail)


def _field_problem(entry: object) -> str:
    if not isinstance(entry, dict):
        return str(entry)
    place = ".".join(str(part) for part in entry.get("loc", ()))
    return f"{place}: {entry.get('msg')}"


def _log_lines(content: JsonValue) -> list[str]:
    if isinstance(content, str):
        return content.splitlines()
    lines: list[str] = []
    for entry in content if isinstance(content, list) else []:
        lines += _entry_lines(entry) if isinstance(entry, dict) else str(entry).splitlines()
    if lines and lines[0].startswith(LOG_SOURCES):
        lines = lines[lines.index(GROUP_END) + 1 :] if GROUP_END in lines else lines
    return [line for line in lines if not line.startswith(("::group::", GROUP_END))]


def _entry_lines(entry: JsonObject) -> list[str]:
    level = str(entry.get("level") or "")
    event = str(entry.get("event") or "")
    marked = level in {"warning", "error", "critical"}
    lines = [f"{level.upper()} {line}" if marked else line for line in event.splitlines()]
    details = entry.get("error_detail")
    for detail in details if isinstance(details, list) else []:
        lines += _exception_lines(_as_object(detail))
    return lines


def _exception_lines(detail: JsonObject) -> list[str]:
    found = detail.get("frames")
    frames = [_as_object(frame) for frame in found] if isinstance(found, list) else []
    own = [frame for frame in frames if "site-packages" not in str(frame.get("filename"))]
    places = [f"  {frame['filename']}:{frame['lineno']} in {frame['name']}" for frame in own]
    error = f"{detail.get('exc_type')}: {detail.get('exc_value')}"
    return [*places, *error.splitlines()]
