"""A plugin of Airflow that notes, for `benchmarks.overhead`, when each task's body begins and ends.

It is copied into a plugin folder, and writes a line for each task into a file beside itself.
"""

import builtins
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin

NOTES = Path(__file__).with_suffix(".jsonl")


class _Imports:
    """Seconds that the main thread spends on import statements, the outermost ones counted."""

    def __init__(self) -> None:
        self.seconds, self._depth, self._import = 0.0, 0, builtins.__import__

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        if self._depth or threading.current_thread() is not threading.main_thread():
            return self._import(*arguments, **named)
        self._depth, started = 1, time.perf_counter()
        try:
            return self._import(*arguments, **named)
        finally:
            self._depth, self.seconds = 0, self.seconds + time.perf_counter() - started


_state: dict[str, Any] = {}


@hookimpl
def on_task_instance_running(previous_state: Any, task_instance: Any) -> None:  # noqa: ARG001  # Airflow's signature
    """Take the time at which the body begins."""
    _state["imports"] = _Imports()
    builtins.__import__ = _state["imports"]
    _state["began"] = time.time()


@hookimpl
def on_task_instance_success(previous_state: Any, task_instance: Any) -> None:  # noqa: ARG001  # likewise
    """Leave a line."""
    note = {
        "dag": task_instance.dag_id,
        "run": task_instance.run_id,
        "task": task_instance.task_id,
        "index": task_instance.map_index,
        "began": _state["began"],
        "ended": time.time(),
        "importing": _state["imports"].seconds,
    }
    with NOTES.open("a") as file:
        file.write(json.dumps(note) + "\n")


class OverheadProbe(AirflowPlugin):
    """The plugin."""

    name = "overhead_probe"
    listeners = [sys.modules[__name__]]  # noqa: RUF012  # Airflow wants a list
