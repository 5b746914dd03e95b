"""What a run needs to know, read once from the environment.

DAGs and pages in Airflow build the same objects from Airflow connections; nothing else in the
library looks at the environment.
"""

import os
import re
from collections.abc import Mapping
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from dermascan.errors import InputError

PUBLIC_ISIC_URL = "https://api.isic-archive.com"
STORAGE_CONNECTION = "dermascan_s3"  # the name of Airflow's connection to object storage
KAFKA_CONNECTION = "dermascan_kafka"  # and to the broker of bucket notifications
KAFKA_TOPIC = "DERMASCAN_KAFKA_TOPIC"
SecondsT = TypeVar("SecondsT", bound=BaseModel)


class StoragePatience(BaseModel):
    """Seconds that object storage may take.

    Attributes:
        connect_seconds: to accept a connection.
        request_seconds: for one request with its body, of which a large object needs one for
            each 8 MiB: a line must carry that much, or four times as much while it writes, in
            this time. A server that goes silent is noticed after it.
        retry_seconds: from the first failure of an operation until it is given up, so that an
            outage shorter than this goes unnoticed.
    """

    model_config = ConfigDict(frozen=True)

    connect_seconds: float = Field(default=5.0, gt=0)
    request_seconds: float = Field(default=60.0, gt=0)
    retry_seconds: float = Field(default=180.0, ge=0)


class StorageSettings(BaseModel):
    """Where the object storage is and how to sign in.

    `endpoint_url` None means AWS itself; keys None means the ambient AWS identity
    (instance profile, workload identity).
    """

    model_config = ConfigDict(frozen=True)

    bucket: str = Field(min_length=3, max_length=63)
    endpoint_url: str | None = None
    region: str = "us-east-1"
    access_key_id: str | None = None
    secret_access_key: SecretStr | None = None
    patience: StoragePatience = StoragePatience()

    def impatient(self, retry_seconds: float = 0) -> Self:
        """Return the same with less patience, for callers that wait or ask in their own way."""
        patience = self.patience.model_copy(update={"retry_seconds": retry_seconds})
        return self.model_copy(update={"patience": patience})


class WatchSettings(BaseModel):
    """How folders that arrive under `incoming/` are watched, in seconds.

    Attributes:
        poll_seconds: from one look to the next.
        quiet_seconds: how long a folder without `_READY` stays unchanged until it is complete.
    """

    model_config = ConfigDict(frozen=True)

    poll_seconds: float = Field(default=10.0, gt=0)
    quiet_seconds: float = Field(default=300.0, gt=0)


class Settings(BaseModel):
    """Everything that differs between a laptop and a data centre."""

    model_config = ConfigDict(frozen=True)

    storage: StorageSettings
    isic_url: str = PUBLIC_ISIC_URL
    mlflow_tracking_uri: str | None = None


def settings_from_environment(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read `DERMASCAN_*` variables, with the usual AWS ones for credentials.

    Raises:
        InputError: `DERMASCAN_BUCKET` is not set, or a time is no number of seconds.
    """
    bucket = environment.get("DERMASCAN_BUCKET")
    if not bucket:
        message = "DERMASCAN_BUCKET is not set: name the bucket that holds raw/ and models/"
        raise InputError(message)
    secret = environment.get("AWS_SECRET_ACCESS_KEY")
    storage = StorageSettings(
        bucket=bucket,
        endpoint_url=environment.get("AWS_ENDPOINT_URL"),
        region=environment.get("AWS_DEFAULT_REGION", "us-east-1"),
        access_key_id=environment.get("AWS_ACCESS_KEY_ID"),
        secret_access_key=SecretStr(secret) if secret else None,
        patience=patience_from_environment(environment),
    )
    return Settings(
        storage=storage,
        isic_url=environment.get("DERMASCAN_ISIC_URL", PUBLIC_ISIC_URL),
        mlflow_tracking_uri=environment.get("MLFLOW_TRACKING_URI"),
    )


def patience_from_environment(environment: Mapping[str, str] = os.environ) -> StoragePatience:
    """Read `DERMASCAN_S3_CONNECT_SECONDS`, `..._REQUEST_SECONDS` and `..._RETRY_SECONDS`.

    Raises:
        InputError: one of them is not a number of seconds.
    """
    return _seconds_from_environment(StoragePatience, "DERMASCAN_S3_", environment)


def watch_from_environment(environment: Mapping[str, str] = os.environ) -> WatchSettings:
    """Read `DERMASCAN_INCOMING_POLL_SECONDS` and `DERMASCAN_INCOMING_QUIET_SECONDS`.

    Raises:
        InputError: one of them is not a number of seconds, or is out of range.
    """
    return _seconds_from_environment(WatchSettings, "DERMASCAN_INCOMING_", environment)


def topic_from_environment(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the topic of bucket notifications; None, if it is unset or empty, means none is read.

    Raises:
        InputError: it is no name of a topic.
    """
    topic = environment.get(KAFKA_TOPIC) or None
    if topic and not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", topic):
        raise InputError(f"{KAFKA_TOPIC}: give 1 to 249 of a-z, A-Z, 0-9, dot, _ and -")
    return topic


def storage_of_connection(
    name: str, login: str | None, password: str | None, extra: Mapping[str, Any]
) -> StorageSettings:
    """Read an orchestrator's connection of the kind that describes an S3 server.

    Args:
        name: of the connection, for messages.
        login: the access key's identifier, None for the ambient identity.
        password: the secret key.
        extra: `endpoint_url`, `region_name`, and the bucket in `service_config`.

    Raises:
        InputError: it names no usable bucket, or a `DERMASCAN_S3_*_SECONDS` variable is no
            number of seconds.
    """
    bucket = extra.get("service_config", {}).get("s3", {}).get("bucket_name")
    try:
        return StorageSettings(
            bucket=bucket,
            endpoint_url=extra.get("endpoint_url"),
            region=extra.get("region_name", "us-east-1"),
            access_key_id=login,
            secret_access_key=SecretStr(password) if password else None,
            patience=patience_from_environment(),
        )
    except ValidationError as error:
        raise InputError(
            f"connection {name!r} names no usable bucket ({bucket!r}): set its "
            'extra to {"service_config": {"s3": {"bucket_name": "..."}}}'
        ) from error


def _seconds_from_environment(
    model: type[SecondsT], prefix: str, environment: Mapping[str, str]
) -> SecondsT:
    names = {name: f"{prefix}{name.upper()}" for name in model.model_fields}
    given = {
        name: environment[variable] for name, variable in names.items() if variable in environment
    }
    try:
        return model.model_validate(given)
    except ValidationError as error:
        wrong = ", ".join(names[str(problem["loc"][0])] for problem in error.errors())
        raise InputError(f"{wrong}: give a number of seconds above 0") from error
