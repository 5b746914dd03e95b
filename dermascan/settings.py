"""What a run needs to know, read once from the environment.

DAGs build the same objects from Airflow connections; nothing else in the library
looks at the environment.
"""

import os
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from dermascan.errors import InputError

PUBLIC_ISIC_URL = "https://api.isic-archive.com"


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


class Settings(BaseModel):
    """Everything that differs between a laptop and a data centre."""

    model_config = ConfigDict(frozen=True)

    storage: StorageSettings
    isic_url: str = PUBLIC_ISIC_URL
    mlflow_tracking_uri: str | None = None


def settings_from_environment(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read `DERMASCAN_*` variables, with the usual AWS ones for credentials.

    Raises:
        InputError: `DERMASCAN_BUCKET` is not set.
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
    )
    return Settings(
        storage=storage,
        isic_url=environment.get("DERMASCAN_ISIC_URL", PUBLIC_ISIC_URL),
        mlflow_tracking_uri=environment.get("MLFLOW_TRACKING_URI"),
    )
