"""Parse one DAG file as Airflow does and print what a test wants to know, as JSON."""

import json
import sys
import time
from pathlib import Path


def watchers_of(dag) -> list[str]:
    assets = getattr(dag.timetable, "asset_condition", None)
    return [each.name for asset in getattr(assets, "objects", []) for each in asset.watchers]


def main(path: Path) -> None:
    import airflow.sdk  # noqa: F401, PLC0415  # Airflow's own cost is not the file's
    from airflow.dag_processing.dagbag import DagBag  # noqa: PLC0415
    from airflow.providers.standard.operators import hitl  # noqa: F401, PLC0415

    sys.path[:0] = [str(path.parent), str(path.parents[1] / "plugins")]
    started = time.perf_counter()
    bag = DagBag(path, bundle_name="dags-folder")
    seconds = time.perf_counter() - started
    facts = {
        "seconds": seconds,
        "errors": bag.import_errors,
        "heavy": sorted({"tensorflow", "pandas", "great_expectations", "numpy"} & set(sys.modules)),
        "watchers": sorted(name for dag in bag.dags.values() for name in watchers_of(dag)),
        "dags": {
            dag.dag_id: {
                "params": {
                    name: {
                        "schema": dag.params.get_param(name).schema,
                        "default": dag.params.get_param(name).value,
                        "description": dag.params.get_param(name).description
                        or dag.params.get_param(name).schema.get("description_md"),
                    }
                    for name in dag.params
                },
                "doc": bool(dag.doc_md),
                "tags": sorted(dag.tags),
                "tasks": {
                    task.task_id: {
                        "retries": task.retries,
                        "timeout": bool(task.execution_timeout),
                        "policy": bool(getattr(task, "retry_policy", None)),
                        "pool": task.pool,
                        "queue": task.queue,
                        "weight": [str(task.weight_rule), task.priority_weight],
                        "upstream": sorted(task.upstream_task_ids),
                    }
                    for task in dag.tasks
                },
            }
            for dag in bag.dags.values()
        },
    }
    print(json.dumps(facts))  # noqa: T201  # read by the test


if __name__ == "__main__":
    main(Path(sys.argv[1]))
