"""A note on each run of DermaScan's DAGs: what became of it, in a sentence or two.

Tasks leave sentences as XComs, since they may not write notes themselves. Airflow tells listeners
in the scheduler (or, when a person sets a run's state, in the API server) that a run ended, inside
the transaction that says so; the note is written in it, with no password and no request. What a
person wrote into the note stays, with the outcome below it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from airflow.listeners import hookimpl
from airflow.models.dag import DagTag
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from sqlalchemy import select
from sqlalchemy.orm import object_session

from dermascan.run_notes import NOTE_KEY, with_outcome

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun
    from sqlalchemy.orm import Session

logger = logging.getLogger(__name__)

TAG = "dermascan"  # of every DAG of ours
SHOWN_FAILURES = 3


@hookimpl
def on_dag_run_running(dag_run: DagRun, msg: str) -> None:  # noqa: ARG001  # Airflow's signature
    """Take away the outcome of a run that starts anew."""
    _write(dag_run, lambda _: "")


@hookimpl
def on_dag_run_success(dag_run: DagRun, msg: str) -> None:  # noqa: ARG001  # Airflow's signature
    """Note what the run came to."""
    _write(dag_run, lambda session: " ".join(_left(session, dag_run).values()))


@hookimpl
def on_dag_run_failed(dag_run: DagRun, msg: str) -> None:  # noqa: ARG001  # Airflow's signature
    """Note which tasks failed, and why."""
    _write(dag_run, lambda session: _failures(session, dag_run))


def _write(dag_run: DagRun, outcome: Callable[[Session], str]) -> None:
    session = object_session(dag_run)
    if session is None:
        logger.warning(
            "run %s of %s gets no note: it has no session", dag_run.run_id, dag_run.dag_id
        )
        return
    with session.no_autoflush:
        if not _is_ours(session, dag_run.dag_id):
            return
        present = dag_run.note or ""
        wanted = with_outcome(present, outcome(session))
        if wanted != present:
            dag_run.note = wanted


def _is_ours(session: Session, dag_id: str) -> bool:
    found = select(DagTag.name).where(DagTag.dag_id == dag_id, DagTag.name == TAG)
    return session.scalar(found) is not None


def _left(session: Session, dag_run: DagRun) -> dict[str, str]:
    """Return the sentences that tasks left, by task, in the order in which they did."""
    rows = session.execute(
        select(XComModel.task_id, XComModel.map_index, XComModel.value)
        .where(
            XComModel.dag_id == dag_run.dag_id,
            XComModel.run_id == dag_run.run_id,
            XComModel.key == NOTE_KEY,
        )
        .order_by(XComModel.timestamp)
    )
    return {_label(task, index): _text(value) for task, index, value in rows}


def _failures(session: Session, dag_run: DagRun) -> str:
    reasons = _left(session, dag_run)
    failed = [
        _label(task, index)
        for task, index in session.execute(
            select(TaskInstance.task_id, TaskInstance.map_index)
            .where(
                TaskInstance.dag_id == dag_run.dag_id,
                TaskInstance.run_id == dag_run.run_id,
                TaskInstance.state == "failed",
            )
            .order_by(TaskInstance.end_date)
        )
    ]
    if not failed:
        return "No task failed: the run was ended, or took too long. Clear its tasks to go on."
    told = [f"`{label}` failed. {reasons.get(label, _KILLED)}" for label in failed[:SHOWN_FAILURES]]
    more = len(failed) - len(told)
    return " ".join([*told, f"{more} more tasks failed."] if more else told)


_KILLED = "It was killed or ended from outside: see its log, and clear it to try again."


def _label(task_id: str, map_index: int) -> str:
    return task_id if map_index < 0 else f"{task_id}[{map_index}]"


def _text(value: object) -> str:
    """Return the text of an XCom, which the database holds as JSON or as JSON's own text."""
    if isinstance(value, str) and value.startswith('"'):
        return str(json.loads(value))
    return str(value)
