"""Start background processes, recognise them later, and stop exactly those.

A process is recognised by its id together with the instant of its start, so that a
process id that the system has given to somebody else is never mistaken for ours. Each
part runs in a session of its own; its descendants stay in that session even when they
form process groups of their own, as Airflow's tasks do, and even when it is killed.
"""

import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict

LOG_LIMIT_BYTES = 20 * 1024 * 1024
LAST_WORDS_SECONDS = 3.0
LINUX_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Launch:
    """What to run for one part of the stack."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]


class ProcessRecord(BaseModel):
    """What is remembered of a process that was started."""

    model_config = ConfigDict(frozen=True)

    name: str
    pid: int
    boot: str
    started: str
    since: datetime


def start(launch: Launch, log: Path, folder: Path) -> ProcessRecord:
    """Start a process in the background, in its own session, writing to a log file.

    Args:
        launch: name, command line and whole environment.
        log: standard output and error are appended here; a long one is put aside first.
        folder: working folder, by which `members` knows the descendants of a killed process.
    """
    _put_aside_if_long(log)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "ab") as output:
        process = subprocess.Popen(  # noqa: S603  # the commands are built by this package
            launch.command,
            env=dict(launch.environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0o077,
        )
    return ProcessRecord(
        name=launch.name,
        pid=process.pid,
        boot=_boot(),
        started=_started(process.pid) or "",
        since=datetime.now(UTC),
    )


def is_running(record: ProcessRecord) -> bool:
    """Tell whether the very process that was started still runs."""
    return record.boot == _boot() and bool(record.started) and _same(record)


def members(record: ProcessRecord, folder: Path) -> list[psutil.Process]:
    """Return what runs of a part: its process, if it lives, and its descendants.

    Args:
        record: the process that was started.
        folder: the stack's folder. When the process itself is gone, only members of its
            session that work inside this folder count, whoever owns the process id now.
    """
    if record.boot != _boot():
        return []
    leader_runs = is_running(record)
    if not leader_runs and psutil.pid_exists(record.pid) and _started(record.pid) is not None:
        return []
    session = [process for process in psutil.process_iter() if _session(process) == record.pid]
    if leader_runs:
        return session
    return [process for process in session if _works_in(process, folder)]


def stop(records: Iterable[ProcessRecord], folder: Path, grace: float) -> None:
    """Ask processes to end, all at once, and end what is left of them after a while.

    Args:
        records: what to stop, with all descendants.
        folder: the stack's folder, see `members`.
        grace: seconds given to the processes before their descendants are ended too.
    """
    records = list(records)
    everything = {process for record in records for process in members(record, folder)}
    leaders = [psutil.Process(record.pid) for record in records if is_running(record)]
    _signal(leaders, "terminate")
    psutil.wait_procs(leaders, timeout=grace)
    everything |= {process for record in records for process in members(record, folder)}
    for signal, seconds in (("terminate", LAST_WORDS_SECONDS), ("kill", LAST_WORDS_SECONDS)):
        left = [process for process in everything if process.is_running()]
        _signal(left, signal)
        psutil.wait_procs(left, timeout=seconds)


def last_lines(log: Path, count: int) -> list[str]:
    """Return the end of a log file."""
    if not log.exists():
        return []
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 200 * count))
        return file.read().decode(errors="replace").splitlines()[-count:]


def _signal(processes: Iterable[psutil.Process], method: str) -> None:
    for process in processes:
        try:
            getattr(process, method)()
        except psutil.NoSuchProcess:
            continue


def _same(record: ProcessRecord) -> bool:
    return _started(record.pid) == record.started


def _session(process: psutil.Process) -> int | None:
    try:
        return os.getsid(process.pid)
    except OSError:
        return None


def _works_in(process: psutil.Process, folder: Path) -> bool:
    try:
        return Path(process.cwd()).is_relative_to(folder)
    except (psutil.Error, OSError):
        return False


def _boot() -> str:
    # Process ids and start instants repeat after a reboot.
    if LINUX_BOOT_ID.exists():
        return LINUX_BOOT_ID.read_text().strip()
    return f"{psutil.boot_time():.0f}"


def _started(pid: int) -> str | None:
    # On Linux in clock ticks since boot: psutil's wall-clock value moves when the clock is set.
    if LINUX_BOOT_ID.exists():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        state, ticks = fields[0], fields[19]
        return None if state in "ZX" else ticks
    try:
        process = psutil.Process(pid)
        dead = process.status() == psutil.STATUS_ZOMBIE
        return None if dead else f"{process.create_time():.2f}"
    except psutil.Error:
        return None


def _put_aside_if_long(log: Path) -> None:
    if log.exists() and log.stat().st_size > LOG_LIMIT_BYTES:
        log.replace(log.with_suffix(".1" + log.suffix))
