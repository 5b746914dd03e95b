"""`dermascan models` against a real S3 server, as its users call it."""

import getpass
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from dermascan.cli import app
from dermascan.registry import Decision, champion, history, promote
from dermascan.storage import Store
from dermascan.versions import publish_version

EVALUATION = b'{"malignant": {"roc_auc": {"value": 0.875}}}'
LATER = Decision("bob", "meanwhile")


@pytest.fixture
def environment(store, monkeypatch):
    secret = store.settings.secret_access_key
    assert secret
    settings = {
        "DERMASCAN_BUCKET": store.bucket,
        "AWS_ENDPOINT_URL": str(store.settings.endpoint_url),
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": secret.get_secret_value(),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def versions(store, tmp_path):
    """Versions 1 to 3 of `m`; 1 and then 2 became champion."""
    (tmp_path / "saved_model.pb").write_bytes(b"graph")
    (tmp_path / "evaluation.json").write_bytes(EVALUATION)
    for version in (1, 2, 3):
        publish_version(store, "m", version, tmp_path)
    for version in (1, 2):
        promote(store, "m", version, Decision("ann", f"reason {version}"))


@pytest.fixture
def models(environment, versions):
    return lambda *arguments: CliRunner().invoke(app, ["models", *arguments, "--model", "m"])


def test_list_shows_versions_figures_and_which_are_and_were_champion(models, store):
    store.put("models/m/3/evaluation.json", b"{}")
    lines = [line.split() for line in models("list").output.splitlines()]
    assert lines[0] == ["version", "files", "AUC", "champion"]
    assert [line[0] for line in lines[1:]] == ["1", "2", "3"]
    assert lines[1][3:6] == ["0.875", "was,", "from"]
    assert lines[2][3:5] == ["0.875", "since"]
    assert lines[3][1:] == ["DAMAGED"]


def test_list_when_nothing_was_promoted_says_so(environment):
    assert (
        "m has no champion yet"
        in CliRunner().invoke(app, ["models", "list", "--model", "m"]).output
    )


def test_show_tells_where_the_champion_is_and_how_it_came_to_be(models, store):
    output = models("show").output
    assert f"m version 2: s3://{store.bucket}/models/m/2/" in output
    assert "2 files" in output
    assert "version 1  by ann: reason 1" in output
    assert output.splitlines()[-1].endswith("version 2  by ann: reason 2")


@pytest.mark.parametrize("command", [("show", "1"), ("promote", "1"), ("rollback",)])
def test_command_when_the_version_is_damaged_refuses_it(models, store, command):
    store.put("models/m/1/saved_model.pb", b"another graph")
    result = models(*command)
    assert result.exit_code == 2
    assert "saved_model.pb is not the file that the version's manifest lists" in result.stderr
    assert champion(store, "m").version == 2


def test_rollback_goes_back_and_records_who_and_why(models, store):
    result = models("rollback", "--reason", "too many false alarms")
    assert result.exit_code == 0, result.output
    move = list(history(store, "m"))[-1]
    assert (move.version, move.by) == (1, getpass.getuser())
    assert move.reason == "too many false alarms"
    assert f"version 1  by {move.by}: too many false alarms" in result.output


def test_promote_of_a_former_champion_moves_the_pointer_once(models, store):
    assert "m version 1 is champion\n" in models("promote", "1").output
    assert "m version 1 is champion already" in models("promote", "1").output
    assert [move.version for move in history(store, "m")] == [1, 2, 1]


def test_promote_of_a_version_that_was_never_champion_wants_proof(models, store):
    result = models("promote", "3")
    assert result.exit_code == 2
    assert champion(store, "m").version == 2


@pytest.mark.parametrize("command", [("promote", "1"), ("rollback",)])
def test_command_when_somebody_else_is_faster_says_who_and_ends_with_2(
    models, store, monkeypatch, command
):
    move = Store.move_pointer

    def too_late(self, key, value, tag):
        monkeypatch.setattr(Store, "move_pointer", move)
        promote(store, "m", 3, LATER)
        move(self, key, value, tag)

    monkeypatch.setattr(Store, "move_pointer", too_late)
    result = models(*command)
    assert result.exit_code == 2
    assert "version 1 was not made champion: meanwhile bob made version 3" in result.stderr
    assert [move.version for move in history(store, "m")] == [1, 2, 3]


def test_commands_need_no_tensorflow_and_their_pointer_work_takes_seconds(models, store):
    code = (
        "import sys\nfrom dermascan.cli import app\n"
        "app(sys.argv[1:], standalone_mode=False)\n"
        "print([m for m in ('tensorflow', 'keras', 'mlflow', 'pandas') if m in sys.modules])"
    )
    for command in (["list"], ["rollback"]):
        arguments = [sys.executable, "-c", code, "models", *command, "--model", "m"]
        done = subprocess.run(arguments, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[]", command
    started = time.monotonic()
    models("rollback", "2")
    assert time.monotonic() - started < 5
