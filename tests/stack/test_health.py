import json
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dermascan.stack import ports
from dermascan.stack.embedded import PARTS
from dermascan.stack.health import HealthProbe
from dermascan.stack.ports import Ports
from dermascan.stack.processes import ProcessRecord

NOW = datetime.now(UTC)


class Answers(BaseHTTPRequestHandler):
    """Plays all servers of a stack at once, from the texts and codes in `pages`."""

    pages: dict[str, tuple[int, str]]

    def do_GET(self):
        code, text = self.pages.get(self.path, (404, ""))
        self.send_response(code)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def pages():
    return {
        "/": (403, "sign your request"),
        "/health": (200, "OK"),
        "/healthz": (200, '{"status":"ok"}'),
        "/execution/health/ping": (200, "{}"),
        "/api/v2/monitor/health": (200, airflow_health(NOW)),
    }


@pytest.fixture
def healthy(pages):
    handler = type("Handler", (Answers,), {"pages": pages})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_port
    running = {name: record(name) for name in PARTS}
    with HealthProbe(everywhere(port)) as probe:
        yield lambda: probe.healthy(running)
    server.shutdown()
    server.server_close()


def everywhere(port: int) -> Ports:
    return Ports.model_construct(airflow=port, s3=port, mlflow=port, serving=port)


def record(name: str) -> ProcessRecord:
    return ProcessRecord(name=name, pid=1, boot="b", started="s", since=NOW)


def airflow_health(heartbeat: datetime, status: str = "healthy") -> str:
    parts = ("scheduler", "triggerer", "dag_processor")
    found = {
        part: {"status": status, f"latest_{part}_heartbeat": heartbeat.isoformat()}
        for part in parts
    }
    return json.dumps({"metadatabase": {"status": "healthy"}, **found})


def test_healthy_when_all_answer_names_all_parts(healthy):
    assert healthy() == set(PARTS)


def test_healthy_when_the_last_heartbeat_is_from_before_the_start_waits_for_another(healthy, pages):
    stale = airflow_health(NOW - timedelta(seconds=3))
    pages["/api/v2/monitor/health"] = (200, stale)

    assert healthy() == {"s3", "mlflow", "serving", "api-server"}


def test_healthy_when_airflow_calls_a_part_unhealthy_believes_it(healthy, pages):
    pages["/api/v2/monitor/health"] = (200, airflow_health(NOW, status="unhealthy"))

    assert healthy() == {"s3", "mlflow", "serving", "api-server"}


@pytest.mark.parametrize(
    ("path", "answer", "missing"),
    [
        ("/", (503, ""), {"s3"}),
        ("/health", (500, ""), {"mlflow"}),
        ("/healthz", (503, ""), {"serving"}),
        ("/execution/health/ping", (500, ""), set(PARTS) - {"s3", "mlflow", "serving"}),
        ("/api/v2/monitor/health", (200, "<html>"), set(PARTS) - {"s3", "mlflow", "serving"}),
    ],
)
def test_healthy_when_one_server_fails_leaves_it_out(healthy, pages, path, answer, missing):
    pages[path] = answer

    assert healthy() == set(PARTS) - missing


def test_healthy_when_nobody_listens_is_nobody():
    port = ports.any_free()
    running = {name: record(name) for name in PARTS}

    with HealthProbe(everywhere(port)) as probe:
        assert probe.healthy(running) == set()
