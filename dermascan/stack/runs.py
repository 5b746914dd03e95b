"""Start a run of a DAG, watch its tasks until it ends, and say how it went."""

import json
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from pydantic import JsonValue

from dermascan.errors import InputError, NotFoundError, TransientError
from dermascan.stack.airflow_api import AirflowApi, Dag, DagParam, Run, Task

KNOWN_WITHIN_SECONDS = 90.0
POLL_SECONDS = 1.0
LAST_LINES = 25
ENDED = frozenset({"success", "failed"})


@dataclass(frozen=True)
class RunRequest:
    """A run to be started.

    Attributes:
        dag_id: name of the DAG.
        conf: values for its params.
        run_id: name of the run; by default made from the time.
        parsed_since: a DAG that Airflow last read before this instant is waited for.
    """

    dag_id: str
    conf: Mapping[str, JsonValue] = field(default_factory=dict)
    run_id: str | None = None
    parsed_since: datetime | None = None


class Observer(Protocol):
    """Shows the progress of a run."""

    def started(self, run: Run, url: str) -> None:
        """Take note of the run and where it can be looked at."""

    def progressed(self, tasks: Sequence[Task], changed: Sequence[Task]) -> None:
        """Take note of all tasks, and of those whose state or try is new."""


@dataclass(frozen=True)
class FailedTask:
    """A task that failed, with the end of its log."""

    label: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended."""

    dag_id: str
    run_id: str
    state: str
    seconds: float
    url: str
    tasks: tuple[Task, ...]
    failed: tuple[FailedTask, ...]

    @property
    def succeeded(self) -> bool:
        """Whether Airflow counts the run as successful."""
        return self.state == "success"


def wait_for_dag(
    api: AirflowApi,
    dag_id: str,
    parsed_since: datetime | None = None,
    patience: float = KNOWN_WITHIN_SECONDS,
) -> Dag:
    """Wait until Airflow knows a DAG, as it does shortly after its start.

    Args:
        api: the Airflow to use.
        dag_id: name of the DAG.
        parsed_since: a DAG that was last read before this instant is waited for.
        patience: seconds to wait, counted from `parsed_since` if that is given.

    Raises:
        NotFoundError: no such DAG, or its file cannot be loaded.
        TransientError: Airflow cannot be reached.
    """
    # Until its file has been read again, Airflow shows a DAG as it was at the last stop.
    age = (datetime.now(UTC) - parsed_since).total_seconds() if parsed_since else 0.0
    deadline = time.monotonic() + patience - age
    while True:
        dag = _dag_if_known(api, dag_id)
        if dag and dag.has_import_errors:
            raise NotFoundError(f"the DAG {dag_id} cannot be loaded:{_import_problems(api)}")
        late = time.monotonic() > deadline
        if dag and not dag.is_stale and (late or _parsed(dag, parsed_since)):
            return dag
        if late:
            known = ", ".join(api.dag_ids()) or "none"
            raise NotFoundError(
                f"Airflow knows no DAG {dag_id!r} (new files are read every 30 s); "
                f"it knows: {known}{_import_problems(api)}"
            )
        time.sleep(POLL_SECONDS)


def read_params(pairs: Iterable[str], declared: Mapping[str, DagParam]) -> dict[str, JsonValue]:
    """Read `name=value` texts as values for a DAG's params.

    A value is read as JSON where it is JSON and the param takes more than text;
    everything else is text.

    Args:
        pairs: such as `["limit=500", "query=sex:male"]`.
        declared: the DAG's params by name.

    Raises:
        InputError: a text has no `=`, or names a param twice.
    """
    conf: dict[str, JsonValue] = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator or not name:
            raise InputError(f"{pair!r} is not a parameter: write name=value")
        if name in conf:
            raise InputError(f"the parameter {name!r} is given twice")
        conf[name] = _value(text, declared.get(name))
    return conf


def trigger(
    api: AirflowApi, dag: Dag, conf: Mapping[str, JsonValue], run_id: str | None = None
) -> Run:
    """Start a run of a DAG.

    Args:
        api: the Airflow to use.
        dag: from `wait_for_dag`.
        conf: values for the DAG's params.
        run_id: name of the run; by default made from the time.

    Raises:
        InputError: the DAG is paused, has no param of a name in `conf`, or Airflow
            refuses a value.
        TransientError: Airflow cannot be reached.
    """
    if dag.is_paused:
        raise InputError(
            f"the DAG {dag.dag_id} is paused, its runs would not start: "
            f"switch it on at {api.base_url}/dags/{dag.dag_id}"
        )
    declared = api.params(dag.dag_id)
    unknown = sorted(set(conf) - set(declared))
    if unknown and declared:
        raise InputError(
            f"the DAG {dag.dag_id} has no parameter {', '.join(unknown)}: "
            f"it has {', '.join(sorted(declared))}"
        )
    return api.trigger(dag.dag_id, run_id or _new_run_id(), conf)


def watch(
    api: AirflowApi,
    run: Run,
    observer: Observer,
    *,
    check: Callable[[], None] = lambda: None,
    timeout: float | None = None,
) -> RunOutcome:
    """Follow a run until it ends.

    Args:
        api: the Airflow that runs it.
        run: from `trigger`.
        observer: told of every change of a task's state.
        check: called now and then; raises when going on is pointless.
        timeout: seconds after which to give up; the run itself goes on.

    Raises:
        TransientError: Airflow cannot be reached, or the time is over.
    """
    url = run_url(api, run.dag_id, run.dag_run_id)
    observer.started(run, url)
    seen: dict[str, tuple[str | None, int]] = {}
    deadline = time.monotonic() + (timeout or float("inf"))
    while True:
        run = api.run(run.dag_id, run.dag_run_id)  # before the tasks, so that none is missed
        tasks = api.tasks(run.dag_id, run.dag_run_id)
        _report_changes(tasks, seen, observer)
        if run.state in ENDED:
            return _outcome(api, run, tasks, url)
        if time.monotonic() > deadline:
            raise TransientError(f"{run.dag_id} did not end in {timeout:.0f} s: look at {url}")
        check()
        time.sleep(POLL_SECONDS)


def trigger_and_wait(
    api: AirflowApi,
    request: RunRequest,
    observer: Observer,
    *,
    check: Callable[[], None] = lambda: None,
    timeout: float | None = None,
) -> RunOutcome:
    """Start a run and follow it until it ends; see `wait_for_dag`, `trigger` and `watch`."""
    dag = wait_for_dag(api, request.dag_id, request.parsed_since)
    run = trigger(api, dag, request.conf, request.run_id)
    return watch(api, run, observer, check=check, timeout=timeout)


def run_url(api: AirflowApi, dag_id: str, run_id: str) -> str:
    """Return the page of a run in Airflow's user interface."""
    return f"{api.base_url}/dags/{dag_id}/runs/{run_id}"


def _value(text: str, param: DagParam | None) -> JsonValue:
    try:
        value: JsonValue = json.loads(text, parse_constant=_refuse_constant)
    except ValueError:
        return text
    only_text = param is not None and param.types <= {"string", "null"} and "string" in param.types
    if only_text and not isinstance(value, str):
        return text
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is Python, not JSON")


def _dag_if_known(api: AirflowApi, dag_id: str) -> Dag | None:
    try:
        return api.dag(dag_id)
    except NotFoundError:
        return None


def _parsed(dag: Dag, since: datetime | None) -> bool:
    if since is None:
        return True
    return dag.last_parsed_time is not None and dag.last_parsed_time >= since


def _import_problems(api: AirflowApi) -> str:
    problems = api.import_problems()
    return "".join(
        f"\n{problem.filename}:\n{(problem.stack_trace or '').rstrip()}" for problem in problems
    )


def _new_run_id() -> str:
    return f"cli__{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}_{secrets.token_hex(2)}"


def _report_changes(
    tasks: Sequence[Task], seen: dict[str, tuple[str | None, int]], observer: Observer
) -> None:
    changed = [task for task in tasks if seen.get(task.label) != (task.state, task.try_number)]
    seen.update({task.label: (task.state, task.try_number) for task in changed})
    observer.progressed(tasks, [task for task in changed if task.state is not None])


def _outcome(api: AirflowApi, run: Run, tasks: Sequence[Task], url: str) -> RunOutcome:
    failed = tuple(
        FailedTask(task.label, _last_words(api, run, task))
        for task in tasks
        if task.state == "failed"
    )
    return RunOutcome(run.dag_id, run.dag_run_id, run.state, run.seconds, url, tuple(tasks), failed)


def _last_words(api: AirflowApi, run: Run, task: Task) -> tuple[str, ...]:
    try:
        lines = api.log_lines(run.dag_id, run.dag_run_id, task)
    except (NotFoundError, InputError, TransientError) as error:
        return (f"(its log cannot be read: {error})",)
    return tuple(lines[-LAST_LINES:]) or ("(its log is empty)",)
