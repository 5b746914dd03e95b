"""What DAGs need to find in Airflow: connections that users edit, and a pool.

Each is made if it is missing and left alone afterwards, so that what a user sets in
Airflow's pages stays.
"""

import json
from urllib.parse import urlsplit

from pydantic import JsonValue

from dermascan.settings import PUBLIC_ISIC_URL, STORAGE_CONNECTION, StorageSettings
from dermascan.stack.airflow_api import AirflowApi, Connection
from dermascan.stack.object_store import LOOPBACK

ARCHIVE = "isic_archive"
TRAINING_POOL = "training"


def prepare(api: AirflowApi, storage: StorageSettings, isic_url: str | None) -> None:
    """Make sure that the connections `isic_archive` and `dermascan_s3` and the pool exist.

    Args:
        api: Airflow, signed in as its administrator.
        storage: the embedded object storage.
        isic_url: address for `isic_archive`; None leaves an existing connection as it is.
    """
    _prepare_archive(api, isic_url)
    _prepare_storage(api, storage)
    api.ensure_pool(TRAINING_POOL, 1, "One training at a time.")


def _prepare_archive(api: AirflowApi, isic_url: str | None) -> None:
    known = api.connection(ARCHIVE)
    if known is None:
        api.create_connection(
            {
                "connection_id": ARCHIVE,
                "conn_type": "http",
                "description": "The ISIC archive, or a server with the same API.",
                "host": isic_url or PUBLIC_ISIC_URL,
            }
        )
    elif isic_url and known.host != isic_url:
        api.change_connection(ARCHIVE, {"host": isic_url, "schema": None, "port": None})


def _prepare_storage(api: AirflowApi, storage: StorageSettings) -> None:
    known = api.connection(STORAGE_CONNECTION)
    if known is None:
        secret = storage.secret_access_key
        api.create_connection(
            {
                "connection_id": STORAGE_CONNECTION,
                "conn_type": "aws",
                "description": "Object storage: keys, endpoint and bucket (in the extra).",
                "login": storage.access_key_id,
                "password": secret.get_secret_value() if secret else None,
                "extra": json.dumps(_extra(storage)),
            }
        )
    elif moved := _moved(known, storage):
        api.change_connection(STORAGE_CONNECTION, {"extra": json.dumps(moved)})


def _extra(storage: StorageSettings) -> dict[str, JsonValue]:
    return {
        "endpoint_url": storage.endpoint_url,
        "region_name": storage.region,
        "service_config": {"s3": {"bucket_name": storage.bucket}},
    }


def _moved(known: Connection, storage: StorageSettings) -> dict[str, JsonValue] | None:
    # Ours by its generated key and loopback address: the stack changed its port.
    extra: dict[str, JsonValue] = json.loads(known.extra or "{}")
    endpoint = str(extra.get("endpoint_url") or "")
    ours = known.login == storage.access_key_id and urlsplit(endpoint).hostname == LOOPBACK
    if not ours or endpoint == storage.endpoint_url:
        return None
    return {**extra, "endpoint_url": storage.endpoint_url}
