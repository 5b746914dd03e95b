import logging
import math
import socket
import time
from types import SimpleNamespace

import pytest

from dermascan.tracking import FINGERPRINT_TAG, MlflowTracker, run_page, seen_from_outside


class FakeServer:
    """Answers like `MlflowClient`, in memory."""

    def __init__(self):
        self.experiments, self.runs, self.down = {}, {}, False

    def _check(self):
        if self.down:
            raise ConnectionError("server is down\nand a long trace")

    def get_experiment_by_name(self, name):
        self._check()
        found = self.experiments.get(name)
        return found and SimpleNamespace(experiment_id=found)

    def create_experiment(self, name):
        self.experiments[name] = name
        return name

    def search_experiments(self):
        self._check()
        return [SimpleNamespace(experiment_id=found) for found in self.experiments.values()]

    def search_runs(self, experiments, condition, max_results):
        wanted = condition.split("'")[1]
        ids = [
            run_id
            for run_id, run in self.runs.items()
            if run["experiment"] in experiments and run["tags"][FINGERPRINT_TAG] == wanted
        ]
        infos = [SimpleNamespace(run_id=i, experiment_id=experiments[0]) for i in ids]
        return [SimpleNamespace(info=info) for info in infos[:max_results]]

    def create_run(self, experiment, tags, run_name):
        run_id = f"run-{len(self.runs)}"
        self.runs[run_id] = {
            "experiment": experiment,
            "name": run_name,
            "tags": dict(tags),
            "params": {},
            "metrics": [],
        }
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id))

    def update_run(self, run_id, status):
        self.runs[run_id]["status"] = status

    def set_terminated(self, run_id, status):
        self.runs[run_id]["status"] = status

    def log_batch(self, run_id, params=(), metrics=()):
        self._check()
        self.runs[run_id]["params"].update({p.key: p.value for p in params})
        self.runs[run_id]["metrics"].extend((m.key, m.value, m.step) for m in metrics)

    def set_tag(self, run_id, name, value):
        self._check()
        self.runs[run_id]["tags"][name] = value


@pytest.fixture
def server():
    return FakeServer()


@pytest.fixture
def now():
    return SimpleNamespace(seconds=0.0)


@pytest.fixture
def make_tracker(server, now):
    def make(fingerprint="f1"):
        tracker = MlflowTracker("http://unused", "lesions", fingerprint, clock=lambda: now.seconds)
        tracker._client = server
        return tracker

    return make


def test_tracker_when_a_training_is_retried_continues_its_run(make_tracker, server):
    make_tracker("f1").log_metrics({"loss": 2.0}, step=1)
    make_tracker("f2").log_metrics({"loss": 9.0}, step=1)
    retried = make_tracker("f1")
    retried.log_metrics({"loss": 1.0}, step=2)

    assert len(server.runs) == 2
    assert server.runs[retried.run_id]["metrics"] == [("loss", 2.0, 1), ("loss", 1.0, 2)]


def test_tracker_writes_nested_params_with_dots_and_leaves_out_what_is_not_finite(
    make_tracker, server
):
    tracker = make_tracker()

    tracker.log_params({"seed": 1, "network": {"weights": "none"}})
    tracker.log_metrics({"auc": math.nan, "loss": 1.0}, step=0)
    tracker.finish()

    run = server.runs[tracker.run_id]
    assert run["params"] == {"seed": "1", "network.weights": "none"}
    assert run["metrics"] == [("loss", 1.0, 0)]
    assert run["status"] == "FINISHED"


def test_tracker_when_the_server_is_down_warns_once_a_minute_and_goes_on(
    make_tracker, server, now, caplog
):
    tracker = make_tracker()
    server.down = True
    with caplog.at_level(logging.WARNING):
        tracker.log_metrics({"loss": 3.0}, step=1)
        tracker.log_metrics({"loss": 2.0}, step=2)
    server.down, now.seconds = False, 61.0
    tracker.log_metrics({"loss": 1.0}, step=3)

    assert caplog.messages == [
        "MLflow at http://unused did not take metrics of step 1: server is down"
    ]
    assert server.runs[tracker.run_id]["metrics"] == [("loss", 1.0, 3)]


def test_run_page_leads_to_the_run_of_a_training(make_tracker, server):
    tracker = make_tracker("f1")
    tracker.set_tag("name", "value")
    page = run_page("http://mlflow/", "f1", server)
    assert page == f"http://mlflow/#/experiments/lesions/runs/{tracker.run_id}"


def test_run_page_when_there_is_none_is_none(server, caplog):
    assert run_page("http://mlflow", "f1", server) is None
    assert run_page("sqlite:///mlflow.db", "f1", server) is None
    assert caplog.messages == []
    server.down = True
    assert run_page("http://mlflow", "f1", server) is None
    assert "did not say where its run is" in caplog.text


def test_real_client_when_nobody_listens_gives_up_within_seconds(caplog):
    import mlflow  # noqa: F401, PLC0415  # takes seconds to import, which is not to be measured

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    tracker = MlflowTracker(f"http://127.0.0.1:{port}", "lesions", "f1")

    started = time.monotonic()
    tracker.log_params({"seed": 1})
    tracker.set_tag("name", "value")

    assert time.monotonic() - started < 15
    assert "did not take parameters" in caplog.text
    assert tracker.run_id is None


@pytest.mark.parametrize(
    ("address", "outside", "expected"),
    [
        ("http://mlflow:5000/#/runs/1", "http://127.0.0.1:5001", "http://127.0.0.1:5001/#/runs/1"),
        ("http://mlflow:5000/#/runs/1", None, "http://mlflow:5000/#/runs/1"),
        ("http://mlflow:50001/", "http://127.0.0.1:5001", "http://mlflow:50001/"),
        ("http://airflow/objects/", "http://127.0.0.1:5001", "http://airflow/objects/"),
    ],
)
def test_seen_from_outside_when_it_is_a_page_of_mlflow_has_the_address_for_people(
    address, outside, expected
):
    assert seen_from_outside(address, "http://mlflow:5000/", outside) == expected
