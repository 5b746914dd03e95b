"""The bucket as pages read it: through Airflow's connection, and without waiting long for it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from airflow.models.connection import Connection
from airflow.sdk.exceptions import AirflowNotFoundException

from dermascan.errors import InputError
from dermascan.overview.datasets import DatasetReader
from dermascan.overview.models import ModelReader
from dermascan.overview.predictions import PredictionReader
from dermascan.settings import (
    STORAGE_CONNECTION,
    StoragePatience,
    StorageSettings,
    storage_of_connection,
)
from dermascan.storage import Store

_PATIENCE = StoragePatience(connect_seconds=2, request_seconds=10, retry_seconds=0)


@dataclass(frozen=True)
class Bucket:
    """A bucket and its readers."""

    store: Store
    models: ModelReader
    datasets: DatasetReader
    predictions: PredictionReader


def open_bucket() -> Bucket:
    """Return the bucket of the connection `dermascan_s3`, as it is set now.

    Raises:
        InputError: there is no such connection, or it names no usable bucket.
    """
    try:
        found = Connection.get_connection_from_secrets(STORAGE_CONNECTION)
    except AirflowNotFoundException as error:
        raise InputError(
            f"create the connection {STORAGE_CONNECTION!r} (Admin, Connections)"
        ) from error
    settings = storage_of_connection(
        STORAGE_CONNECTION, found.login, found.password, found.extra_dejson
    )
    return _bucket(settings.model_copy(update={"patience": _PATIENCE}))


@lru_cache(maxsize=2)
def _bucket(settings: StorageSettings) -> Bucket:
    store = Store(settings)
    return Bucket(store, ModelReader(store), DatasetReader(store), PredictionReader(store))
