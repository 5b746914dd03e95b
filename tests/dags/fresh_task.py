"""A program that runs the body of one DAG task in a fresh interpreter, and says what it imported.

It reads an order as JSON from standard input and writes, as the last line, the task's result,
which heavy packages it imported, its seconds and its highest memory in MB.
"""

import importlib
import json
import resource
import sys
import time
from pathlib import Path

HEAVY = ("great_expectations", "keras", "matplotlib", "mlflow", "onnxruntime", "tensorflow")


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
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(json.dumps(answer))  # noqa: T201  # read by the test


if __name__ == "__main__":
    main()
