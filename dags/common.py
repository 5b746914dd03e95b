"""What all DAGs share: connections, which errors are retried, links and notes that runs leave."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.sdk import (
    Asset,
    BaseHook,
    BaseOperatorLink,
    BaseXCom,
    ExceptionRetryPolicy,
    Param,
    RetryAction,
    RetryRule,
    conf,
    get_current_context,
)

from dermascan.run_notes import NOTE_KEY, note_on_failure
from dermascan.settings import STORAGE_CONNECTION, storage_of_connection

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Connection, Context
    from airflow.sdk.types import TaskInstanceKey

    from dermascan.isic.client import IsicClient
    from dermascan.storage import Store

INCLUDE = Path(__file__).resolve().parent.parent / "include"
ARCHIVE_CONNECTION = "isic_archive"
TRAINING_POOL = "training"
TRAINING_QUEUE = "train"  # of Celery's; executors without queues take no notice
MLFLOW_PAGES = "DERMASCAN_MLFLOW_URL"  # where people find MLflow, if not where tasks do
DATASET = Asset("dermascan_dataset")
MODEL = Asset("dermascan_model")
PREDICTIONS = Asset("dermascan_predictions")

logger = logging.getLogger(__name__)


def leave_note(text: str) -> None:
    """Leave a sentence for the note that the run gets when it ends."""
    get_current_context()["ti"].xcom_push(NOTE_KEY, text)


def leave_reason(context: Context) -> None:
    """Leave why a task failed for the note of its run."""
    try:
        reason = note_on_failure(context.get("exception") or "")
        context["ti"].xcom_push(NOTE_KEY, _redacted(reason))
    except Exception:  # the failure itself must be seen, whatever becomes of its note
        logger.exception("the reason is left out of the run's note")


def _redacted(text: str) -> str:
    from airflow.sdk.execution_time.secrets_masker import redact  # noqa: PLC0415  # fast parsing

    return str(redact(text))


class Made(BaseOperatorLink):
    """A link from a task to something that it made, under a name; the task leaves the address."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def name(self) -> str:
        """Return what is on the button."""
        return self._name

    @property
    def xcom_key(self) -> str:
        """Return the key of the XCom that holds the address."""
        return f"link_{self._name.lower().replace(' ', '_')}"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002  # Airflow's signature
        """Return what the task left; Airflow keeps it under the same key."""
        kept = BaseXCom.get_value(ti_key=ti_key, key=self.xcom_key)  # type: ignore[arg-type]  # the protocol asks for settable attributes, and sets none
        return str(kept or "")


DATA_DOCS = Made("Data Docs")
TRACKED_RUN = Made("MLflow run")
EVALUATION_REPORT = Made("Evaluation report")
MODEL_CARD = Made("Model card")
PREDICTION_REPORT = Made("Prediction report")
OBJECTS = Made("Objects")


def links_to(tasks: Iterable[Any], *links: Made) -> None:
    """Give buttons to tasks; each task is what calling or expanding it returned."""
    for task in tasks:
        task.operator.operator_extra_links = links


def leave_link(link: Made, address: str | None) -> None:
    """Leave the address of what a task makes.

    Args:
        link: one of those that the task has.
        address: absolute, or below DermaScan's pages in Airflow; None leaves nothing.
    """
    if address is None:
        return
    if "://" not in address:
        address = f"{_airflow()}/dermascan/{quote(address)}"
    get_current_context()["ti"].xcom_push(link.xcom_key, _for_people(address))


def _for_people(address: str) -> str:
    from dermascan.tracking import seen_from_outside  # noqa: PLC0415  # keeps parsing fast

    inside, outside = (os.environ.get(name) for name in ("MLFLOW_TRACKING_URI", MLFLOW_PAGES))
    return seen_from_outside(address, inside, outside)


def leave_documents(place: str, objects: str) -> None:
    """Leave the addresses of a model's report and card, and of the objects they belong to.

    Args:
        place: where the pages have the documents.
        objects: prefix of the objects.
    """
    leave_link(EVALUATION_REPORT, f"{place}/report.html")
    leave_link(MODEL_CARD, f"{place}/card.html")
    leave_link(OBJECTS, f"objects/{objects}")


# What cannot be mended by trying again (bad params, failed validation, failed gate) fails
# at once; everything else is tried again, waiting twice as long each time.
DEFAULT_ARGS: dict[str, Any] = {
    "owner": "dermascan",
    "retries": 3,
    "retry_delay": timedelta(seconds=10),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": timedelta(minutes=10),
    "execution_timeout": timedelta(minutes=30),
    "on_failure_callback": leave_reason,
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


def run_page() -> str:
    """Return the address of the current run's page in Airflow."""
    run = get_current_context()["dag_run"]
    return f"{_airflow()}/dags/{run.dag_id}/runs/{quote(run.run_id)}"


def _airflow() -> str:
    return str(conf.get("api", "base_url", fallback="")).rstrip("/")
