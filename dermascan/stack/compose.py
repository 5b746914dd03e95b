"""What `docker-compose.yml` needs beside itself: a file of secrets, buckets and connections."""

import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from pydantic import SecretStr

from dermascan.errors import InputError
from dermascan.settings import settings_from_environment
from dermascan.stack import connections, mlflow
from dermascan.stack.airflow_api import AirflowApi
from dermascan.stack.credentials import ADMIN, Credentials

ENVIRONMENT_FILE = ".env"
LOG_BUCKET = "airflow-logs"
AIRFLOW_URL, AIRFLOW_PASSWORD = "DERMASCAN_AIRFLOW_URL", "AIRFLOW_ADMIN_PASSWORD"  # names
ARCHIVE_URL = "DERMASCAN_ISIC_URL"
ObjectStore = Literal["minio", "seaweedfs"]  # the profiles that start one


def write_environment(project: Path, store: ObjectStore = "minio") -> Path:
    """Draw secrets and write them where Compose looks for them, for their owner's eyes only.

    Args:
        project: the folder of `docker-compose.yml`.
        store: the object storage to start.

    Returns:
        The new file.

    Raises:
        InputError: the file is there; databases made with its secrets would be lost without it.
    """
    path = project / ENVIRONMENT_FILE
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise InputError(
            f"{path} exists and is kept: its secrets open what Compose has stored; "
            "delete it only together with the volumes (`docker compose down --volumes`)"
        ) from error
    with os.fdopen(descriptor, "w") as file:
        file.writelines(f"{name}={value}\n" for name, value in _variables(store))
    return path


def prepare(environment: Mapping[str, str] = os.environ) -> None:
    """Make the buckets, and what DAGs need to find in Airflow; what is there stays as it is.

    Args:
        environment: object storage as for every command, `DERMASCAN_AIRFLOW_URL` and
            `AIRFLOW_ADMIN_PASSWORD`, and optionally `DERMASCAN_ISIC_URL`.

    Raises:
        InputError: a variable is missing, or Airflow refuses.
        TransientError: object storage or Airflow cannot be reached.
    """
    from dermascan.storage import Store  # noqa: PLC0415  # boto3 takes half a second to import

    storage = settings_from_environment(environment).storage
    for bucket in (storage.bucket, mlflow.BUCKET, LOG_BUCKET):
        Store(storage, bucket).ensure_bucket()
    url, password = _required(environment, (AIRFLOW_URL, AIRFLOW_PASSWORD))
    with AirflowApi(url, ADMIN, SecretStr(password)) as api:
        connections.prepare(api, storage, environment.get(ARCHIVE_URL) or None)


def _variables(store: ObjectStore) -> Iterable[tuple[str, str]]:
    keys = Credentials.generate()
    return (
        ("COMPOSE_PROFILES", store),
        ("AIRFLOW_ADMIN_PASSWORD", secrets.token_urlsafe(15)),
        ("AIRFLOW_FERNET_KEY", keys.fernet_key.get_secret_value()),
        ("AIRFLOW_JWT_SECRET", keys.jwt_secret.get_secret_value()),
        ("AIRFLOW_API_SECRET_KEY", keys.api_secret_key.get_secret_value()),
        ("POSTGRES_PASSWORD", secrets.token_urlsafe(24)),
        ("REDIS_PASSWORD", secrets.token_urlsafe(24)),
        ("S3_ACCESS_KEY_ID", keys.s3_access_key_id),
        ("S3_SECRET_ACCESS_KEY", keys.s3_secret_access_key.get_secret_value()),
    )


def _required(environment: Mapping[str, str], names: Iterable[str]) -> list[str]:
    missing = [name for name in names if not environment.get(name)]
    if missing:
        raise InputError(f"{', '.join(missing)} is not set: docker-compose.yml says what it is")
    return [environment[name] for name in names]
