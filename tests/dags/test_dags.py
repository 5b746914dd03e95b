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
DAG_FILES = sorted(path for path in (PROJECT / "dags").glob("*.py") if path.name != "common.py")
MAY_NOT_RECOVER = {"approval", "decide"}


@pytest.fixture(scope="module")
def parsed(tmp_path_factory):
    home = tmp_path_factory.mktemp("airflow-home")
    environment = {**os.environ, "AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    script = Path(__file__).with_name("parse.py")
    facts = {}
    for path in DAG_FILES:
        command = [sys.executable, str(script), str(path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        facts[path.stem] = json.loads(done.stdout.splitlines()[-1])
    return facts


def test_dags_are_those_that_the_design_names(parsed):
    named = {"ingest_isic", "train_model", "batch_inference", "rollback_model"}
    assert {dag for facts in parsed.values() for dag in facts["dags"]} == named


def test_dag_files_parse_without_error_within_a_second(parsed):
    for name, facts in parsed.items():
        assert facts["errors"] == {}, name
        assert facts["seconds"] < 1, name


def test_dag_files_import_nothing_heavy(parsed):
    assert {name: facts["heavy"] for name, facts in parsed.items() if facts["heavy"]} == {}


def test_every_param_explains_itself(parsed):
    for facts in parsed.values():
        for dag_id, dag in facts["dags"].items():
            assert dag["params"], dag_id
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


def test_promotion_comes_after_gate_and_approval(parsed):
    tasks = parsed["train_model"]["dags"]["train_model"]["tasks"]
    assert {"gate", "approval", "decide"} <= set(tasks["promote"]["upstream"])


def test_library_never_imports_airflow():
    imported = {name for path in (PROJECT / "dermascan").rglob("*.py") for name in imports(path)}
    assert not {name for name in imported if name.split(".")[0] == "airflow"}


def imports(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.module}
