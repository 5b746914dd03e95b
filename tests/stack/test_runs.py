import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermascan.errors import InputError, NotFoundError, TransientError
from dermascan.stack import runs
from dermascan.stack.airflow_api import Dag, DagParam, ImportProblem, Run, Task

NOW = datetime.now(UTC)
ANYTHING = DagParam(types=frozenset())
TEXT = DagParam(types=frozenset({"string"}))


def task(name="t", state="success", try_number=1, map_index=-1) -> Task:
    return Task(
        task_id=name,
        map_index=map_index,
        state=state,
        try_number=try_number,
        duration=1,
        start_date=NOW,
    )


def dag(**changes) -> Dag:
    known = {"dag_id": "d", "is_paused": False, "is_stale": False, "has_import_errors": False}
    return Dag.model_validate({**known, "last_parsed_time": NOW, **changes})


def run(state: str) -> Run:
    return Run(dag_id="d", dag_run_id="r", state=state, start_date=NOW, end_date=NOW)


class FakeApi:
    """Plays a prepared story: what each look at DAG, run and tasks finds."""

    base_url = "http://a"

    def __init__(self, dags=(), runs=(), tasks=(), params=None):
        self.dags, self.runs, self.task_lists = list(dags), list(runs), list(tasks)
        self.declared = params or {}
        self.triggered = []

    def _next(self, story):
        return story.pop(0) if len(story) > 1 else story[0]

    def dag(self, dag_id):
        found = self._next(self.dags)
        if found is None:
            raise NotFoundError(dag_id)
        return found

    def dag_ids(self):
        return ["other"]

    def import_problems(self):
        return [ImportProblem(filename="broken.py", stack_trace="SyntaxError: here")]

    def params(self, _dag_id):
        return self.declared

    def trigger(self, dag_id, run_id, conf):
        self.triggered.append((dag_id, run_id, conf))
        return run("queued")

    def run(self, _dag_id, _run_id):
        return self._next(self.runs)

    def tasks(self, _dag_id, _run_id):
        return self._next(self.task_lists)

    def log_lines(self, _dag_id, _run_id, failed):
        return [f"line {number} of {failed.label}" for number in range(40)]


class Recorder:
    def __init__(self):
        self.url = None
        self.changes = []

    def started(self, _run, url):
        self.url = url

    def progressed(self, _tasks, changed):
        self.changes += [(entry.label, entry.state, entry.try_number) for entry in changed]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(runs, "POLL_SECONDS", 0.01)


def test_wait_for_dag_when_airflow_just_started_waits_until_it_knows_the_dag():
    api = FakeApi(dags=[None, None, dag()])

    assert runs.wait_for_dag(api, "d", patience=5) == dag()


def test_wait_for_dag_when_it_was_read_before_the_start_waits_until_it_is_read_again():
    since = datetime.now(UTC)
    fresh = dag(last_parsed_time=since)
    api = FakeApi(dags=[dag(), dag(), fresh])

    assert runs.wait_for_dag(api, "d", since, patience=5) == fresh


def test_wait_for_dag_when_unknown_names_those_that_are_known_and_broken_files():
    with pytest.raises(NotFoundError, match=r"no DAG 'd'.*other\nbroken.py:\nSyntaxError"):
        runs.wait_for_dag(FakeApi(dags=[None]), "d", patience=0)


def test_wait_for_dag_when_airflow_runs_for_long_gives_up_at_once():
    long_ago = NOW - timedelta(hours=1)

    with pytest.raises(NotFoundError, match="no DAG 'd'"):
        runs.wait_for_dag(FakeApi(dags=[None]), "d", long_ago)


def test_wait_for_dag_when_its_file_is_broken_shows_why():
    with pytest.raises(NotFoundError, match="SyntaxError: here"):
        runs.wait_for_dag(FakeApi(dags=[dag(has_import_errors=True)]), "d")


@pytest.mark.parametrize(
    ("text", "param", "value"),
    [
        ("3", ANYTHING, 3),
        ("3", None, 3),
        ("true", ANYTHING, True),
        ('{"a": [1]}', ANYTHING, {"a": [1]}),
        ("sex:male AND age", ANYTHING, "sex:male AND age"),
        ("", ANYTHING, ""),
        ("a=b", ANYTHING, "a=b"),
        ("NaN", ANYTHING, "NaN"),
        ("1795378443", TEXT, "1795378443"),
        ('"quoted"', TEXT, "quoted"),
        ("null", TEXT, "null"),
    ],
)
def test_read_params_when_a_value_is_json_reads_it_unless_text_is_wanted(text, param, value):
    declared = {"p": param} if param else {}

    assert runs.read_params([f"p={text}"], declared) == {"p": value}


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(json_values)
def test_read_params_when_given_any_json_value_returns_that_value(value):
    assert runs.read_params([f"p={json.dumps(value)}"], {"p": ANYTHING}) == {"p": value}


@given(st.text())
def test_read_params_when_text_is_wanted_always_returns_text(text):
    assert isinstance(runs.read_params([f"p={text}"], {"p": TEXT})["p"], str)


@pytest.mark.parametrize("pairs", [["limit"], ["=3"], ["a=1", "a=2"]])
def test_read_params_when_malformed_or_double_is_refused(pairs):
    with pytest.raises(InputError):
        runs.read_params(pairs, {})


def test_trigger_when_a_param_is_unknown_names_those_that_are_known():
    api = FakeApi(params={"limit": ANYTHING, "query": TEXT})

    with pytest.raises(InputError, match="no parameter limitt: it has limit, query"):
        runs.trigger(api, dag(), {"limitt": 3})
    assert api.triggered == []


def test_trigger_when_the_dag_is_paused_says_where_to_switch_it_on():
    api = FakeApi()

    with pytest.raises(InputError, match=r"paused.*http://a/dags/d"):
        runs.trigger(api, dag(is_paused=True), {})
    assert api.triggered == []


def test_trigger_when_no_name_is_given_makes_a_different_one_each_time():
    api = FakeApi()

    runs.trigger(api, dag(), {})
    runs.trigger(api, dag(), {}, run_id="mine")
    runs.trigger(api, dag(), {})

    names = [run_id for _, run_id, _ in api.triggered]
    assert len(set(names)) == 3
    assert names[1] == "mine"


def test_watch_when_states_change_reports_each_change_once():
    story = [
        [task(state=None)],
        [task(state="running")],
        [task(state="running")],
        [task(state="up_for_retry")],
        [task(state="running", try_number=2)],
        [task(state="success", try_number=2)],
    ]
    looks = [*[run("running")] * 5, run("success")]
    recorder = Recorder()

    outcome = runs.watch(FakeApi(runs=looks, tasks=story), run("queued"), recorder)

    assert outcome.succeeded
    assert outcome.failed == ()
    assert recorder.url == "http://a/dags/d/runs/r"
    assert recorder.changes == [
        ("t", "running", 1),
        ("t", "up_for_retry", 1),
        ("t", "running", 2),
        ("t", "success", 2),
    ]


def test_watch_when_a_task_failed_keeps_the_end_of_its_log_only():
    tasks = [task("a"), task("b", "failed", map_index=4), task("c", "upstream_failed")]
    api = FakeApi(runs=[run("failed")], tasks=[tasks])

    outcome = runs.watch(api, run("queued"), Recorder())

    assert not outcome.succeeded
    assert [failed.label for failed in outcome.failed] == ["b[4]"]
    assert outcome.failed[0].lines[-1] == "line 39 of b[4]"
    assert len(outcome.failed[0].lines) == runs.LAST_LINES


def test_watch_when_the_time_is_over_gives_up():
    api = FakeApi(runs=[run("running")], tasks=[[]])

    with pytest.raises(TransientError, match="did not end in 0 s"):
        runs.watch(api, run("queued"), Recorder(), timeout=0.001)


def test_watch_when_the_stack_died_says_so_instead_of_waiting_for_ever():
    def check():
        raise TransientError("scheduler no longer runs")

    api = FakeApi(runs=[run("running")], tasks=[[]])

    with pytest.raises(TransientError, match="scheduler no longer runs"):
        runs.watch(api, run("queued"), Recorder(), check=check)


def test_trigger_and_wait_when_all_is_well_starts_and_follows_the_run():
    api = FakeApi(dags=[dag()], runs=[run("success")], tasks=[[task()]])
    request = runs.RunRequest("d", {"anything": 1}, "mine")

    outcome = runs.trigger_and_wait(api, request, Recorder())

    assert outcome.succeeded
    assert api.triggered == [("d", "mine", {"anything": 1})]
