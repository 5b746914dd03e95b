"""A program that runs the body of one DAG task in a fresh interpreter, and says what it imported.

It reads an order as JSON from standard input and writes, as the last line, the task's result,
which heavy packages it imported, its seconds and its highest memory in MB.
"""

import importlib
import json
import sys
import time
from pathlib import Path

HEAVY = ("great_expectations", "keras", "matplotlib", "mlflow", "onnxruntime", "tensorflow")


def highest_megabytes() -> int:
    """Return the most that this process held; `getrusage` counts its parent's memory too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024


def main() -> None:
    order = json.loads(sys.stdin.read())
    started = time.process_time()
    from reliability.task_worker import DAGS, PLUGINS, run_task  # noqa: PLC0415  # counts too

    sys.path[:0] = [str(DAGS), str(PLUGINS)]
    importlib.import_module(order["dag"])
    result = run_task({**order, "include": str(Path(order["include"]))})
    answer = {
        "result": result,
        "imported": [name for name in HEAVY if name in sys.modules],
        "seconds": time.process_time() - started,
        "megabytes": highest_megabytes(),
    }
    print(json.dumps(answer))  # noqa: T201  # read by the test


if __name__ == "__main__":
    main()
