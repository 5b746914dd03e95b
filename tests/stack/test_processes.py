import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from dermascan.stack import processes
from dermascan.stack.processes import Launch, ProcessRecord

SLEEPER = "import time; time.sleep(60)"
# A parent whose child forms a process group of its own, as Airflow's task processes do.
PARENT = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {SLEEPER!r}], process_group=0)
print(child.pid, flush=True)
time.sleep(60)
"""


def launch_python(code: str, *options: str) -> Launch:
    return Launch("part", [sys.executable, *options, "-c", code], os.environ)


@pytest.fixture
def sleeper(tmp_path):
    record = processes.start(launch_python(SLEEPER), tmp_path / "log", tmp_path)
    yield record
    processes.stop([record], tmp_path, grace=5)


def wait_for_exit(record: ProcessRecord) -> None:
    deadline = time.monotonic() + 20
    while processes.is_running(record):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_for_child(log: Path) -> psutil.Process:
    deadline = time.monotonic() + 20
    while not log.read_text().strip():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return psutil.Process(int(log.read_text()))


def test_is_running_when_started_and_after_it_was_killed(sleeper):
    before = processes.is_running(sleeper)

    os.kill(sleeper.pid, signal.SIGKILL)

    wait_for_exit(sleeper)
    assert before
    assert not processes.is_running(sleeper)


def test_is_running_when_the_id_belongs_to_another_process_now_says_no(sleeper):
    earlier = sleeper.model_copy(update={"started": "1"})

    assert not processes.is_running(earlier)
    assert processes.members(earlier, Path("/")) == []


def test_is_running_when_the_machine_was_started_anew_says_no(sleeper):
    earlier = sleeper.model_copy(update={"boot": "another boot"})

    assert not processes.is_running(earlier)
    assert processes.members(earlier, Path("/")) == []


def test_stop_when_the_id_belongs_to_another_process_now_leaves_that_alone(sleeper, tmp_path):
    processes.stop([sleeper.model_copy(update={"started": "1"})], tmp_path, grace=0.1)

    assert processes.is_running(sleeper)


def test_stop_when_a_child_has_its_own_process_group_ends_it_too(tmp_path):
    record = processes.start(launch_python(PARENT), tmp_path / "log", tmp_path)
    child = wait_for_child(tmp_path / "log")

    processes.stop([record], tmp_path, grace=5)

    assert not processes.is_running(record)
    assert not child.is_running()


def test_stop_when_the_process_itself_was_killed_ends_what_it_left_behind(tmp_path):
    record = processes.start(launch_python(PARENT), tmp_path / "log", tmp_path)
    child = wait_for_child(tmp_path / "log")
    os.kill(record.pid, signal.SIGKILL)
    wait_for_exit(record)
    survived = child.is_running()

    processes.stop([record], tmp_path, grace=5)

    assert survived
    assert not child.is_running()


def test_members_when_an_orphan_works_elsewhere_does_not_count_it(tmp_path):
    record = processes.start(launch_python(PARENT), tmp_path / "log", tmp_path)
    child = wait_for_child(tmp_path / "log")
    os.kill(record.pid, signal.SIGKILL)
    wait_for_exit(record)

    elsewhere = processes.members(record, tmp_path / "elsewhere")

    processes.stop([record], tmp_path, grace=5)
    assert elsewhere == []
    assert not child.is_running()


def test_stop_when_a_process_ignores_the_request_ends_it_anyway(tmp_path):
    code = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1); {SLEEPER}"
    record = processes.start(launch_python(code, "-u"), tmp_path / "log", tmp_path)
    while not (tmp_path / "log").read_text():
        time.sleep(0.05)

    processes.stop([record], tmp_path, grace=0.2)

    assert not processes.is_running(record)


def test_start_when_it_writes_keeps_the_log_private_and_appends(tmp_path):
    log = tmp_path / "log"
    for word in ("one", "two"):
        record = processes.start(launch_python(f"print('{word}')"), log, tmp_path)
        wait_for_exit(record)

    assert processes.last_lines(log, 5) == ["one", "two"]
    assert processes.last_lines(log, 1) == ["two"]
    assert log.stat().st_mode & 0o077 == 0


def test_start_when_the_log_is_long_puts_it_aside(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "LOG_LIMIT_BYTES", 3)
    log = tmp_path / "part.log"
    log.write_text("long ago")

    record = processes.start(launch_python("print('now')"), log, tmp_path)
    wait_for_exit(record)

    assert log.read_text() == "now\n"
    assert (tmp_path / "part.1.log").read_text() == "long ago"


def test_start_when_the_caller_is_interrupted_goes_on(tmp_path):
    # Jobs in the background of a script ignore SIGINT, and so would what they start.
    code = f"""
import signal, sys, time
from pathlib import Path
from dermascan.stack.processes import Launch, start
signal.signal(signal.SIGINT, signal.default_int_handler)
folder = Path({str(tmp_path)!r})
record = start(Launch("part", [sys.executable, "-c", {SLEEPER!r}], {{}}), folder / "log", folder)
print(record.model_dump_json(), flush=True)
time.sleep(60)
"""
    starter = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True
    )
    record = ProcessRecord.model_validate_json(starter.stdout.readline())

    os.killpg(starter.pid, signal.SIGINT)
    starter.communicate()

    assert processes.is_running(record)
    processes.stop([record], tmp_path, grace=5)


def test_last_lines_when_there_is_no_log_is_empty(tmp_path):
    assert processes.last_lines(tmp_path / "none", 3) == []
