import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from obstore.exceptions import AlreadyExistsError, GenericError, PermissionDeniedError

from dermascan.errors import InputError, NotFoundError, TransientError
from dermascan.settings import StoragePatience
from dermascan.storage_calls import LONGEST_PAUSE_SECONDS, Caller, translated


class Clock:
    """Time that passes by sleeping only."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def caller(clock: Clock) -> Caller:
    return Caller("http://s3", StoragePatience(retry_seconds=180), clock.sleep, clock)


def away_until(clock: Clock, moment: float):
    def operation() -> str:
        if clock() < moment:
            raise EndpointConnectionError(endpoint_url="http://s3")
        return "done"

    return operation


def test_caller_when_an_outage_ends_before_patience_goes_on(caller: Caller, clock: Clock):
    assert caller(away_until(clock, 1000 + 160), "read", "s3://b/k") == "done"


def test_caller_when_an_outage_outlasts_patience_says_how_long_it_waited(
    caller: Caller, clock: Clock
):
    with pytest.raises(
        TransientError, match=r"s3://b/k: waited 1[678]\d\.\d s for http://s3 to rea"
    ):
        caller(away_until(clock, 5000), "read", "s3://b/k")
    assert 1000 + 180 - LONGEST_PAUSE_SECONDS <= clock() <= 1000 + 180


def test_caller_when_work_itself_takes_long_counts_patience_from_the_first_failure(
    caller: Caller, clock: Clock
):
    failures = iter([EndpointConnectionError(endpoint_url="http://s3")])

    def slow() -> str:
        clock.sleep(1000)  # a large object over a slow line
        for error in failures:
            raise error
        return "done"

    assert caller(slow, "write", "s3://b/k") == "done"


def test_caller_when_the_error_is_no_matter_of_storage_lets_it_through(caller: Caller):
    def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        caller(broken, "read", "s3://b/k")


def client_error(code: str, status: int) -> ClientError:
    response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, "GetObject")


def obstore_error(code: str, status: int) -> GenericError:
    return GenericError(f"Server returned non-2xx status code: {status}: <Code>{code}</Code>")


@pytest.mark.parametrize("error", [client_error, obstore_error])
@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("BadDigest", 400, TransientError),
        ("XAmzContentSHA256Mismatch", 400, TransientError),
        ("RequestTimeout", 400, TransientError),
        ("NoSuchUpload", 404, TransientError),
        ("SlowDown", 503, TransientError),
        ("TooManyRequests", 429, TransientError),
        ("OperationAborted", 409, TransientError),
        ("InternalError", 500, TransientError),
        ("InvalidArgument", 400, InputError),
        ("SignatureDoesNotMatch", 403, InputError),
        ("NoSuchBucket", 404, NotFoundError),
    ],
)
def test_translated_tells_what_may_pass_from_what_will_not(error, code, status, kind):
    assert type(translated(error(code, status), "s3://b/k")) is kind


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (FileNotFoundError("<Code>NoSuchKey</Code>"), NotFoundError),
        (FileNotFoundError("<Code>NoSuchUpload</Code>"), TransientError),
        (PermissionDeniedError("no"), InputError),
        (AlreadyExistsError("taken"), AlreadyExistsError),
    ],
)
def test_translated_reads_the_kinds_of_the_bulk_client(error, kind):
    assert type(translated(error, "s3://b/k")) is kind
