"""The project's DAGs in a real Airflow: what its users see when things go right and wrong."""

import json
import time
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest
from archives import row, serving, write_folder
from planted import MARKERS, plant
from pydantic import SecretStr
from stacks import free_ports
from traces import traces, traces_in_folder

from dermascan.dataset import read_pointer
from dermascan.errors import InputError
from dermascan.isic.synthetic import write_archive
from dermascan.stack import credentials, ports
from dermascan.stack.connections import ARCHIVE
from dermascan.stack.embedded import EmbeddedStack, UpRequest
from dermascan.stack.layout import StackPaths
from dermascan.stack.runs import RunOutcome, RunRequest, trigger_and_wait
from dermascan.storage import Store

PROJECT = Path(__file__).parents[1]
RUN_TIMEOUT = 400

pytestmark = pytest.mark.timeout(900)


class Silent:
    def started(self, run, url):
        pass

    def progressed(self, tasks, changed):
        pass


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    write_archive(folder, images=90, seed=5)
    plant(folder)
    with serving(folder) as url:
        yield url


@pytest.fixture(scope="module")
def stack(tmp_path_factory, archive):
    state = tmp_path_factory.mktemp("stack") / "state"
    paths = StackPaths(PROJECT, state, PROJECT / "dags", PROJECT / "plugins")
    paths.create()
    ports.save(paths.ports, free_ports())
    embedded = EmbeddedStack(paths)
    embedded.up(UpRequest(isic_url=archive))
    yield embedded
    embedded.down()


@pytest.fixture(scope="module")
def api(stack):
    with stack.airflow_api() as client:
        yield client


@pytest.fixture(scope="module")
def bucket(stack) -> Store:
    return Store(stack.storage_settings())


@pytest.fixture(scope="module")
def run(stack, api):
    def trigger(dag_id: str, **conf) -> RunOutcome:
        request = RunRequest(dag_id, conf, parsed_since=stack.since("dag-processor"))
        return trigger_and_wait(
            api, request, Silent(), check=stack.require_running, timeout=RUN_TIMEOUT
        )

    return trigger


@pytest.fixture(scope="module")
def ingested(run) -> RunOutcome:
    return run("ingest_isic", dataset="drawn", start_training=False)


def log_of(api, outcome: RunOutcome, label: str) -> str:
    (task,) = [task for task in outcome.tasks if task.label == label]
    return "\n".join(api.log_lines(outcome.dag_id, outcome.run_id, task))


def states(outcome: RunOutcome) -> dict[str, str | None]:
    return {task.label: task.state for task in outcome.tasks}


def test_ingest_when_all_is_well_publishes_and_a_second_run_moves_nothing(
    ingested, run, api, bucket
):
    assert ingested.succeeded, ingested.failed
    assert read_pointer(bucket, "drawn").images == 90
    before = {found.key: found.etag for found in bucket.list("")}
    again = run("ingest_isic", dataset="drawn", start_training=False)
    assert again.succeeded, again.failed
    assert {found.key: found.etag for found in bucket.list("")} == before
    assert "0 new, 90 known" in log_of(api, again, "shard.download_from_isic[0]")
    assert "nothing changed" in log_of(api, again, "publish_manifest")
    assert "nothing to do" in log_of(api, again, "validate")


def test_ingest_when_validation_fails_shows_why_and_starts_no_training(
    run, api, bucket, archive, tmp_path
):
    rows = [row(i, copyright_license="", lesion_id="IL_0000001") for i in range(24)]
    with serving(write_folder(tmp_path, rows)) as url:
        api.change_connection(ARCHIVE, {"host": url})
        outcome = run("ingest_isic", dataset="bad", start_training=True)
    api.change_connection(ARCHIVE, {"host": archive})
    assert not outcome.succeeded
    (failed,) = outcome.failed
    assert failed.label == "validate"
    text = log_of(api, outcome, "validate")
    assert "ValidationFailedError" in text
    assert "ISIC_0000000" in text
    (task,) = [task for task in outcome.tasks if task.label == "validate"]
    assert task.try_number == 1
    docs = [f.key for f in bucket.list("reports/validation/bad/") if f.key.endswith("index.html")]
    assert docs


def test_train_when_the_gate_fails_shows_its_table_and_publishes_nothing(
    ingested, run, api, bucket
):
    assert ingested.succeeded
    params = {"architecture": "small_cnn", "epochs": 1, "image_size": "48x64"}
    outcome = run("train_model", dataset="drawn", **params)
    assert states(outcome)["gate"] == "failed", outcome.failed
    assert states(outcome)["promote"] == "upstream_failed"
    text = log_of(api, outcome, "gate")
    assert "GateFailedError" in text
    assert "needed" in text
    assert "images/s" in log_of(api, outcome, "train")
    assert [f.key for f in bucket.list("models/")] == []
    assert any(f.key.endswith("candidate/dermascan/report.html") for f in bucket.list("training/"))


def test_publication_of_a_dataset_starts_training_on_it(run, api):
    outcome = run("ingest_isic", dataset="starts", start_training=True)
    assert outcome.succeeded, outcome.failed
    started = wait_for_asset_run(api)
    try:
        (event,) = api._call("GET", f"{started}/upstreamAssetEvents")["asset_events"]
        assert event["extra"]["dataset"] == "starts"
        assert event["extra"]["manifest_key"].startswith("raw/starts/manifests/")
        assert event["extra"]["images"] == 90
    finally:
        api._call("PATCH", started, {"state": "failed"})  # its full training is not the subject


def wait_for_asset_run(api) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for found in api._call("GET", "/dags/train_model/dagRuns")["dag_runs"]:
            if found["run_type"] == "asset_triggered":
                return f"/dags/train_model/dagRuns/{quote(found['dag_run_id'])}"
        time.sleep(1)
    raise AssertionError("no run of train_model was started by the asset")


def test_batch_inference_when_there_is_no_model_says_what_to_do_and_does_not_retry(run, api):
    outcome = run("batch_inference", prefix="raw/drawn/images/")
    assert states(outcome)["resolve"] == "failed"
    assert "run train_model first" in log_of(api, outcome, "resolve")
    assert {task.try_number for task in outcome.tasks if task.label == "resolve"} == {1}


@pytest.mark.parametrize(
    ("dag_id", "conf"),
    [
        ("ingest_isic", {"dataset": "../elsewhere"}),
        ("ingest_isic", {"limit": -1}),
        ("train_model", {"image_size": "large"}),
        ("batch_inference", {"prefix": ""}),
        ("rollback_model", {"to_version": "latest"}),
    ],
)
def test_trigger_when_a_param_is_out_of_range_is_refused_before_it_runs(run, dag_id, conf):
    with pytest.raises(InputError, match=next(iter(conf))):
        run(dag_id, **conf)


def test_connections_are_in_the_metadata_database_without_secrets_in_sight(stack, api):
    known = api.connection("dermascan_s3")
    assert known
    assert json.loads(known.extra)["service_config"]["s3"]["bucket_name"] == "dermascan"
    secret = stack.storage_settings().secret_access_key.get_secret_value()
    assert secret not in known.model_dump_json()


@pytest.fixture(scope="module")
def secrets(stack) -> dict[str, str]:
    keys = credentials.load(stack.paths)
    values = {name: value for name, value in keys if isinstance(value, SecretStr)}
    values["admin's password"] = credentials.admin_password(stack.paths)
    return {name: value.get_secret_value() for name, value in values.items()}


def test_secrets_after_all_these_runs_are_nowhere_but_in_their_private_files(
    ingested, stack, bucket, secrets
):
    assert ingested.succeeded
    paths = stack.paths
    private = {paths.credentials, paths.airflow_passwords, paths.object_identity}
    found = traces_in_folder(paths.state, secrets, private)  # logs, databases, volumes
    assert found == {}
    assert (
        set().union(*(traces(bucket.get(each.key), secrets) for each in bucket.list(""))) == set()
    )
    commands = [
        " ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])
    ]
    assert not [name for name, value in secrets.items() if any(value in text for text in commands)]
    # The same search finds what is not secret where it has to be: in connection and XCom.
    known = {"key": credentials.load(paths).s3_access_key_id, "XCom": "raw/drawn/manifests/"}
    database = str((paths.airflow / "airflow.db").relative_to(paths.state))
    assert traces_in_folder(paths.state, known, private)[database] == "XCom, key"


def test_secrets_are_in_files_that_others_cannot_read(stack):
    paths = stack.paths
    assert paths.state.stat().st_mode & 0o777 == 0o700
    for file in (paths.credentials, paths.airflow_passwords, paths.object_identity):
        assert file.stat().st_mode & 0o777 == 0o600


def test_what_cameras_and_clinics_wrote_into_images_is_in_no_log_and_no_database(ingested, stack):
    assert ingested.succeeded
    paths = stack.paths
    volumes = {path for path in paths.objects.rglob("*") if path.is_file()}  # of the originals
    assert traces_in_folder(paths.state, MARKERS, volumes) == {}
