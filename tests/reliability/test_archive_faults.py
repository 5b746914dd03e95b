"""The client and the archive's server with a misbehaving network between them."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from archives import row, serving, write_folder
from reliability import fault_proxy as faults
from reliability.fault_proxy import Exchange, FaultProxy, fault_proxy

from dermascan.errors import TransientError
from dermascan.isic.client import IsicClient, Timeouts
from dermascan.isic.retry import RetryPolicy

QUICK = RetryPolicy(attempts=4, base_seconds=0.02, cap_seconds=0.05, retry_after_cap_seconds=0.05)
HASTY = replace(QUICK, attempts=2, throttled_attempts=3)
TIMEOUTS = Timeouts(connect=1, read=0.7, total=5)
IMAGES = 3
REQUESTS = IMAGES + 3  # a page, the files, a count, a licence
FAULTS = {
    "latency": faults.latency(0.05),
    "reset_before_request": faults.reset_before_request,
    "reset_after_headers": faults.reset_after_headers,
    "reset_in_body": faults.reset_in_body,
    "truncated_answer": faults.truncated_answer,
    "flipped_answer": faults.flipped_answer,
    "500": faults.status(500, "InternalError"),
    "503": faults.status(503, "SlowDown", retry_after=1),
    "429": faults.status(429, "TooManyRequests", retry_after=1),
    "stall_before_answer": faults.stall_before_answer(30),
    "stall_in_body": faults.stall_in_body(30),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("archive"), [row(i) for i in range(IMAGES)])


@pytest.fixture(scope="module")
def archive(folder) -> Iterator[FaultProxy]:
    with serving(folder) as url, fault_proxy(url) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def client(archive: FaultProxy) -> Iterator[IsicClient]:
    with IsicClient(archive.url, concurrency=2, retry=QUICK, timeouts=TIMEOUTS) as it:
        yield it


@pytest.fixture(autouse=True)
def _calm(archive: FaultProxy) -> None:
    archive.be_good()


def everything(client: IsicClient) -> tuple[int, list[tuple[str, str | None]], str]:
    images = [(one.record.isic_id, one.sha256) for one in client.download(client.search())]
    return client.count(), images, client.license_text("CC-0")


@pytest.mark.parametrize("fault", FAULTS)
def test_client_when_any_request_meets_a_fault_gets_the_same(
    fault: str, archive: FaultProxy, client: IsicClient
):
    expected = everything(client)
    for index in range(REQUESTS):
        archive.be_good()
        archive.strike(FAULTS[fault], after=index)
        assert (index, everything(client)) == (index, expected)
        assert archive.struck == 1


def test_client_when_the_archive_is_away_for_less_than_the_retries_gets_everything(
    archive: FaultProxy,
):
    patient = RetryPolicy(attempts=8, base_seconds=0.3, cap_seconds=1, random=lambda: 0.99)
    with IsicClient(archive.url, retry=patient, timeouts=TIMEOUTS) as client:
        records = list(client.search())
        with archive.outage(seconds=1.0):
            found = list(client.download(records))
    assert [one.failure for one in found] == [None] * IMAGES
    assert max(one.attempts for one in found) > 1


@pytest.mark.parametrize("fault", [name for name in FAULTS if name != "latency"])
def test_client_when_a_fault_does_not_end_says_in_time_what_it_waited_for(
    fault: str, archive: FaultProxy, client: IsicClient
):
    (record, *_) = client.search()
    archive.strike_always(FAULTS[fault])
    started = time.monotonic()
    with IsicClient(archive.url, retry=HASTY, timeouts=TIMEOUTS) as hasty:
        with pytest.raises(TransientError) as caught:
            hasty.count()
        (failed,) = hasty.download([record])
    assert str(caught.value).startswith(f"{archive.url}/api/v2/images/search/?")
    assert "attempts in " in str(caught.value)
    assert failed.data is None
    assert "after " in str(failed.failure)
    assert time.monotonic() - started < 2 * HASTY.attempts * TIMEOUTS.read + 10


def test_download_when_bytes_of_the_right_length_are_changed_on_the_way_names_the_checksum(
    archive: FaultProxy, client: IsicClient
):
    archive.strike_always(faults.flipped_answer, path="[.]jpg")
    found = list(client.download(client.search()))
    assert {one.failure for one in found} == {
        "the answer does not match its SHA-256 after 4 attempts"
    }


def test_download_from_s3_when_bytes_are_changed_checks_the_entity_tag(
    archive: FaultProxy, client: IsicClient
):
    def from_s3(exchange: Exchange) -> None:
        response = exchange.forward()
        headers = (
            ("Content-Length", str(len(response.body))),
            ("Server", "AmazonS3"),
            ("ETag", '"0123456789abcdef0123456789abcdef"'),
        )
        exchange.answer(replace(response, headers=headers))

    archive.strike_always(from_s3, path="[.]jpg")
    found = list(client.download(client.search()))
    assert {one.failure for one in found} == {
        "the answer does not match the MD5 in its entity tag after 4 attempts"
    }
