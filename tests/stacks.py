"""Stacks that tests start beside whatever else runs on the machine."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from dermascan.settings import StorageSettings
from dermascan.stack import airflow, credentials, ports, processes
from dermascan.stack.embedded import EmbeddedStack
from dermascan.stack.environment import inherited_environment
from dermascan.stack.layout import StackPaths
from dermascan.stack.ports import Ports

PROJECT = Path(__file__).parents[1]


def free_ports() -> Ports:
    """Choose ports that are free now."""
    wanted: set[int] = set()
    while len(wanted) < 4:
        wanted.add(ports.any_free())
    airflow, s3, mlflow, serving = wanted
    return Ports(airflow=airflow, s3=s3, mlflow=mlflow, serving=serving)


def connection_to(settings: StorageSettings, endpoint: str | None = None) -> str:
    """Return `AIRFLOW_CONN_DERMASCAN_S3`, by way of another endpoint if one is given."""
    secret = settings.secret_access_key
    connection = {
        "conn_type": "aws",
        "login": settings.access_key_id,
        "password": secret.get_secret_value() if secret else None,
        "extra": {
            "endpoint_url": endpoint or settings.endpoint_url,
            "service_config": {"s3": {"bucket_name": settings.bucket}},
        },
    }
    return json.dumps(connection)


def stack_in(state: Path) -> EmbeddedStack:
    """Prepare a stack of this project with a state and ports of its own."""
    paths = StackPaths(PROJECT, state, PROJECT / "dags", PROJECT / "plugins")
    paths.create()
    ports.save(paths.ports, free_ports())
    return EmbeddedStack(paths)


def kill(stack: EmbeddedStack, part: str) -> None:
    """Kill a part with all its descendants, as a machine that loses power does."""
    members = processes.members(stack._records()[part], stack.paths.state)
    for process in members:
        process.kill()
    psutil.wait_procs(members, timeout=10)


@contextmanager
def second_triggerer(stack: EmbeddedStack) -> Iterator[tuple[processes.ProcessRecord, Path]]:
    """Run another triggerer beside the stack's own."""
    variables = airflow.environment(
        stack.paths, stack.ports, credentials.load(stack.paths), inherited_environment()
    )
    (launch,) = [each for each in airflow.launches(variables) if each.name == airflow.TRIGGERER]
    log = stack.paths.logs / "triggerer-2.log"
    record = processes.start(launch, log, stack.paths.state)
    try:
        yield record, log
    finally:
        processes.stop([record], stack.paths.state, 15)


def runs_of(stack: EmbeddedStack, dag_id: str) -> list[dict]:
    """Return all runs of a DAG as Airflow's REST API tells of them."""
    with stack.airflow_api() as api:
        return list(api._pages(f"/dags/{dag_id}/dagRuns", "dag_runs"))


def wait_until(happened: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for something to happen, and fail if it does not."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, what
        time.sleep(1)
