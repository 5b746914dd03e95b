"""DermaScan's pages in a real API server of Airflow, with its users of different roles."""

import json
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import httpx
import pandas as pd
import pytest
from archives import picture
from axe_playwright_python.sync_playwright import Axe
from pages import HOSTILE
from playwright.sync_api import sync_playwright
from stacks import free_ports

from dermascan.fingerprint import sha256_hex
from dermascan.inference.batch import PREDICTIONS_SCHEMA, BatchPlan
from dermascan.inference.digest import BatchDigest
from dermascan.inference.index import finished_time, index_predictions
from dermascan.layout import DatasetKeys, TrainingKeys, predictions
from dermascan.registry import Decision, promote
from dermascan.stack import airflow, credentials
from dermascan.stack.environment import inherited_environment
from dermascan.stack.layout import StackPaths
from dermascan.storage import Store
from dermascan.versions import publish_version

PROJECT = Path(__file__).parents[2]
STARTUP_SECONDS = 240
HEX = "a" * 24
SUITES = "0" * 12
ROLES = {"ann": "admin", "vic": "viewer", "nobody": ""}
REPORT = b"<!doctype html><title>r</title><script>parent.stolen = 1</script>a report"
EVALUATION = {
    "images": 90,
    "dataset": HOSTILE,
    "threshold": 0.25,
    "malignant": {"roc_auc": {"value": 0.987, "low": 0.9, "high": 0.99}},
}

pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True)
class Airflow:
    url: str
    passwords: dict[str, str]

    def token(self, user: str) -> str:
        body = {"username": user, "password": self.passwords[user]}
        answer = httpx.post(f"{self.url}/auth/token", json=body, trust_env=False, timeout=30)
        return answer.raise_for_status().json()["access_token"]

    def session(self, user: str | None) -> httpx.Client:
        cookies = {"_token": self.token(user)} if user else {}
        return httpx.Client(base_url=self.url, cookies=cookies, trust_env=False, timeout=30)


@pytest.fixture(scope="module")
def bucket(storage_settings) -> Store:
    store = Store(storage_settings, "pages")
    store.ensure_bucket()
    return store


@pytest.fixture(scope="module")
def server(tmp_path_factory, bucket):
    state = tmp_path_factory.mktemp("airflow") / "state"
    paths = StackPaths(PROJECT, state, PROJECT / "dags", PROJECT / "plugins")
    paths.create()
    keys, ports = credentials.load_or_create(paths), free_ports()
    passwords = {user: f"of-{user}" for user in ROLES}
    paths.airflow_passwords.write_text(json.dumps(passwords))
    settings = bucket.settings
    connection = {
        "conn_type": "aws",
        "login": settings.access_key_id,
        "password": settings.secret_access_key.get_secret_value(),
        "extra": {
            "endpoint_url": settings.endpoint_url,
            "service_config": {"s3": {"bucket_name": bucket.bucket}},
        },
    }
    users = ",".join(f"{user}:{role}" for user, role in ROLES.items())
    variables = {
        **airflow.environment(paths, ports, keys, inherited_environment()),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": users,
        "AIRFLOW_CONN_DERMASCAN_S3": json.dumps(connection),
        "PYTHONPATH": str(PROJECT),
    }
    airflow.migrate(paths, variables)
    command = [sys.executable, "-m", "airflow", airflow.API_SERVER]
    with (
        (state / "log").open("wb") as log,
        subprocess.Popen(command, env=variables, stdout=log, stderr=log, cwd=state) as process,
    ):
        try:
            found = Airflow(f"http://127.0.0.1:{ports.airflow}", passwords)
            wait_for(found.url, process, state / "log")
            yield found
        finally:
            process.terminate()


def wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/api/v2/version", trust_env=False).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.3)
    raise AssertionError(log.read_text()[-3000:])


@pytest.fixture(scope="module")
def filled(bucket, tmp_path_factory):
    """A bucket with two champions, a dataset and a run, of which people wrote hostile names."""
    for version in (1, 2):
        folder = tmp_path_factory.mktemp("version")
        (folder / "saved_model.pb").write_bytes(b"graph")
        (folder / "report.html").write_bytes(REPORT)
        (folder / "card.md").write_bytes(REPORT)
        (folder / "evaluation.json").write_text(json.dumps(EVALUATION))
        (folder / "gate.json").write_text(
            json.dumps({"results": [{"name": HOSTILE, "outcome": "failed"}]})
        )
        publish_version(bucket, "dermascan", version, folder)
        promote(bucket, "dermascan", version, Decision(HOSTILE, HOSTILE))
    keys = DatasetKeys("isic")
    pointer = {"fingerprint": HEX, "manifest_key": "m", "images": 3, "refused": 0, "failed": 0}
    bucket.put_json(keys.pointer, pointer)
    bucket.put_json(keys.class_counts(HEX), {"classes": {"nv": 2, HOSTILE: 1}, "without_class": 0})
    docs = f"{keys.validation(HEX)}{SUITES}/"
    bucket.put(f"{docs}data_docs/index.html", REPORT)
    bucket.put_json(f"{docs}result.json", {"success": True, "suites": SUITES, "expectations": []})
    bucket.put(TrainingKeys(HEX).candidacy("dermascan").report, REPORT)
    key = f"new/{HOSTILE}.jpg"
    bucket.put(key, picture(1))
    rows = [(key, sha256_hex(picture(1)), "ok", 0.9, HOSTILE, 0.3)]
    columns = ["image_key", "sha256", "status", "p_malignant", "label", "threshold"]
    table = pd.DataFrame(rows, columns=columns).reindex(columns=PREDICTIONS_SCHEMA.names)
    plan = BatchPlan("2-abc", f"s3://{HOSTILE}/", bucket.bucket, HOSTILE, 2, 1, 1)
    for name in ("report.html", "predictions.csv", "_SUCCESS"):
        bucket.put(f"{predictions(plan.run)}{name}", REPORT)
    index_predictions(bucket, plan, BatchDigest.of(table), finished_time(bucket, plan.run))
    return bucket


@pytest.fixture(scope="module")
def ann(server, filled):
    with server.session("ann") as session:
        yield session


@pytest.fixture(scope="module")
def page(ann) -> httpx.Response:
    return ann.get("/dermascan/")


DOCUMENTS = (
    "/dermascan/models/dermascan/1/report.html",
    f"/dermascan/training/{HEX}/dermascan/report.html",
    f"/dermascan/datasets/isic/{HEX}/data-docs/{SUITES}/index.html",
    "/dermascan/predictions/2-abc/report.html",
)
PAGES = ("/dermascan/", "/dermascan/objects/models/dermascan/1/", *DOCUMENTS)


@pytest.mark.parametrize("path", PAGES)
def test_without_a_session_nothing_is_shown_but_the_way_to_sign_in(server, filled, path):
    with server.session(None) as anonymous:
        answer = anonymous.get(path)
        forged = anonymous.get(path, cookies={"_token": "eyJhbGciOiJub25lIn0.e30."})
    assert answer.status_code == 401
    assert f"/auth/login?next={quote(server.url + path, safe='')}" in answer.text
    assert "isic" not in answer.text.replace(quote(path, safe=""), "")
    assert forged.status_code in {401, 403}


@pytest.mark.parametrize("path", PAGES)
def test_a_user_without_a_role_is_refused(server, filled, path):
    with server.session("nobody") as nobody:
        assert nobody.get(path).status_code == 403


def test_a_viewer_sees_everything_and_is_offered_no_rollback(server, page):
    with server.session("vic") as vic:
        seen = vic.get("/dermascan/")
        assert all(vic.get(path).status_code == 200 for path in DOCUMENTS)
    assert "Roll back to version 1" in page.text
    assert "/dags/rollback_model" in page.text
    assert seen.status_code == 200
    assert "/dags/rollback_model" not in seen.text
    assert "0.987" in seen.text


def test_the_page_shows_champion_versions_datasets_predictions_and_health(page):
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page.text))
    assert page.status_code == 200
    assert "Champion since" in text
    assert "0.987" in text
    assert "failed 1 of 1 rules" in text
    assert "1 scored" in text
    assert "66.7" in text
    assert "Object storage answers" in text
    assert "Tracking (MLflow) has a problem" in text  # none was started
    assert "not a medical device" in text.lower()
    assert page.text.count("data:image/jpeg;base64,") == 1
    assert page.headers["Server-Timing"].startswith("read;dur=")


def test_what_others_wrote_is_shown_as_text(page):
    assert page.text.count("<script") == 1  # our own
    assert 'src="/dermascan/static/frame.js"' in page.text
    assert "&lt;script&gt;" in page.text
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize("path", DOCUMENTS)
def test_a_document_is_shown_and_can_do_nothing(ann, path):
    answer = ann.get(path)
    assert answer.content == REPORT
    assert answer.headers["Content-Type"].startswith("text/html")
    policy = answer.headers["Content-Security-Policy"].split("; ")
    (sandbox,) = [rule for rule in policy if rule.startswith("sandbox")]
    assert "allow-scripts" not in sandbox
    assert "allow-same-origin" not in sandbox
    assert "default-src 'none'" in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"


def test_what_is_no_page_is_handed_out_as_a_file_or_as_text(ann):
    table = ann.get("/dermascan/predictions/2-abc/predictions.csv")
    assert table.headers["Content-Disposition"].startswith("attachment")
    card = ann.get("/dermascan/models/dermascan/1/card.md")
    assert card.headers["Content-Type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    "path",
    [
        "/dermascan/models/dermascan/1/saved_model.pb",
        "/dermascan/models/dermascan/9/report.html",
        "/dermascan/models/..%2f..%2fnew/1/report.html",
        "/dermascan/predictions/2-abc/_SUCCESS",
        f"/dermascan/datasets/isic/{HEX}/data-docs/{SUITES}/../result.json",
        f"/dermascan/datasets/isic/{HEX}/data-docs/{SUITES}/%2e%2e/result.json",
        "/dermascan/objects/new/",
        "/dermascan/objects/",
        "/dermascan/static/../app.py",
        "/dermascan/static/%2e%2e/app.py",
        "/dermascan/openapi.json",
    ],
)
def test_nothing_else_can_be_read(ann, path):
    answer = ann.get(path, follow_redirects=True)
    assert answer.status_code == 404
    assert b"graph" not in answer.content


@pytest.mark.parametrize("query", ["versions=0", "versions=x", "model=../x", "datasets=9999999"])
def test_a_page_that_cannot_be_is_refused(ann, query):
    assert ann.get(f"/dermascan/?{query}").status_code == 422


def test_airflow_has_the_page_in_its_navigation_and_no_plugin_failed(ann):
    plugins = {each["name"]: each for each in ann.get("/api/v2/plugins").json()["plugins"]}
    (view,) = plugins["dermascan"]["external_views"]
    assert (view["name"], view["destination"], view["href"]) == (
        "DermaScan",
        "nav",
        "/dermascan/",
    )
    assert ann.get(view["icon"]).headers["Content-Type"].startswith("image/svg")
    assert ann.get("/api/v2/plugins/importErrors").json()["total_entries"] == 0


def test_an_entry_that_somebody_damaged_leaves_the_rest_of_the_page(ann, filled):
    key = DatasetKeys("isic").pointer
    before = filled.get(key)
    filled.put(key, b'{"fingerprint": 1}')
    try:
        answer = ann.get("/dermascan/")
    finally:
        filled.put(key, before)
    assert answer.status_code == 200
    assert "Datasets cannot be read" in answer.text
    assert "0.987" in answer.text


# In a browser, as Airflow shows the page: in a frame with a sandbox of its own.

BROWSER = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
VIOLATIONS = """
window.violations = [];
addEventListener("securitypolicyviolation", (event) => violations.push(event.violatedDirective));
"""
FRAME = "iframe[title=DermaScan]"


@pytest.fixture(scope="module")
def chromium():
    program = shutil.which("chromium")
    assert program, "these tests need Chromium: install the package `chromium`"
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=program, args=list(BROWSER))
        yield found
        found.close()


@pytest.fixture
def visit(server, filled, chromium):
    """Sign in, and open the page by Airflow's navigation, in one of Airflow's colour modes."""
    contexts = []

    def opened(mode: str):
        context = chromium.new_context(viewport={"width": 1280, "height": 900})
        contexts.append(context)
        context.set_default_timeout(60_000)
        cookie = {"name": "_token", "value": server.token("ann"), "url": server.url}
        context.add_cookies([cookie])
        context.add_init_script(f"{VIOLATIONS}localStorage.setItem('theme', '{mode}')")
        page = context.new_page()
        page.goto(server.url)
        page.locator("a[href$='/plugin/dermascan']").click()
        page.frame_locator(FRAME).get_by_role("heading", name="Champion").wait_for()
        return page, page.query_selector(FRAME).content_frame()

    yield opened
    for context in contexts:
        context.close()


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_the_page_in_airflow_s_frame_follows_its_colours_and_can_be_read_by_all(visit, mode):
    page, frame = visit(mode)

    frame.locator(f"html[data-mode={mode}]").wait_for(state="attached")
    brightness = frame.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]")
    assert (int(brightness) > 128) == (mode == "light")
    assert frame.evaluate("violations") == []
    found = Axe().run(frame).response["violations"]
    assert [each["id"] for each in found if each["impact"] in {"serious", "critical"}] == []
    assert page.evaluate("window.xss") is None


def test_a_report_opens_beside_airflow_and_its_script_does_not_run(visit, server):
    page, frame = visit("light")

    with page.context.expect_page() as opening:
        frame.get_by_role("link", name="Evaluation report of the champion").click()
    report = opening.value
    report.wait_for_load_state()

    assert report.url == f"{server.url}/dermascan/models/dermascan/2/report.html"
    assert report.evaluate("origin") == "null"
    assert report.evaluate("[parent.stolen, document.title]") == [None, "r"]
    assert page.url.startswith(f"{server.url}/plugin/dermascan")


def test_rolling_back_leads_out_of_the_frame_to_the_dag(visit, server):
    page, frame = visit("light")
    frame.get_by_role("link", name="Roll back to version 1").click()
    page.wait_for_url(f"{server.url}/dags/rollback_model**")
