"""What all DAGs share: connections become settings, and errors decide about retries."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import (
    Asset,
    BaseHook,
    ExceptionRetryPolicy,
    Param,
    RetryAction,
    RetryRule,
    get_current_context,
)

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from dermascan.isic.client import IsicClient
    from dermascan.storage import Store

INCLUDE = Path(__file__).resolve().parent.parent / "include"
STORAGE_CONNECTION = "dermascan_s3"
ARCHIVE_CONNECTION = "isic_archive"
TRAINING_POOL = "training"
DATASET = Asset("dermascan_dataset")
MODEL = Asset("dermascan_model")
PREDICTIONS = Asset("dermascan_predictions")

# What cannot be mended by trying again (bad params, failed validation, failed gate) fails
# at once; everything else is tried again, waiting twice as long each time.
DEFAULT_ARGS: dict[str, Any] = {
    "owner": "dermascan",
    "retries": 3,
    "retry_delay": timedelta(seconds=10),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": timedelta(minutes=10),
    "execution_timeout": timedelta(minutes=30),
    "retry_policy": ExceptionRetryPolicy(
        rules=[
            RetryRule(
                exception="dermascan.errors.PermanentError",
                action=RetryAction.FAIL,
                reason="trying again cannot mend this: see the message",
            )
        ]
    ),
}

NAME_PATTERN = "^[a-z0-9][a-z0-9._-]{0,62}$"


def name_param(default: str, title: str, description: str) -> Param:
    """Return a param for a name that becomes part of object keys."""
    return Param(
        default,
        type="string",
        pattern=NAME_PATTERN,
        title=title,
        description_md=f"{description} 1 to 63 of `a-z 0-9 . _ -`.",
    )


def open_store() -> Store:
    """Open the bucket that the connection `dermascan_s3` describes.

    Raises:
        InputError: there is no such connection, it names no usable bucket, or a
            `DERMASCAN_S3_*_SECONDS` variable of the worker is no number of seconds.
    """
    from dermascan.settings import storage_of_connection  # noqa: PLC0415  # keeps parsing fast
    from dermascan.storage import Store  # noqa: PLC0415  # keeps parsing fast

    found = _connection(STORAGE_CONNECTION)
    return Store(
        storage_of_connection(STORAGE_CONNECTION, found.login, found.password, found.extra_dejson)
    )


def open_archive() -> IsicClient:
    """Open the archive that the connection `isic_archive` describes.

    Raises:
        InputError: there is no such connection.
    """
    from urllib.parse import urlsplit  # noqa: PLC0415  # keeps parsing fast

    from dermascan.isic.client import IsicClient  # noqa: PLC0415  # keeps parsing fast

    connection = _connection(ARCHIVE_CONNECTION)
    host = connection.host or ""
    url = host if "://" in host else f"{connection.schema or 'https'}://{host}"
    if connection.port and not urlsplit(url).port:
        url = f"{url.rstrip('/')}:{connection.port}"
    return IsicClient(url)


def _connection(name: str) -> Connection:
    from airflow.sdk.exceptions import AirflowNotFoundException  # noqa: PLC0415  # fast parsing

    from dermascan.errors import InputError  # noqa: PLC0415  # keeps parsing fast

    try:
        return BaseHook.get_connection(name)
    except AirflowNotFoundException as error:
        raise InputError(f"create the connection {name!r} (Admin, Connections)") from error


def params() -> dict[str, Any]:
    """Return the params of the current run."""
    return dict(get_current_context()["params"])


def run_address() -> str:
    """Return `dag_id/run_id` of the current run, for records of who did what."""
    run = get_current_context()["dag_run"]
    return f"{run.dag_id}/{run.run_id}"


def states_of(task_id: str) -> dict[str, str | None]:
    """Return the states of a task of the current run; those of a mapped task by `<task>_<index>`."""
    context = get_current_context()
    run = context["dag_run"]
    states = context["ti"].get_task_states(run.dag_id, task_ids=[task_id], run_ids=[run.run_id])
    return dict(states.get(run.run_id, {}))
