"""What the demo and the acceptance run share, with a real archive and a made-up Airflow."""

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from archives import row, write_folder

import dermascan.walkthrough
from dermascan.errors import NotFoundError, TransientError
from dermascan.stack.airflow_api import Connection, Run, Task
from dermascan.stack.runs import FailedTask, RunOutcome
from dermascan.walkthrough import Audience, RunFailedError, Session, Walkthrough

OWN = "http://archive.example"
START = datetime(2026, 1, 31, tzinfo=UTC)


class MadeUpAirflow:
    def __init__(self) -> None:
        self.host = OWN
        self.results = {"first": {"n": 1}, "other": {"n": 2}, "again": {"n": 1}, "now": {"n": 1}}

    def connection(self, connection_id):
        return Connection(connection_id=connection_id, host=self.host)

    def change_connection(self, _connection_id, body):
        self.host = body["host"]

    def runs(self, dag_id):
        names = ["again", "first", "broken", "other", "now"]
        hours = {"first": 1, "again": 2, "broken": 3, "other": 4, "now": 5}
        return [
            Run(
                dag_id=dag_id,
                dag_run_id=name,
                state="running" if name == "other" else "success",
                start_date=START + timedelta(hours=hours[name]),
                end_date=START + timedelta(hours=hours[name], seconds=hours[name]),
            )
            for name in names
        ]

    def returned(self, _dag_id, run_id, _task_id):
        if run_id not in self.results:
            raise NotFoundError("no such entry")
        return self.results[run_id]

    def tasks(self, _dag_id, run_id):
        return [
            Task(
                task_id=run_id,
                map_index=-1,
                state="success",
                try_number=1,
                duration=1,
                start_date=None,
            )
        ]


class MadeUpStack:
    """Remembers whether it runs."""

    def __init__(self, folder: Path, *, healthy: bool = False) -> None:
        self.paths = SimpleNamespace(state=folder, project=folder, logs=folder / "logs")
        self.healthy = healthy
        self.events: list[str] = []

    def status(self):
        return [SimpleNamespace(healthy=self.healthy)]

    def up(self, _request):
        self.events.append("up")

    def down(self):
        self.events.append("down")
        return ["airflow", "mlflow"]

    def since(self, _part):
        return None

    def require_running(self):
        pass

    @contextmanager
    def airflow_api(self, patience):
        self.events.append(f"patience {patience:.0f}")
        yield MadeUpAirflow()


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def shown() -> list[RunOutcome]:
    return []


@pytest.fixture
def audience(told, shown) -> Audience:
    @contextmanager
    def observe():
        yield SimpleNamespace(started=None, progressed=None)

    return Audience(observe, shown.append, told.append)


@pytest.fixture
def airflow() -> MadeUpAirflow:
    return MadeUpAirflow()


@pytest.fixture
def session(tmp_path, airflow, audience) -> Session:
    return Session(MadeUpStack(tmp_path), airflow, audience)


@pytest.fixture
def images(tmp_path) -> Path:
    return write_folder(tmp_path / "images", [row(i) for i in range(3)])


def outcome(state: str, *failed: str) -> RunOutcome:
    tasks = tuple(FailedTask(name, ()) for name in failed)
    return RunOutcome("ingest_isic", "now", state, 1.0, "http://a", (), tasks)


def ending(monkeypatch, result: RunOutcome) -> list:
    requests = []

    def run(api, request, observer, *, check):
        requests.append(request)
        return result

    monkeypatch.setattr(dermascan.walkthrough, "trigger_and_wait", run)
    return requests


def test_begin_when_nothing_runs_starts_the_stack_and_stops_it(tmp_path, audience, told):
    stack = MadeUpStack(tmp_path)
    with Walkthrough(stack, audience).begin():
        assert stack.events == ["up", "patience 60"]

    assert stack.events[-1] == "down"
    assert told == ["stopping airflow, mlflow"]


def test_begin_when_the_stack_runs_leaves_it_running(tmp_path, audience, told):
    stack = MadeUpStack(tmp_path, healthy=True)
    with Walkthrough(stack, audience, patience=300).begin():
        pass

    assert stack.events == ["patience 300"]
    assert told == []


def test_begin_when_the_walk_fails_stops_the_stack_all_the_same(tmp_path, audience):
    stack = MadeUpStack(tmp_path)

    def walk():
        with Walkthrough(stack, audience).begin():
            raise TransientError("broken")

    with pytest.raises(TransientError, match="broken"):
        walk()
    assert stack.events[-1] == "down"


def test_archive_answers_while_it_is_needed_and_the_connection_is_put_back(
    session, airflow, images, tmp_path
):
    with session.archive(images, tmp_path / "log"):
        url = airflow.host
        found = httpx.get(f"{url}/api/v2/images/").json()
        assert found["count"] == 3

    assert airflow.host == OWN
    assert not (tmp_path / "isic_archive.txt").exists()
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url}/api/v2/images/")


def test_archive_when_an_earlier_walk_was_killed_puts_back_the_address_from_before_it(
    session, airflow, images, tmp_path
):
    airflow.host = "http://127.0.0.1:1"
    (tmp_path / "isic_archive.txt").write_text(OWN)

    with session.archive(images, tmp_path / "log"):
        pass

    assert airflow.host == OWN


def test_archive_when_the_folder_is_no_archive_says_where_the_reason_is(session, airflow, tmp_path):
    (tmp_path / "empty").mkdir()

    def serve():
        with session.archive(tmp_path / "empty", tmp_path / "archive.log"):
            pass

    with pytest.raises(TransientError, match=r"see .*archive\.log"):
        serve()
    assert "metadata.csv" in (tmp_path / "archive.log").read_text()
    assert airflow.host == OWN


def test_trigger_when_the_run_succeeds_tells_the_params_and_returns_the_outcome(
    session, monkeypatch, told, shown
):
    requests = ending(monkeypatch, outcome("success"))

    found = session.trigger("ingest_isic", {"dataset": "demo", "start_training": False})

    assert found.succeeded
    assert shown == [found]
    assert told == ["\ningest_isic: dataset=demo, start_training=False"]
    assert requests[0].conf == {"dataset": "demo", "start_training": False}


def test_trigger_when_the_run_fails_shows_it_and_names_the_logs(session, monkeypatch, shown):
    ending(monkeypatch, outcome("failed", "gate"))

    with pytest.raises(
        RunFailedError, match=r"ingest_isic failed: .* logs are in .*logs"
    ) as caught:
        session.trigger("ingest_isic", {})

    assert [each.state for each in shown] == ["failed"]
    assert caught.value.failed_in("gate")
    assert not caught.value.failed_in("train")


def test_runs_like_finds_ended_runs_that_came_to_the_same_oldest_first(session):
    found = session.runs_like(outcome("success"), "publish_manifest")

    assert [run.tasks[0].task_id for run in found] == ["first", "again", "now"]
    assert [run.seconds for run in found] == [1.0, 2.0, 5.0]
