import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dermascan.imaging import Preprocessing
from dermascan.learning.learner import TrainingConfig
from dermascan.learning.network import ARCHITECTURES

PROJECT = Path(__file__).parents[2]
DAG_FILES = sorted(
    path for path in (PROJECT / "dags").glob("*.py") if "\n@dag(" in path.read_text()
)
MAY_NOT_RECOVER = {"approval", "choose", "decide"}


@pytest.fixture(scope="module")
def parsed(tmp_path_factory):
    home = tmp_path_factory.mktemp("airflow-home")
    environment = {**os.environ, "AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    return {path.stem: answer_of("parse.py", path, environment) for path in DAG_FILES}


def answer_of(script: str, argument: Path, environment: dict[str, str]) -> dict:
    command = [sys.executable, str(Path(__file__).with_name(script)), str(argument)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    home = tmp_path_factory.mktemp("airflow-home-of-answers")
    environment = {**os.environ, "AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    return answer_of("answers.py", PROJECT / "dags", environment)


def test_dags_are_those_that_the_design_names(parsed):
    named = {"ingest_isic", "train_model", "batch_inference", "rollback_model", "watch_incoming"}
    assert {dag for facts in parsed.values() for dag in facts["dags"]} == named


def test_dag_files_parse_without_error_within_a_second(parsed):
    for name, facts in parsed.items():
        assert facts["errors"] == {}, name
        assert facts["seconds"] < 1, name


def test_dag_that_reads_notifications_parses_without_broker_and_connection(tmp_path):
    environment = {**os.environ, "AIRFLOW_HOME": str(tmp_path), "DERMASCAN_KAFKA_TOPIC": "events"}
    facts = answer_of("parse.py", PROJECT / "dags" / "watch_incoming.py", environment)

    assert facts["errors"] == {}
    assert facts["watchers"] == ["dermascan_incoming", "dermascan_notifications"]


def test_dag_files_import_nothing_heavy(parsed):
    assert {name: facts["heavy"] for name, facts in parsed.items() if facts["heavy"]} == {}


def test_every_param_explains_itself(parsed):
    for facts in parsed.values():
        for dag_id, dag in facts["dags"].items():
            assert dag["params"] or dag_id == "watch_incoming", dag_id  # which its asset starts
            for name, param in dag["params"].items():
                assert param["schema"].get("title"), (dag_id, name)
                assert param["description"], (dag_id, name)
                assert param["schema"].get("type") or param["schema"].get("enum"), (dag_id, name)


def test_the_form_of_training_offers_what_the_library_knows_and_its_defaults(parsed):
    form = parsed["train_model"]["dags"]["train_model"]["params"]
    config = TrainingConfig()
    library = {
        "image_size": str(Preprocessing().image_size),
        "architecture": config.network.architecture,
        "networks": config.members,
        "epochs": config.epochs,
        "batch_size": config.batch_size,
        "learning_rate": config.learning_rate,
        "seed": config.seed,
    }

    assert set(form["architecture"]["schema"]["enum"]) == set(ARCHITECTURES)
    assert {name: form[name]["default"] for name in library} == library


def test_no_param_keeps_the_form_from_being_sent_as_it_is(parsed):
    """Airflow's form asks for text where a param is a string and nothing else."""
    for facts in parsed.values():
        for dag_id, dag in facts["dags"].items():
            for name, param in dag["params"].items():
                empty = param["default"] in {None, ""}
                assert not empty or "null" in param["schema"]["type"], (dag_id, name)


def test_every_dag_is_documented_and_tagged(parsed):
    for facts in parsed.values():
        for dag_id, dag in facts["dags"].items():
            assert dag["doc"], dag_id
            assert "dermascan" in dag["tags"], dag_id


def test_every_task_retries_what_can_recover_and_ends_some_time(parsed):
    for facts in parsed.values():
        for dag_id, dag in facts["dags"].items():
            for task_id, task in dag["tasks"].items():
                if task_id not in MAY_NOT_RECOVER:
                    assert task["retries"] >= 1, (dag_id, task_id)
                    assert task["policy"], (dag_id, task_id)
                    assert task["timeout"], (dag_id, task_id)


def test_train_waits_for_all_preprocessing_and_has_its_own_pool(parsed):
    tasks = parsed["train_model"]["dags"]["train_model"]["tasks"]
    assert "preprocess" in tasks["train"]["upstream"]
    assert tasks["train"]["pool"] == "training"


def test_uploads_go_before_further_downloads(parsed):
    tasks = parsed["ingest_isic"]["dags"]["ingest_isic"]["tasks"]
    (download_rule, download), (upload_rule, upload) = (
        tasks[f"shard.{name}"]["weight"] for name in ("download_from_isic", "upload_to_s3")
    )

    assert {download_rule, upload_rule} == {"absolute"}  # else a download has the upload's too
    assert upload > download


def test_training_alone_has_a_queue_of_its_own(parsed):
    queues = {
        f"{dag_id}.{task_id}": task["queue"]
        for facts in parsed.values()
        for dag_id, dag in facts["dags"].items()
        for task_id, task in dag["tasks"].items()
    }
    assert queues.pop("train_model.train") == "train"
    assert set(queues.values()) == {"default"}


def test_promotion_comes_after_gate_and_approval(parsed):
    tasks = parsed["train_model"]["dags"]["train_model"]["tasks"]
    assert {"gate", "approval", "decide"} <= set(tasks["promote"]["upstream"])


def test_approval_waits_without_a_worker_and_not_for_ever(answers):
    asked = answers["approval"]["asked"]
    assert asked["how"] == "TaskAwaitingInput"
    assert asked["limited"]
    assert asked["options"] == ["Approve", "Reject"]
    assert asked["body"] == "{{ ti.xcom_pull('gate')['request'] }}"


def test_approval_lets_only_a_person_approve(answers):
    outcomes = answers["approval"]
    assert outcomes["approved"] == {"options": ["Approve"], "by": {"id": "7", "name": "ann"}}
    assert outcomes["rejected"] == "HITLRejectException"  # fails the task, and so the run
    assert outcomes["timed out"] == "HITLRejectException"


def test_watch_starts_one_run_for_each_folder_and_notes_all_that_were_started(parsed):
    tasks = parsed["watch_incoming"]["dags"]["watch_incoming"]["tasks"]
    assert {name: task["upstream"] for name, task in tasks.items()} == {
        "find": [],
        "start": ["find"],
        "acknowledge": ["find", "start"],
    }


def test_rollback_offers_the_versions_and_takes_no_other(answers):
    asked = answers["choose"]["asked"]
    assert (asked["how"], asked["limited"]) == ("TaskAwaitingInput", True)
    assert asked["options"] == ["2", "1", "Leave as it is"]
    assert asked["body"] == "a table"
    assert answers["choose"]["chosen"] == {"options": ["1"], "by": {"id": "7", "name": "ann"}}
    assert answers["choose"]["invented"] == "ValueError"
    assert answers["choose"]["timed out"] == {"options": ["Leave as it is"], "by": None}


def test_rollback_comes_at_once_or_after_the_choice(parsed):
    tasks = parsed["rollback_model"]["dags"]["rollback_model"]["tasks"]
    assert set(tasks["rollback"]["upstream"]) == {"choose", "decide"}
    assert tasks["choose"]["upstream"] == ["offer"]


def test_library_never_imports_airflow():
    imported = {name for path in (PROJECT / "dermascan").rglob("*.py") for name in imports(path)}
    assert not {name for name in imported if name.split(".")[0] == "airflow"}


def imports(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.module}
