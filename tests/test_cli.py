import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dermascan.cli import app
from dermascan.commands import shared, trigger
from dermascan.errors import InputError
from dermascan.stack.airflow_api import Task
from dermascan.stack.embedded import PARTS, EmbeddedStack
from dermascan.stack.runs import FailedTask, RunOutcome

HEAVY = ("airflow", "boto3", "numpy", "pandas", "tensorflow", "great_expectations", "mlflow")


@pytest.fixture
def run(tmp_path):
    (tmp_path / "dags").mkdir()
    return lambda *arguments: CliRunner().invoke(app, ["--project", str(tmp_path), *arguments])


def task(name, state, map_index=-1, try_number=1) -> Task:
    return Task(
        task_id=name,
        map_index=map_index,
        state=state,
        try_number=try_number,
        duration=2.0,
        start_date=None,
    )


def test_import_when_only_help_is_wanted_loads_nothing_heavy():
    code = f"import sys, dermascan.cli; print([m for m in {HEAVY} if m in sys.modules])"

    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert answer.stdout.strip() == "[]"


def test_command_when_the_library_refuses_shows_one_line_and_ends_with_2(run, monkeypatch):
    def refuse(_stack):
        raise InputError("the port is taken: choose another")

    monkeypatch.setattr(EmbeddedStack, "status", refuse)

    result = run("status")

    assert result.exit_code == 2
    assert result.stderr.strip() == "error: the port is taken: choose another"


def test_command_when_debugging_raises_the_error_itself(run, monkeypatch):
    def refuse(_stack):
        raise InputError("no")

    monkeypatch.setattr(EmbeddedStack, "status", refuse)

    result = run("--debug", "status")

    assert isinstance(result.exception, InputError)


def test_command_when_the_project_is_missing_says_so():
    result = CliRunner().invoke(app, ["--project", "/no/such/folder", "status"])

    assert result.exit_code == 2
    assert "/no/such/folder" in result.stderr


def test_status_when_nothing_was_ever_started_lists_parts_as_stopped_and_ends_with_1(run):
    result = run("status")

    assert result.exit_code == 1
    assert result.output.count("stopped") == len(PARTS)


def test_down_when_nothing_was_ever_started_is_harmless(run, tmp_path):
    result = run("down")

    assert (result.exit_code, result.output.strip()) == (0, "nothing was running")
    assert not (tmp_path / ".dermascan").exists()


def test_trigger_when_nothing_runs_says_how_to_start(run):
    result = run("trigger", "some_dag")

    assert result.exit_code == 2
    assert "dermascan up" in result.stderr


def test_doctor_when_the_storage_is_unreachable_ends_with_1_and_a_remedy(run):
    result = run("doctor", "--endpoint-url", "http://127.0.0.1:9", "--bucket", "somewhere")

    assert result.exit_code == 1
    assert "problem" in result.output
    assert "-> check address" in result.output


def test_plain_observer_when_states_change_writes_a_line_for_each(capsys):
    changed = [task("plan", "success"), task("get", "running", map_index=2, try_number=3)]

    trigger.PlainObserver().progressed(changed, changed)

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("plan: success in 2.0 s")
    assert lines[1].endswith("get[2]: running, try 3")


def test_task_table_when_a_task_is_mapped_counts_its_states():
    tasks = [task("plan", "success"), *(task("get", "success", n) for n in range(3))]
    out = shared.console()

    with out.capture() as captured:
        out.print(trigger.task_table([*tasks, task("get", None, 3)]))

    assert "3 success, 1 waiting" in captured.get()
    assert len(captured.get().splitlines()) == 3


def test_show_outcome_when_a_task_failed_shows_its_log_and_the_link(capsys):
    failed = (FailedTask("train", ("epoch 3", "ValueError: no")),)
    outcome = RunOutcome("train_model", "r", "failed", 65.0, "http://a/run", (), failed)

    trigger.show_outcome(outcome)

    out = capsys.readouterr().out
    assert "epoch 3\nValueError: no\n" in out
    assert "train_model: failed in 1 min 05 s, see http://a/run" in out


def test_archive_synth_when_run_writes_a_folder(run, tmp_path):
    folder: Path = tmp_path / "archive"

    result = run("archive", "synth", str(folder), "--images", "8", "--seed", "3")

    assert result.exit_code == 0, result.output
    assert len(list(folder.glob("*.jpg"))) == 8
    assert (folder / "metadata.csv").is_file()
