import json

import pytest
from pydantic import SecretStr

from dermascan.settings import PUBLIC_ISIC_URL, StorageSettings
from dermascan.stack import connections
from dermascan.stack.airflow_api import Connection

STORAGE = StorageSettings(
    bucket="dermascan",
    endpoint_url="http://127.0.0.1:8333",
    access_key_id="generated",
    secret_access_key=SecretStr("secret"),
)


class FakeApi:
    def __init__(self):
        self.known = {}
        self.pools = {}

    def connection(self, connection_id):
        body = self.known.get(connection_id)
        return Connection.model_validate(body) if body else None

    def create_connection(self, body):
        assert body["connection_id"] not in self.known
        self.known[body["connection_id"]] = body

    def change_connection(self, connection_id, body):
        self.known[connection_id] |= body

    def ensure_pool(self, name, slots, _description):
        self.pools.setdefault(name, slots)


@pytest.fixture
def prepared():
    api = FakeApi()
    connections.prepare(api, STORAGE, None)
    return api


def moved_to(port: int) -> StorageSettings:
    return STORAGE.model_copy(update={"endpoint_url": f"http://127.0.0.1:{port}"})


def test_prepare_when_new_makes_connections_and_pool(prepared):
    storage = prepared.known["dermascan_s3"]

    assert prepared.known["isic_archive"]["host"] == PUBLIC_ISIC_URL
    assert (storage["login"], storage["password"]) == ("generated", "secret")
    assert json.loads(storage["extra"]) == {
        "endpoint_url": "http://127.0.0.1:8333",
        "region_name": "us-east-1",
        "service_config": {"s3": {"bucket_name": "dermascan"}},
    }
    assert prepared.pools == {"training": 1}


def test_prepare_when_the_user_has_edited_them_leaves_them_alone(prepared):
    prepared.known["isic_archive"]["host"] = "https://mirror"
    theirs = {"login": "AKIA", "extra": '{"endpoint_url": "https://s3.example.org"}'}
    prepared.known["dermascan_s3"] |= theirs
    before = json.dumps(prepared.known)

    connections.prepare(prepared, moved_to(9333), None)

    assert json.dumps(prepared.known) == before


def test_prepare_when_an_archive_is_named_points_there(prepared):
    connections.prepare(prepared, STORAGE, "http://127.0.0.1:8000")

    assert prepared.known["isic_archive"]["host"] == "http://127.0.0.1:8000"


def test_prepare_when_the_stack_moved_its_port_follows_and_keeps_the_bucket(prepared):
    extra = json.loads(prepared.known["dermascan_s3"]["extra"])
    extra["service_config"]["s3"]["bucket_name"] = "other"
    prepared.known["dermascan_s3"]["extra"] = json.dumps(extra)

    connections.prepare(prepared, moved_to(9333), None)

    changed = json.loads(prepared.known["dermascan_s3"]["extra"])
    assert changed["endpoint_url"] == "http://127.0.0.1:9333"
    assert changed["service_config"]["s3"]["bucket_name"] == "other"


def test_prepare_when_the_keys_are_the_users_does_not_follow_the_port(prepared):
    prepared.known["dermascan_s3"]["login"] = "AKIA"

    connections.prepare(prepared, moved_to(9333), None)

    assert "8333" in prepared.known["dermascan_s3"]["extra"]
