import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from dermascan.errors import TransientError
from dermascan.stack import airflow, mlflow, object_store
from dermascan.stack.credentials import Credentials
from dermascan.stack.environment import inherited_environment
from dermascan.stack.layout import StackPaths
from dermascan.stack.ports import Ports

# Stands in for `python -m airflow db migrate`: writes a table, or fails.
MIGRATION = """
import os, sqlite3, sys
path = os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].removeprefix("sqlite:///").split("?")[0]
with sqlite3.connect(path) as database:
    database.execute("create table if not exists migrations (n)")
    database.execute("insert into migrations values (1)")
sys.exit("no such revision" if os.environ.get("BREAK") else 0)
"""


@pytest.fixture
def paths(tmp_path):
    paths = StackPaths.of_project(tmp_path)
    paths.create()
    return paths


@pytest.fixture
def fake_airflow(monkeypatch, tmp_path):
    program = tmp_path / "airflow.py"
    program.write_text(MIGRATION)
    command = [*airflow._airflow()[:1], str(program)]
    monkeypatch.setattr(airflow, "_airflow", lambda: command)


def migrations(paths: StackPaths) -> int:
    with closing(sqlite3.connect(paths.airflow / "airflow.db")) as database:
        return database.execute("select count(*) from migrations").fetchone()[0]


def test_environment_when_the_user_has_another_airflow_does_not_mix_with_it(paths):
    inherited = {
        "AIRFLOW_HOME": "/other",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql://other",
        "AIRFLOW__CORE__FERNET_KEY_CMD": "other",
        "PATH": "/bin",
    }

    variables = airflow.environment(paths, Ports(), Credentials.generate(), inherited)

    assert variables["AIRFLOW_HOME"] == str(paths.airflow)
    assert str(paths.airflow) in variables["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    assert "AIRFLOW__CORE__FERNET_KEY_CMD" not in variables
    assert variables["PATH"] == "/bin"


def test_environment_when_ports_are_chosen_leads_everything_to_them(paths):
    ports = Ports(airflow=1234, mlflow=4321)

    variables = airflow.environment(paths, ports, Credentials.generate(), {})

    assert variables["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert variables["AIRFLOW__API__PORT"] == "1234"
    assert (
        variables["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://127.0.0.1:1234/execution/"
    )
    assert variables["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:4321"


def test_inherited_environment_when_a_proxy_is_set_keeps_loopback_away_from_it():
    inherited = inherited_environment({"HTTP_PROXY": "http://proxy", "no_proxy": "intranet"})

    assert inherited["NO_PROXY"] == inherited["no_proxy"] == "intranet,127.0.0.1,localhost"


def test_launches_when_the_caller_has_aws_keys_keep_them_from_the_servers(paths):
    keys, inherited = Credentials.generate(), {"AWS_ACCESS_KEY_ID": "theirs", "AWS_PROFILE": "x"}

    tracking = mlflow.launch(paths, Ports(s3=8444), keys, inherited)
    storage = object_store.launch(paths, (1, 2, 3, 4), keys, inherited)

    assert tracking.environment["AWS_ACCESS_KEY_ID"] == keys.s3_access_key_id
    assert tracking.environment["MLFLOW_S3_ENDPOINT_URL"] == "http://127.0.0.1:8444"
    assert "AWS_PROFILE" not in tracking.environment
    assert not [name for name in storage.environment if name.startswith("AWS_")]
    assert keys.s3_access_key_id in paths.object_identity.read_text()


@pytest.mark.usefixtures("fake_airflow")
def test_migrate_when_done_needs_no_other_until_the_version_changes(paths, monkeypatch):
    before = airflow.needs_migration(paths)

    airflow.migrate(paths, {})
    after = airflow.needs_migration(paths)
    monkeypatch.setattr(airflow, "_version", lambda: "99")

    assert (before, after, airflow.needs_migration(paths)) == (True, False, True)
    airflow.migrate(paths, {})
    assert migrations(paths) == 2


@pytest.mark.usefixtures("fake_airflow")
def test_migrate_when_it_fails_shows_why_and_leaves_the_database_as_it_was(paths):
    airflow.migrate(paths, {})

    with pytest.raises(TransientError, match="no such revision"):
        airflow.migrate(paths, {"BREAK": "1"})

    assert migrations(paths) == 1


@pytest.mark.usefixtures("fake_airflow")
def test_migrate_when_an_earlier_one_was_killed_begins_anew(paths):
    (paths.airflow / "airflow.migrating").write_bytes(b"half a database")
    (paths.airflow / "airflow.migrating-wal").write_bytes(b"half a log")

    airflow.migrate(paths, {})

    assert migrations(paths) == 1
    assert not list(Path(paths.airflow).glob("*.migrating*"))
