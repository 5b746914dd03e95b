"""How to start MLflow on loopback, with its artifacts in the embedded object storage."""

import sys
from collections.abc import Mapping

from dermascan.stack.credentials import Credentials
from dermascan.stack.environment import without
from dermascan.stack.layout import StackPaths
from dermascan.stack.object_store import LOOPBACK
from dermascan.stack.ports import Ports
from dermascan.stack.processes import Launch

NAME = "mlflow"
BUCKET = "mlflow"
PRIVACY = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}


def launch(
    paths: StackPaths, ports: Ports, credentials: Credentials, inherited: Mapping[str, str]
) -> Launch:
    """Return the command and environment of the tracking server."""
    command = [
        *(sys.executable, "-m", "mlflow", "server"),
        *("--backend-store-uri", f"sqlite:///{paths.mlflow_database}"),
        *("--artifacts-destination", f"s3://{BUCKET}"),
        *("--host", LOOPBACK, "--port", str(ports.mlflow)),
        *("--workers", "1"),
    ]
    environment = {
        **without(inherited, "AWS_", "MLFLOW_"),
        **PRIVACY,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # a second process that nothing here uses
        "MLFLOW_S3_ENDPOINT_URL": f"http://{LOOPBACK}:{ports.s3}",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": credentials.s3_access_key_id,
        "AWS_SECRET_ACCESS_KEY": credentials.s3_secret_access_key.get_secret_value(),
    }
    return Launch(NAME, command, environment)
