"""How long the tasks of a DAG take when they have something to do."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dermascan.stack.airflow_api import Task
    from dermascan.walkthrough import PastRun


@dataclass(frozen=True)
class TaskTimes:
    """One task: how many instances it had, and the seconds of the shortest and the longest."""

    name: str
    instances: int
    shortest: float
    longest: float


@dataclass(frozen=True)
class DagTimes:
    """The runs of one DAG that came to the same result.

    Attributes:
        runs: how many there were.
        longest: seconds of the longest, in which most of the work was done.
        latest: seconds of the latest.
        tasks: in the order of their start, each instance counted with the longest of its runs.
    """

    dag_id: str
    runs: int
    longest: float
    latest: float
    tasks: tuple[TaskTimes, ...]


def dag_times(dag_id: str, runs: Sequence["PastRun"]) -> DagTimes:
    """Sum up runs of a DAG, the latest last.

    A run that was interrupted did part of the work and the next one the rest, so an instance
    counts with the longest time that it took in any of them.

    Args:
        dag_id: name of the DAG.
        runs: at least one.
    """
    seconds = [run.seconds for run in runs]
    return DagTimes(dag_id, len(runs), max(seconds), seconds[-1], tuple(_task_times(runs)))


def _task_times(runs: Sequence["PastRun"]) -> Iterator[TaskTimes]:
    longest: dict[str, dict[str, float]] = {}
    for run in runs:
        for task in sorted(run.tasks, key=_start):
            if task.state == "success" and task.duration is not None:
                instances = longest.setdefault(task.task_id, {})
                instances[task.label] = max(task.duration, instances.get(task.label, 0.0))
    for task_id, instances in longest.items():
        times = instances.values()
        yield TaskTimes(task_id.rsplit(".", 1)[-1], len(times), min(times), max(times))


def _start(task: "Task") -> float:
    return task.start_date.timestamp() if task.start_date else float("inf")
