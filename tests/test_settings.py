import pytest

from dermascan.errors import InputError
from dermascan.settings import (
    StoragePatience,
    WatchSettings,
    settings_from_environment,
    storage_of_connection,
    topic_from_environment,
    watch_from_environment,
)

BUCKET = {"DERMASCAN_BUCKET": "somewhere"}


def test_patience_when_nothing_is_set_is_the_documented_one():
    patience = settings_from_environment(BUCKET).storage.patience
    assert patience == StoragePatience(connect_seconds=5, request_seconds=60, retry_seconds=180)


def test_patience_when_set_is_read_in_seconds():
    given = {"DERMASCAN_S3_REQUEST_SECONDS": "7.5", "DERMASCAN_S3_RETRY_SECONDS": "0"}
    patience = settings_from_environment(BUCKET | given).storage.patience
    assert (patience.request_seconds, patience.retry_seconds) == (7.5, 0)


@pytest.mark.parametrize("value", ["soon", "-1", "0", ""])
def test_patience_when_a_time_is_no_time_names_the_variable(value: str):
    with pytest.raises(InputError, match="DERMASCAN_S3_CONNECT_SECONDS: give a number of seconds"):
        settings_from_environment(BUCKET | {"DERMASCAN_S3_CONNECT_SECONDS": value})


def test_watch_when_set_is_read_in_seconds_and_otherwise_the_documented_one():
    assert watch_from_environment({}) == WatchSettings(poll_seconds=10, quiet_seconds=300)
    given = {"DERMASCAN_INCOMING_QUIET_SECONDS": "7.5"}
    assert watch_from_environment(given).quiet_seconds == 7.5
    with pytest.raises(InputError, match="DERMASCAN_INCOMING_POLL_SECONDS: give a number"):
        watch_from_environment({"DERMASCAN_INCOMING_POLL_SECONDS": "0"})


def test_topic_of_notifications_is_none_unless_it_is_named():
    assert topic_from_environment({}) is None
    assert topic_from_environment({"DERMASCAN_KAFKA_TOPIC": ""}) is None
    assert topic_from_environment({"DERMASCAN_KAFKA_TOPIC": "bucket-events"}) == "bucket-events"


@pytest.mark.parametrize("name", ["^every.*", "two topics", "a,b", "x" * 250])
def test_topic_that_is_no_name_of_one_is_refused(name: str):
    with pytest.raises(InputError, match="DERMASCAN_KAFKA_TOPIC: give"):
        topic_from_environment({"DERMASCAN_KAFKA_TOPIC": name})


def test_connection_that_names_no_bucket_is_refused_by_name():
    with pytest.raises(InputError, match="connection 'mine' names no usable bucket"):
        storage_of_connection("mine", None, None, {})
