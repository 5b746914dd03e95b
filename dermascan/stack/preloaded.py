"""Imported by the process that Airflow's task processes are copies of.

What most tasks need is imported here once, since it takes longer than many a task. Nothing of
DermaScan, so that edited code takes effect in the next task; no TensorFlow, whose threads do not
survive a copy; no Great Expectations, which one task in eight uses.
"""

import gc
import importlib

MODULES = (
    "airflow.dag_processing.dagbag",
    "airflow.executors.local_executor",
    "airflow.sdk.execution_time.supervisor",
    "airflow.sdk.execution_time.task_runner",
    "aiohttp",
    "boto3",
    "cv2",
    "httpx",
    "numpy",
    "pandas",
    "PIL.Image",
    "pyarrow.parquet",
    "pydantic",
    "scipy.stats",
)

for name in MODULES:
    importlib.import_module(name)

# A collection of garbage writes to every object it looks at, and what is written to is copied.
gc.collect()
gc.freeze()
