import socket
import time
from contextlib import closing

from dermascan.overview.health import TRACKING_SECONDS, storage_health, tracking_health


def test_tracking_without_a_server_says_so():
    assert not tracking_health(None).answers
    assert not tracking_health("sqlite:///mlflow.db").answers


def test_tracking_of_a_server_that_takes_no_answer_is_given_up_at_once():
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        started = time.monotonic()
        found = tracking_health(f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert not found.answers
    assert "does not answer" in found.detail
    assert time.monotonic() - started < 8 * TRACKING_SECONDS


def test_tracking_of_a_server_that_is_no_mlflow_has_a_problem(storage_settings):
    assert not tracking_health(storage_settings.endpoint_url).answers


def test_storage_tells_how_fast_it_was_or_what_is_wrong():
    assert storage_health("s3://bucket", None, 0.0123).detail == "s3://bucket answered in 12 ms"
    trouble = storage_health("s3://bucket", "it is down", 2)
    assert (trouble.answers, trouble.detail) == (False, "it is down")
