import pytest

from dermascan.errors import InputError
from dermascan.settings import StoragePatience, settings_from_environment

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
