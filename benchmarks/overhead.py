"""What orchestration costs: each DAG run's wall time beside the time inside library calls."""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from benchmarks.tables import Table
from benchmarks.workspace import Workspace
from dermascan.acceptance.run import Acceptance, AcceptancePlan
from dermascan.commands.trigger import observer
from dermascan.demo import Demo, DemoPlan
from dermascan.stack import ports
from dermascan.stack.embedded import EmbeddedStack
from dermascan.stack.layout import StackPaths
from dermascan.stack.runs import RunOutcome
from dermascan.walkthrough import Audience, Walkthrough

TITLE = "Overhead: wall time of each DAG run beside the time inside library calls"
AIM = "at most 1.25x for the acceptance run"
# A seventh of the training that `acceptance` does by itself, on all of its images.
BRIEF: Mapping[str, JsonValue] = {"networks": 2, "epochs": 4}
PROJECT = Path(__file__).resolve().parents[1]
PROBE = Path(__file__).with_name("overhead_probe.py")
PATIENCE_SECONDS = 300.0
_TIMES = ("began", "ended", "importing")
RATIO_NOTE = (
    "Wall: from the run's start to its end, by Airflow's clock. Busy: seconds in which at least "
    "one task ran. In library calls: seconds in which at least one task was in its body, less "
    "what the body spent on import statements. Sum: library calls of tasks that ran at once "
    "counted each."
)
PARTS_NOTE = (
    "Seconds of all tasks of a run together, which overlap where tasks run at once. Before the "
    "body: the worker's process, the DAG file, the connection to Airflow's API. Idle: seconds of "
    "the run in which no task ran, which is what the scheduler takes to see that the next may."
)


@dataclass(frozen=True)
class TaskNote:
    """What is known of one task of a run, in seconds since the epoch.

    Attributes:
        started, stopped: of the task, by Airflow.
        began, ended: of its body.
        importing: seconds of the body that import statements took.
    """

    started: float
    stopped: float
    began: float
    ended: float
    importing: float

    @property
    def calls(self) -> tuple[float, float]:
        """Return when library calls began and ended, as if the body imported everything first."""
        return min(self.began + self.importing, self.ended), self.ended


@dataclass(frozen=True)
class RunNotes:
    """A run: seconds of its wall time, and its tasks."""

    dag: str
    wall: float
    tasks: tuple[TaskNote, ...]


def tables(workspace: Workspace) -> Iterator[Table]:
    """Run DAGs on an embedded stack of their own.

    With data, the acceptance run's on all of its images, with a brief training; else the demo's,
    which `images` makes larger.
    """
    state = workspace.scratch / "state"
    plugins = workspace.scratch / "plugins"
    shutil.copytree(PROJECT / "plugins", plugins)
    probe = Path(shutil.copy(PROBE, plugins))
    paths = StackPaths(PROJECT, state, PROJECT / "dags", plugins)
    paths.create()
    ports.save(paths.ports, _free_ports())
    outcomes: list[RunOutcome] = []
    audience = Audience(observer, outcomes.append, workspace.tell)
    walkthrough = Walkthrough(EmbeddedStack(paths, workspace.tell), audience, PATIENCE_SECONDS)
    if workspace.data:
        Acceptance(walkthrough, AcceptancePlan(workspace.data, params=BRIEF)).run()
    else:
        plan = DemoPlan(images=workspace.images or DemoPlan.images)
        Demo(walkthrough, plan).run()
    lines = probe.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()
    notes = [json.loads(line) for line in lines]
    runs = [_run_notes(outcome, notes) for outcome in outcomes]
    yield ratio_table(runs)
    yield parts_table(runs)


def ratio_table(runs: Iterable[RunNotes]) -> Table:
    """Return the wall time of runs beside that of their library calls."""

    def row(run: RunNotes) -> tuple[str, ...]:
        inside = covered(note.calls for note in run.tasks)
        summed = sum(note.calls[1] - note.calls[0] for note in run.tasks)
        busy = covered((note.started, note.stopped) for note in run.tasks)
        seconds = (f"{value:.1f}" for value in (run.wall, busy, inside, summed))
        return (run.dag, *seconds, f"{run.wall / inside:.2f} x", f"{run.wall / summed:.2f} x")

    head = ("", "wall, s", "busy, s", "in library calls, s", "sum, s", "wall / in calls")
    return Table("Wall time", (*head, "wall / sum"), tuple(map(row, runs)), RATIO_NOTE)


def parts_table(runs: Iterable[RunNotes]) -> Table:
    """Return where the seconds of tasks go."""

    def row(run: RunNotes) -> tuple[str, ...]:
        parts = (
            sum(note.began - note.started for note in run.tasks),
            sum(note.calls[0] - note.began for note in run.tasks),
            sum(note.calls[1] - note.calls[0] for note in run.tasks),
            run.wall - covered((note.started, note.stopped) for note in run.tasks),
        )
        return (run.dag, str(len(run.tasks)), *(f"{part:.1f}" for part in parts))

    head = ("", "tasks", "before the body, s", "imports, s", "library calls, s")
    return Table("Where it goes", (*head, "idle, s"), tuple(map(row, runs)), PARTS_NOTE)


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Return the seconds that lie in at least one of some spans."""
    total, reached = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, reached))
        reached = max(reached, stop)
    return total


def _run_notes(outcome: RunOutcome, notes: Iterable[Mapping[str, object]]) -> RunNotes:
    found = {(note["task"], note["index"]): note for note in notes if note["run"] == outcome.run_id}
    tasks = []
    for task in outcome.tasks:
        note = found.get((task.task_id, task.map_index))
        if note is None or task.start_date is None:
            continue  # it was skipped
        started = task.start_date.timestamp()
        stopped = started + (task.duration or 0.0)
        began, ended, importing = (float(str(note[name])) for name in _TIMES)
        # Airflow takes the end of a task before it tells the probe.
        tasks.append(TaskNote(started, stopped, began, min(ended, stopped), importing))
    return RunNotes(outcome.dag_id, outcome.seconds, tuple(tasks))


def _free_ports() -> ports.Ports:
    """Return the ports that the variables of `dermascan up` name, and free ones for the rest."""
    named = {wish.field: os.environ.get(wish.variable) for wish in ports.WISHES}
    chosen = {field: int(port) if port else ports.any_free() for field, port in named.items()}
    return ports.Ports(**chosen)
