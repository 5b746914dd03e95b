"""The real stack, started by the real command line in a folder of its own.

The tests share one stack, because a start takes a while; each starts what it finds
stopped, so that they do not depend on each other.
"""

import os
import re
import signal
import socket
import time
from pathlib import Path

import psutil
import pytest
from stacks import free_ports
from typer.testing import CliRunner

from dermascan.cli import app
from dermascan.stack import ports, processes
from dermascan.stack.airflow_api import AirflowApi
from dermascan.stack.embedded import PARTS, EmbeddedStack, UpRequest
from dermascan.stack.layout import StackPaths
from dermascan.storage import Store

DAGS = """
import sys

BEFORE = set(sys.modules)

from airflow.sdk import Param, dag, get_current_context, task

PARAMS = {"count": Param(1, type="integer", maximum=5), "word": Param("", type="string")}


@dag(schedule=None, params=PARAMS)
def count_up():
    @task
    def numbers():
        return list(range(get_current_context()["params"]["count"]))

    @task
    def say(number):
        print(get_current_context()["params"]["word"], number)

    say.expand(number=numbers())


@dag(schedule=None)
def break_down():
    @task
    def look():
        print("looking at ISIC_0000001")
        raise ValueError("it has seven legs")

    look()


@dag(schedule=None)
def look_around():
    @task
    def at_modules():
        from dermascan.stack.preloaded import MODULES

        missing = set(MODULES) - BEFORE
        assert not missing, missing
        assert not {"tensorflow", "great_expectations", "dermascan.errors"} & BEFORE

    at_modules()


count_up()
break_down()
look_around()
"""
START_TIMEOUT = 300


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> StackPaths:
    project = tmp_path_factory.mktemp("a project")
    (project / "dags").mkdir()
    (project / "dags" / "examples.py").write_text(DAGS)
    return StackPaths.of_project(project)


@pytest.fixture(scope="module")
def command(paths):
    def run(*arguments: str):
        return CliRunner().invoke(app, ["--project", str(paths.project), *arguments])

    return run


@pytest.fixture(scope="module")
def stack(paths):
    paths.create()
    ports.save(paths.ports, free_ports())
    stack = EmbeddedStack(paths)
    try:
        yield stack
    finally:
        stack.down()


@pytest.fixture
def running(stack) -> EmbeddedStack:
    stack.up(UpRequest())
    return stack


def _everything(stack: EmbeddedStack) -> list[psutil.Process]:
    records = stack._records().values()
    return [found for record in records for found in processes.members(record, stack.paths.state)]


def _pids(stack: EmbeddedStack) -> dict[str, int | None]:
    return {part.name: part.pid for part in stack.status()}


def _working_in(folder: Path) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if processes._works_in(process, folder)]


@pytest.mark.timeout(START_TIMEOUT)
def test_up_when_it_is_done_everything_is_healthy_on_loopback_and_private(stack, command, paths):
    result = command("up")

    assert result.exit_code == 0, result.output
    assert command("status").exit_code == 0
    assert {part.name for part in stack.status() if part.healthy} == set(PARTS)
    addresses = {
        connection.laddr.ip
        for process in _everything(stack)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses == {"127.0.0.1"}
    assert paths.state.stat().st_mode & 0o777 == 0o700
    for file in (paths.credentials, paths.airflow_passwords, paths.object_identity):
        assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.timeout(START_TIMEOUT)
def test_up_when_everything_runs_starts_nothing_and_says_so(running, command):
    before = _pids(running)

    result = command("up")

    assert result.exit_code == 0
    assert result.output.count("already runs") == len(PARTS)
    assert _pids(running) == before


@pytest.mark.timeout(START_TIMEOUT)
def test_up_when_it_runs_on_other_ports_says_what_to_do_first(running, command):
    result = command("up", "--mlflow-port", str(ports.any_free()))

    assert result.exit_code == 2
    assert "run `dermascan down` first" in result.stderr


@pytest.mark.timeout(START_TIMEOUT)
def test_trigger_when_the_run_succeeds_shows_each_task_and_ends_with_0(running, command):
    result = command("trigger", "count_up", "--param", "count=2", "--param", "word=7", "--wait")

    assert result.exit_code == 0, result.output
    for line in ("numbers: success", r"say\[0\]: success", r"say\[1\]: success"):
        assert re.search(line, result.output)
    assert re.search(rf"count_up: success .*{running.airflow_url}/dags/count_up", result.output)


@pytest.mark.timeout(START_TIMEOUT)
@pytest.mark.usefixtures("running")
def test_trigger_when_a_task_fails_shows_its_last_lines_and_ends_with_1(command):
    result = command("trigger", "break_down", "--wait")

    assert result.exit_code == 1
    assert "looking at ISIC_0000001" in result.output
    assert "ValueError: it has seven legs" in result.output
    assert "break_down: failed" in result.output


@pytest.mark.timeout(START_TIMEOUT)
@pytest.mark.usefixtures("running")
def test_task_when_it_begins_has_what_most_tasks_import_and_nothing_heavy(command):
    result = command("trigger", "look_around", "--wait")

    assert result.exit_code == 0, result.output


@pytest.mark.timeout(START_TIMEOUT)
@pytest.mark.usefixtures("running")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("count_up", "--param", "count=9"), "9 is greater than the maximum of 5"),
        (("count_up", "--param", "cuont=1"), "no parameter cuont"),
    ],
)
def test_trigger_when_a_param_is_wrong_says_so_and_ends_with_2(command, arguments, words):
    result = command("trigger", *arguments)

    assert result.exit_code == 2
    assert words in result.stderr


@pytest.mark.timeout(START_TIMEOUT)
def test_up_when_everything_was_killed_starts_again_with_all_that_was_stored(running, command):
    Store(running.storage_settings()).put("kept/object", b"still there")
    with running.airflow_api() as api:
        api.change_connection("isic_archive", {"host": "https://mirror.example.org"})
    before = _pids(running)
    for process in _everything(running):
        process.send_signal(signal.SIGKILL)
    _wait_until_dead(running, *PARTS)

    stopped = command("status")
    started = command("up")

    assert stopped.exit_code == 1
    assert started.exit_code == 0, started.output
    assert not set(_pids(running).values()) & set(before.values())
    assert Store(running.storage_settings()).get("kept/object") == b"still there"
    with running.airflow_api() as api:
        assert _archive_address(api) == "https://mirror.example.org"


@pytest.mark.timeout(START_TIMEOUT)
def test_up_when_one_part_was_killed_starts_that_one_only(running, command):
    before = _pids(running)
    os.kill(before["scheduler"], signal.SIGKILL)
    _wait_until_dead(running, "scheduler")

    trigger, result = command("trigger", "count_up"), command("up")

    assert "scheduler no longer runs" in trigger.stderr
    assert result.exit_code == 0, result.output
    after = _pids(running)
    assert {name for name in PARTS if after[name] != before[name]} == {"scheduler"}


@pytest.mark.timeout(START_TIMEOUT)
def test_down_when_the_stack_runs_leaves_no_process_and_nothing_to_do(running, command):
    everything = _everything(running)

    first, second = command("down"), command("down")

    assert first.output.strip() == f"stopped {', '.join(PARTS)}"
    assert second.output.strip() == "nothing was running"
    assert not [process for process in everything if process.is_running()]
    assert _working_in(running.paths.state) == []


@pytest.mark.timeout(START_TIMEOUT)
def test_up_when_a_port_is_taken_names_it_and_starts_nothing(stack, command):
    stack.down()
    with socket.socket() as server:
        server.bind(("127.0.0.1", stack.ports.airflow))
        server.listen()

        result = command("up")

    assert result.exit_code == 2
    assert f"Airflow's port {stack.ports.airflow} is taken by process {os.getpid()}" in (
        result.stderr
    )
    assert "--airflow-port" in result.stderr
    assert _working_in(stack.paths.state) == []


def _archive_address(api: AirflowApi) -> str | None:
    connection = api.connection("isic_archive")
    return connection.host if connection else None


def _wait_until_dead(stack: EmbeddedStack, *parts: str) -> None:
    deadline = time.monotonic() + 20
    while any(stack.since(part) for part in parts):
        assert time.monotonic() < deadline
        time.sleep(0.1)
