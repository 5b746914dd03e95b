"""Writes the pods of all DAGs' tasks as KubernetesExecutor makes them, as JSON, to a file.

The arguments are the template of all pods and the file. DAGs go through Airflow's serialization,
as between the DAG processor and the scheduler.
"""

import json
import os
import sys
from pathlib import Path

from airflow.dag_processing.dagbag import DagBag
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
from airflow.serialization.serialized_objects import DagSerialization
from kubernetes.client import ApiClient

template, output = map(Path, sys.argv[1:])
sys.path[:0] = [
    os.environ["AIRFLOW__CORE__DAGS_FOLDER"],
    os.environ["AIRFLOW__CORE__PLUGINS_FOLDER"],
]
bag = DagBag(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
assert not bag.import_errors, bag.import_errors
pods = {}
for dag in bag.dags.values():
    received = DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag))))
    for task in received.tasks:
        pod = PodGenerator.construct_pod(
            dag_id=dag.dag_id,
            task_id=task.task_id,
            pod_id="task",
            try_number=1,
            kube_image="dermascan:0.1.0",
            date=None,
            args=["python"],
            pod_override_object=PodGenerator.from_obj(task.executor_config or {}),
            base_worker_pod=PodGenerator.deserialize_model_file(str(template)),
            namespace="dermascan",
            scheduler_job_id="1",
            run_id="run",
        )
        pods[f"{dag.dag_id}.{task.task_id}"] = ApiClient().sanitize_for_serialization(pod)
output.write_text(json.dumps(pods))
