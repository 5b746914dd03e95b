"""The two clients that talk S3, with the time-outs of the settings."""

from datetime import timedelta
from typing import TYPE_CHECKING, cast

import boto3
from botocore.config import Config
from obstore.store import S3Store

from dermascan.settings import StorageSettings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from obstore.store import S3Config


def obstore_client(settings: StorageSettings, bucket: str) -> S3Store:
    """Return the client for bulk reads and writes, which sends a SHA-256 with what it writes."""
    secret, patience = settings.secret_access_key, settings.patience
    config = {
        "region": settings.region,
        "checksum_algorithm": "SHA256",
        "endpoint": settings.endpoint_url,
        "access_key_id": settings.access_key_id,
        "secret_access_key": secret.get_secret_value() if secret else None,
    }
    return S3Store(
        bucket,
        config=cast("S3Config", {name: value for name, value in config.items() if value}),
        client_options={
            "allow_http": True,
            "timeout": timedelta(seconds=patience.request_seconds),
            "connect_timeout": timedelta(seconds=patience.connect_seconds),
        },
        # These spare a large object from moving again as a whole; `Caller` goes on after them.
        retry_config={
            "max_retries": 2,
            "retry_timeout": timedelta(
                seconds=min(patience.request_seconds, patience.retry_seconds)
            ),
        },
    )


def boto3_client(settings: StorageSettings) -> "S3Client":
    """Return the client for listing, deleting and administration."""
    secret = settings.secret_access_key
    return boto3.client(
        "s3",
        endpoint_url=settings.endpoint_url,
        region_name=settings.region,
        aws_access_key_id=settings.access_key_id,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
        config=Config(
            connect_timeout=settings.patience.connect_seconds,
            read_timeout=settings.patience.request_seconds,
            retries={"total_max_attempts": 1, "mode": "standard"},  # `Caller` tries again
            s3={"addressing_style": "path" if settings.endpoint_url else "auto"},
        ),
    )


def obstore_can_name(key: str) -> bool:
    """Tell whether the bulk client can ask for a key as it is."""
    segments = key.split("/")
    plain = all(segment not in ("", ".", "..") for segment in segments)
    return plain and key.isprintable()
