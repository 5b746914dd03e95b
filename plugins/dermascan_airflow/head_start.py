"""Starts the process that tasks are copies of with the scheduler, and not with the first task.

It takes a while to import what it is for. See `dermascan.stack.preloaded`.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing import forkserver
from typing import Any

from airflow.listeners import hookimpl


@hookimpl
def on_starting(component: Any) -> None:
    """Start it, where a part of Airflow makes processes that way; only the scheduler is told to."""
    is_part = hasattr(component, "job_type")  # and no task, which is a copy already
    if is_part and multiprocessing.get_start_method(allow_none=True) == "forkserver":
        forkserver.ensure_running()
