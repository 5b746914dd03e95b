"""The project's DAGs in a real Airflow: what its users see when things go right and wrong."""

import io
import json
import time
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import httpx
import numpy as np
import pandas as pd
import psutil
import pytest
from archives import row, serving, write_folder
from planted import MARKERS, plant
from pydantic import SecretStr
from stacks import kill, runs_of, stack_in, wait_until
from traces import traces, traces_in_folder

from dermascan.dataset import read_pointer
from dermascan.errors import InputError, NotFoundError, TransientError
from dermascan.evaluation import CLASS_COLUMNS, Evaluation, evaluate
from dermascan.isic.synthetic import write_archive
from dermascan.layout import TrainingKeys
from dermascan.registry import Decision, history, promote
from dermascan.stack import credentials
from dermascan.stack.airflow_api import Run
from dermascan.stack.connections import ARCHIVE
from dermascan.stack.embedded import UpRequest
from dermascan.stack.runs import (
    ENDED,
    RunOutcome,
    RunRequest,
    trigger,
    trigger_and_wait,
    wait_for_dag,
    watch,
)
from dermascan.storage import Store
from dermascan.versions import publish_version

RUN_TIMEOUT = 400
WAITING = {"awaiting_input", "deferred"}  # states of tasks that hold no worker

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
    embedded = stack_in(tmp_path_factory.mktemp("stack") / "state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DERMASCAN_INCOMING_POLL_SECONDS", "1")
        patch.setenv("DERMASCAN_INCOMING_QUIET_SECONDS", "5")
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


SMALL = {"architecture": "small_cnn", "networks": 1, "epochs": 1, "image_size": "48x64"}


@pytest.fixture(scope="module")
def failed(ingested, run) -> RunOutcome:
    """A training that the gate refuses."""
    assert ingested.succeeded
    return run("train_model", dataset="drawn", **SMALL)


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


def test_train_when_the_gate_fails_shows_its_table_and_publishes_nothing(failed, api, bucket):
    assert states(failed)["gate"] == "failed", failed.failed
    assert states(failed)["promote"] == "upstream_failed"
    text = log_of(api, failed, "gate")
    assert "GateFailedError" in text
    assert "needed" in text
    assert "images/s" in log_of(api, failed, "train")
    assert [f.key for f in bucket.list("models/")] == []
    assert any(f.key.endswith("candidate/dermascan/report.html") for f in bucket.list("training/"))


def links_of(api, outcome: RunOutcome, label: str) -> dict[str, str | None]:
    (task,) = [task for task in outcome.tasks if task.label == label]
    place = f"/dags/{outcome.dag_id}/dagRuns/{quote(outcome.run_id)}/taskInstances/{task.task_id}"
    found = api._call("GET", f"{place}/links", params={"map_index": task.map_index})
    return found["extra_links"]


def note_of(api, outcome: RunOutcome) -> str:
    return api._call("GET", f"/dags/{outcome.dag_id}/dagRuns/{quote(outcome.run_id)}")["note"]


@pytest.fixture(scope="module")
def browse(stack, api):
    """Open an address as the signed-in user of a browser would."""
    api.dag_ids()  # signs in
    cookies = {"_token": api._client.headers["Authorization"].removeprefix("Bearer ")}
    with httpx.Client(cookies=cookies, trust_env=False, timeout=30) as client:
        yield client.get


def test_tasks_link_to_what_they_made_and_the_run_says_what_it_came_to(
    ingested, stack, api, browse
):
    links = links_of(api, ingested, "validate")
    assert links.keys() == {"Data Docs"}
    assert browse(links["Data Docs"]).text.count("Validation of drawn") > 0
    objects = links_of(api, ingested, "publish_manifest")["Objects"]
    assert objects == f"{stack.airflow_url}/dermascan/objects/raw/drawn/manifests/"
    assert ".classes.json" in browse(objects).text
    mapped = links_of(api, ingested, "shard.upload_to_s3[0]")["Objects"]
    assert mapped.endswith("/dermascan/objects/raw/drawn/images/")
    staging = links_of(api, ingested, "shard.download_from_isic[0]")["Objects"]
    assert "cleared when the run ends" in browse(staging).text
    assert note_of(api, ingested).startswith("**Outcome:** Dataset 'drawn' (90 images) is valid")


def test_a_failed_training_links_to_report_card_and_tracking_and_says_why(
    failed, stack, api, browse
):
    for label in ("evaluate", "gate"):
        links = links_of(api, failed, label)
        assert "Evaluation on held-out lesions" in browse(links["Evaluation report"]).text
        assert browse(links["Model card"]).is_success
        assert "report.html" not in browse(links["Objects"]).text  # it lies deeper
        assert links["MLflow run"] == links_of(api, failed, "train")["MLflow run"]
    assert links_of(api, failed, "promote").keys() == links.keys()
    assert set(links_of(api, failed, "promote").values()) == {None}
    note = note_of(api, failed)
    assert "`gate` failed. GateFailedError: " in note
    assert "the task's log says more" in note
    client, page = mlflow(stack), links["MLflow run"]
    tracked = client.get_run(page.rsplit("/", 1)[-1])
    assert page.startswith(stack.mlflow_url)
    run_page = f"{stack.airflow_url}/dags/train_model/runs/{quote(failed.run_id)}"
    assert tracked.data.tags["airflow.url"] == run_page
    assert tracked.inputs.dataset_inputs[0].dataset.name == "drawn"
    (model,) = client.search_logged_models([tracked.info.experiment_id])
    assert model.source_run_id == tracked.info.run_id


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
        assert "ended" in api._call("GET", started)["note"]  # a task of it, or the run alone


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
    assert "`resolve` failed. NotFoundError: model 'dermascan' has no champion yet" in note_of(
        api, outcome
    )
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


# What starts by itself


def test_folders_that_arrive_have_one_run_each_though_the_triggerer_is_killed(stack, bucket, api):
    def drop(name: str, *others: str) -> None:
        for other in ("no-image.jpg", *others):
            bucket.put(f"incoming/{name}/{other}", b"no image")

    def started() -> list[str]:
        runs = runs_of(stack, "batch_inference")
        return sorted(run["conf"]["prefix"] for run in runs if "incoming/" in run["conf"]["prefix"])

    drop("{{ 7 * 7 }}", "_READY")
    drop("quiet")
    wait_until(lambda: any(bucket.list("incoming-watch/")), 120, "nothing is claimed")
    kill(stack, "triggerer")
    drop("late", "_READY")
    stack.up(UpRequest())

    names = ("late", "quiet", "{{ 7 * 7 }}")
    everything = [f"s3://dermascan/incoming/{name}/" for name in names]
    wait_until(lambda: len(started()) >= len(names), 180, "a folder has no run")
    wait_until(lambda: not any(bucket.list("incoming-watch/pending/")), 120, "a claim is left")
    assert started() == everything
    (late,) = [run for run in runs_of(stack, "batch_inference") if "late" in run["dag_run_id"]]
    assert late["note"].startswith("Started for s3://dermascan/incoming/late/: 1 objects")


# What waits for a person


def begin(stack, api, dag_id: str, **conf) -> Run:
    return trigger(api, wait_for_dag(api, dag_id, stack.since("dag-processor")), conf)


def end_of(stack, api, run: Run) -> RunOutcome:
    return watch(api, run, Silent(), check=stack.require_running, timeout=RUN_TIMEOUT)


def place_of(run: Run, task: str) -> str:
    run_id = quote(run.dag_run_id)
    return f"/dags/{run.dag_id}/dagRuns/{run_id}/taskInstances/{task}/-1/hitlDetails"


def question(stack, api, run: Run, task: str) -> dict:
    """Wait until a task waits for an answer, and return what it asks.

    Airflow's scheduler takes a task for killed if it was answered, and is queued again, before the
    scheduler has heard from the executor that the task had gone to wait: a matter of a second,
    too fast for a person.
    """
    asked = asked_by(stack, api, run, task)
    wait_until(lambda: state_of(api, run, task) in WAITING, RUN_TIMEOUT, f"{task} holds a worker")
    known_at = datetime.now(UTC) + timedelta(seconds=1)
    wait_until(lambda: heartbeat(api) > known_at, RUN_TIMEOUT, "scheduler is gone")
    return asked


def heartbeat(api) -> datetime:
    scheduler = api._call("GET", "/monitor/health")["scheduler"]
    return datetime.fromisoformat(scheduler["latest_scheduler_heartbeat"])


def asked_by(stack, api, run: Run, task: str) -> dict:
    deadline = time.monotonic() + RUN_TIMEOUT
    while time.monotonic() < deadline:
        try:
            asked = api._call("GET", place_of(run, task))
        except NotFoundError:
            asked = {"response_received": True}
        if not asked["response_received"]:
            return asked
        if api.run(run.dag_id, run.dag_run_id).state in ENDED:
            raise AssertionError(f"{task} asked nothing: {end_of(stack, api, run).failed}")
        time.sleep(1)
    raise AssertionError(f"{task} asked nothing")


def answer(api, run: Run, task: str, option: str) -> None:
    api._call("PATCH", place_of(run, task), {"chosen_options": [option], "params_input": {}})


def state_of(api, run: Run, task: str) -> str | None:
    return next(t.state for t in api.tasks(run.dag_id, run.dag_run_id) if t.label == task)


def test_rollback_offers_the_earlier_champions_and_records_who_chose(
    stack, api, run, bucket, tmp_path
):
    (tmp_path / "saved_model.pb").write_bytes(b"graph")
    for version in (1, 2, 3):
        publish_version(bucket, "rolled", version, tmp_path)
        promote(bucket, "rolled", version, Decision("ann", f"reason {version}"))

    waiting = begin(stack, api, "rollback_model", model="rolled", reason="false alarms")
    asked = question(stack, api, waiting, "choose")
    assert asked["options"] == ["2", "1", "Leave as it is"]
    assert "| 1 |" in asked["body"]
    assert state_of(api, waiting, "choose") in WAITING
    with pytest.raises((InputError, TransientError)):
        answer(api, waiting, "choose", "99")
    answer(api, waiting, "choose", "1")
    outcome = end_of(stack, api, waiting)
    assert outcome.succeeded, outcome.failed
    move = list(history(bucket, "rolled"))[-1]
    assert (move.version, move.by) == (1, api._username)
    assert move.reason == f"false alarms (rollback_model/{waiting.dag_run_id})"

    assert run("rollback_model", model="rolled", to_version="previous").succeeded
    assert [move.version for move in history(bucket, "rolled")] == [1, 2, 3, 1, 3]
    assert f"rolled version 1 is champion, by {api._username}: false alarms" in note_of(
        api, outcome
    )
    assert links_of(api, outcome, "rollback")["Objects"].endswith("/objects/models/rolled/1/")
    shown = mlflow(stack).get_model_version_by_alias("rolled", "champion")
    assert shown.tags["dermascan.version"] == "3"


def mlflow(stack):
    from mlflow import MlflowClient  # noqa: PLC0415  # takes seconds to import

    return MlflowClient(stack.mlflow_url)


COPIES = 4  # of each test image: enough of them for the gate, too few for its stricter rules


def renamed(table: pd.DataFrame, copy: int) -> pd.DataFrame:
    names = table["isic_id"] + f"_{copy}"
    return table.assign(isic_id=names, lesion_id=names)


def flatter(bucket: Store) -> str:
    """Let the training that failed the gate look good, and return its fingerprint."""
    (done,) = [f.key for f in bucket.list("training/") if f.key.endswith("/DONE.json")]
    training = done.split("/")[1]
    keys = TrainingKeys(training)
    measured = Evaluation.model_validate_json(bucket.get(keys.evaluation))
    old = pd.read_parquet(io.BytesIO(bucket.get(keys.scores)))
    table = pd.concat([renamed(old, copy) for copy in range(COPIES)], ignore_index=True)
    for column in CLASS_COLUMNS:
        rightly = table["lesion_class"] == column.removeprefix("p_")
        table[column] = np.where(rightly, 0.94, 0.01)
    missed = table.index[table["lesion_class"].isin(("mel", "bcc", "akiec"))][0]
    table.loc[missed, list(CLASS_COLUMNS)] = 0.01  # a figure without any error has no interval
    table.loc[missed, "p_nv"] = 0.94
    table["p_malignant"] = table[["p_mel", "p_bcc", "p_akiec"]].sum(axis=1)
    right = {"similarity_randomised": 0.0, "similarity_repeated": 1.0}
    assert measured.explanation
    assert measured.efficiency
    parts = {
        "efficiency": measured.efficiency.model_copy(update={"milliseconds_per_image": 1.0}),
        "explanation": measured.explanation.model_copy(update=right),
    }
    evaluation = evaluate(table, 0.5, dataset="drawn", resamples=50).model_copy(update=parts)
    sink = io.BytesIO()
    table.to_parquet(sink)
    bucket.put(keys.scores, sink.getvalue())
    bucket.put(keys.evaluation, evaluation.model_dump_json().encode())
    return training


def test_approval_when_rejected_publishes_nothing_and_when_approved_records_who(
    failed, stack, api, bucket
):
    assert not failed.succeeded
    training = flatter(bucket)
    waiting = begin(
        stack, api, "train_model", dataset="drawn", model="asked", require_approval=True, **SMALL
    )
    asked = question(stack, api, waiting, "approval")
    assert asked["options"] == ["Approve", "Reject"]
    assert "separates malignant from benign" in asked["body"]
    assert f"[MLflow run]({stack.mlflow_url}/#/experiments/" in asked["body"]
    answer(api, waiting, "approval", "Reject")
    outcome = end_of(stack, api, waiting)
    assert not outcome.succeeded
    assert states(outcome)["approval"] == "failed"
    assert states(outcome)["promote"] == "upstream_failed"
    assert list(bucket.list("models/asked/")) == []

    again = {"dag_run_id": waiting.dag_run_id, "task_ids": ["approval"], "dry_run": False}
    options = {"include_downstream": True, "only_failed": False, "reset_dag_runs": True}
    api._call("POST", "/dags/train_model/clearTaskInstances", again | options)
    question(stack, api, waiting, "approval")
    answer(api, waiting, "approval", "Approve")
    outcome = end_of(stack, api, waiting)
    assert outcome.succeeded, outcome.failed
    (move,) = history(bucket, "asked")
    assert move.by == api._username
    assert move.reason == (
        f"training run {training} passed the gate, approved in train_model/{waiting.dag_run_id}"
    )


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
