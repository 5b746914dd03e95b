import json

import httpx
import pytest
from pydantic import SecretStr

from dermascan.errors import InputError, NotFoundError, TransientError
from dermascan.stack.airflow_api import AirflowApi, Task

GOOD = "right"
RUN = {"dag_id": "d", "dag_run_id": "r", "state": "queued", "start_date": None, "end_date": None}


class FakeAirflow:
    """Answers from a list of (method, path) -> response, after signing in."""

    def __init__(self, answers, tokens=("one",)):
        self.answers = answers
        self.tokens = list(tokens)
        self.valid = None
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/auth/token":
            if json.loads(request.content)["password"] != GOOD:
                return httpx.Response(401, json={"detail": "Invalid credentials"})
            self.valid = self.tokens.pop(0)
            return httpx.Response(201, json={"access_token": self.valid})
        self.requests.append(request)
        if request.headers.get("Authorization") != f"Bearer {self.valid}":
            return httpx.Response(401, json={"detail": "no"})
        answer = self.answers[request.method, request.url.path.removeprefix("/api/v2")]
        answer = answer.pop(0) if isinstance(answer, list) else answer
        if isinstance(answer, Exception):
            raise answer
        return answer

    def api(self, secret=GOOD, patience=5.0):
        transport = httpx.MockTransport(self)
        password = SecretStr(secret)
        return AirflowApi("http://a", "admin", password, patience=patience, transport=transport)


def ok(body) -> httpx.Response:
    return httpx.Response(200, json=body)


def test_api_when_the_token_has_expired_signs_in_again():
    fake = FakeAirflow({("GET", "/dags/d/dagRuns/r"): ok(RUN)}, tokens=["one", "two"])
    api = fake.api()
    api.run("d", "r")
    fake.valid = "something else"

    assert api.run("d", "r").state == "queued"
    assert fake.tokens == []


def test_api_when_the_password_is_wrong_says_so():
    with pytest.raises(InputError, match="does not let us in: Invalid credentials"):
        FakeAirflow({}).api("wrong").run("d", "r")


def test_api_when_the_connection_breaks_or_the_server_fails_tries_again():
    answers = [httpx.ConnectError("refused"), httpx.Response(500, text="locked"), ok(RUN)]
    fake = FakeAirflow({("GET", "/dags/d/dagRuns/r"): answers})

    assert fake.api().run("d", "r").state == "queued"


def test_api_when_it_never_answers_gives_up_and_names_the_address():
    fake = FakeAirflow({("GET", "/dags/d/dagRuns/r"): httpx.ConnectError("refused")})

    with pytest.raises(TransientError, match=r"http://a does not answer .*refused"):
        fake.api(patience=0).run("d", "r")


def test_trigger_when_the_first_answer_was_lost_finds_the_run_that_it_started():
    started = [httpx.ReadError("lost"), httpx.Response(409, json={"detail": "exists"})]
    answers = {("POST", "/dags/d/dagRuns"): started, ("GET", "/dags/d/dagRuns/r"): ok(RUN)}

    assert FakeAirflow(answers).api().trigger("d", "r", {}).dag_run_id == "r"


def test_trigger_when_the_name_is_taken_shows_airflows_words():
    conflict = httpx.Response(409, json={"detail": "already exists"})

    with pytest.raises(InputError, match="already exists"):
        FakeAirflow({("POST", "/dags/d/dagRuns"): conflict}).api().trigger("d", "r", {})


def test_trigger_when_sent_carries_the_params():
    fake = FakeAirflow({("POST", "/dags/d/dagRuns"): ok(RUN)})

    fake.api().trigger("d", "r", {"limit": 3})

    body = json.loads(fake.requests[-1].content)
    assert body == {"dag_run_id": "r", "logical_date": None, "conf": {"limit": 3}}


@pytest.mark.parametrize(
    ("status", "detail", "error", "words"),
    [
        (404, "Dag with dag_id: 'd' not found", NotFoundError, "'d' not found"),
        (400, "Invalid input for param n", InputError, "Invalid input for param n"),
        (422, [{"loc": ["body", "conf"], "msg": "wrong"}], InputError, "body.conf: wrong"),
    ],
)
def test_api_when_refused_shows_airflows_words(status, detail, error, words):
    refusal = httpx.Response(status, json={"detail": detail})

    with pytest.raises(error, match=words):
        FakeAirflow({("GET", "/dags/d"): refusal}).api().dag("d")


def test_dag_ids_when_there_are_many_reads_all_pages():
    pages = [
        ok({"dags": [{"dag_id": "b"}], "total_entries": 2}),
        ok({"dags": [{"dag_id": "a"}], "total_entries": 2}),
    ]

    assert FakeAirflow({("GET", "/dags"): pages}).api().dag_ids() == ["a", "b"]


def test_runs_tell_how_long_they_took_and_nothing_before_they_ended():
    times = {"start_date": "2026-01-31T12:00:00Z", "end_date": "2026-01-31T12:01:05.5Z"}
    page = {"dag_runs": [RUN, {**RUN, "state": "success", **times}], "total_entries": 2}

    waiting, ended = FakeAirflow({("GET", "/dags/d/dagRuns"): ok(page)}).api().runs("d")

    assert (waiting.seconds, ended.seconds) == (0.0, 65.5)


def test_returned_gives_what_a_task_returned():
    path = "/dags/d/dagRuns/r/taskInstances/t/xcomEntries/return_value"
    fake = FakeAirflow({("GET", path): ok({"key": "return_value", "value": {"images": 3}})})

    assert fake.api().returned("d", "r", "t") == {"images": 3}


def test_params_when_declared_tell_their_types():
    params = {
        "text": {"value": "", "schema": {"type": "string"}},
        "maybe": {"value": None, "schema": {"type": ["null", "integer"]}},
        "any": {"value": 1, "schema": {}},
    }
    found = FakeAirflow({("GET", "/dags/d/details"): ok({"params": params})}).api().params("d")

    assert found["text"].types == {"string"}
    assert found["maybe"].types == {"null", "integer"}
    assert found["any"].types == frozenset()


def test_log_lines_when_structured_shows_messages_and_errors_with_their_own_places():
    content = [
        {"event": "::group::Log message source details"},
        {"event": "/logs/attempt=1.log"},
        {"event": "::endgroup::"},
        {"event": "::group::Pre Execute", "level": "info"},
        {"event": "reading", "level": "info"},
        {
            "event": "Task failed",
            "level": "error",
            "error_detail": [
                {
                    "exc_type": "ValueError",
                    "exc_value": "seven legs",
                    "frames": [
                        {"filename": "/x/site-packages/a.py", "lineno": 1, "name": "run"},
                        {"filename": "/x/dags/a.py", "lineno": 7, "name": "breaks"},
                    ],
                }
            ],
        },
    ]
    path = "/dags/d/dagRuns/r/taskInstances/t/logs/2"
    task = Task(task_id="t", map_index=3, state="failed", try_number=2, duration=1, start_date=None)
    fake = FakeAirflow({("GET", path): ok({"content": content})})

    lines = fake.api().log_lines("d", "r", task)

    assert lines == [
        "reading",
        "ERROR Task failed",
        "  /x/dags/a.py:7 in breaks",
        "ValueError: seven legs",
    ]
    assert fake.requests[-1].url.params["map_index"] == "3"
