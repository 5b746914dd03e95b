"""Ports for stacks that tests start beside whatever else runs on the machine."""

from dermascan.stack import ports
from dermascan.stack.ports import Ports


def free_ports() -> Ports:
    """Choose ports that are free now."""
    wanted: set[int] = set()
    while len(wanted) < 4:
        wanted.add(ports.any_free())
    airflow, s3, mlflow, serving = wanted
    return Ports(airflow=airflow, s3=s3, mlflow=mlflow, serving=serving)
