import asyncio
import logging
import socket
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from itertools import islice

import pytest
from isic.misbehaving import (
    JPEG,
    MisbehavingArchive,
    body,
    drip,
    endless,
    half,
    misbehaving_archive,
    page,
    redirect,
    reset,
    silence,
    status,
    unannounced,
)

from dermascan.errors import InputError, PermanentError, TransientError
from dermascan.fingerprint import sha256_hex
from dermascan.isic.client import ImageRecord, IsicClient, RetryPolicy, Timeouts

SEARCH = "/api/v2/images/search/"
SIZE = len(JPEG) + 12


def name(number: int) -> str:
    return f"ISIC_{number:07d}"


ONE = name(1)


async def _short_sleep(seconds: float) -> None:
    await asyncio.sleep(seconds / 200)


QUICK = RetryPolicy(attempts=3, throttled_attempts=4, base_seconds=0.2, sleep=_short_sleep)


@pytest.fixture
def archive() -> Iterator[MisbehavingArchive]:
    images = {name(i): JPEG + name(i).encode() for i in range(25)}
    with misbehaving_archive(images) as server:
        yield server


@pytest.fixture
def client(archive: MisbehavingArchive) -> Iterator[IsicClient]:
    with IsicClient(archive.url, concurrency=4, retry=QUICK) as it:
        yield it


@pytest.fixture
def impatient(archive: MisbehavingArchive) -> Iterator[IsicClient]:
    timeouts = Timeouts(connect=2, read=0.4, total=0.6)
    with IsicClient(archive.url, concurrency=4, retry=QUICK, timeouts=timeouts) as it:
        yield it


def downloads(client: IsicClient):
    return {found.record.isic_id: found for found in client.download(client.search())}


def test_search_over_many_pages_yields_every_image_in_order(archive, client):
    archive.page_size = 10

    found = [record.isic_id for record in client.search()]

    assert found == list(archive.images)
    assert len(archive.asked(SEARCH)) == 3


def test_search_passes_query_and_collections_on_and_says_who_asks(archive, client):
    list(client.search('diagnosis_1:"Benign" AND sex:male', "65, 70", limit=3))

    request = archive.asked(SEARCH)[0]
    assert "query=diagnosis_1%3A%22Benign%22+AND+sex%3Amale" in request.path
    assert "collections=65%2C70" in request.path
    assert request.headers["User-Agent"].startswith("DermaScan/")


def test_search_with_a_limit_stops_there_though_the_server_ignores_it(archive, client):
    archive.page_size = 10

    assert [r.isic_id for r in client.search(limit=13)] == list(archive.images)[:13]
    assert len(archive.asked(SEARCH)) == 2


def test_count_asks_for_one_image_only(archive, client):
    assert client.count() == 25
    assert "limit=1" in archive.asked(SEARCH)[0].path


def test_search_when_a_cursor_repeats_names_it(archive, client):
    archive.page_size = 10
    stuck = f'{{"count": null, "next": "{archive.url}{SEARCH}?cursor=again", "results": []}}'
    archive.always[SEARCH] = page(stuck.replace("null", "25"), "application/json")

    with pytest.raises(PermanentError, match="'again' repeats"):
        list(client.search())


def test_search_when_pages_never_end_without_news_gives_up(archive, client):
    numbers = iter(range(1000))
    archive.always[SEARCH] = lambda handler: handler.send_json(
        {"count": 5, "next": f"{SEARCH}?cursor={next(numbers)}", "results": []}
    )

    with pytest.raises(PermanentError, match="pages in a row"):
        list(client.search())


def test_search_when_images_come_twice_yields_them_once_and_says_so(archive, client, caplog):
    archive.page_size = 10
    archive.repeat = (name(3), name(4))

    found = [record.isic_id for record in client.search()]

    assert found == list(archive.images)
    assert "listed 2 images more than once" in caplog.text


@pytest.mark.parametrize(
    "odd", ["ISIC_9999999", "ISIC_00000010", "ISIC_000000\u0661", "isic_0000001"]
)
def test_search_tells_identifiers_of_any_form_apart(archive, client, odd):
    names = [name(1), name(2), odd, name(1), odd]
    file = {"full": {"url": "https://files.test/a.jpg", "size": 1}}
    listed = [{"isic_id": each, "copyright_license": "CC-0", "files": file} for each in names]
    archive.always[SEARCH] = lambda handler: handler.send_json(
        {"count": 3, "next": None, "results": listed}
    )

    assert [record.isic_id for record in client.search()] == names[:3]


def test_search_when_fewer_come_than_promised_names_both_numbers(archive, client, caplog):
    archive.count = 30

    list(client.search())

    assert "promised 30 images and listed 25" in caplog.text


def test_search_when_the_query_is_wrong_repeats_what_the_server_says(archive, client):
    archive.misbehave[SEARCH] = [status(400, message="Couldn't parse search query.")]

    with pytest.raises(InputError, match="Couldn't parse search query"):
        client.count("AND AND")
    assert len(archive.asked(SEARCH)) == 1


@pytest.mark.parametrize("code", [401, 403])
def test_search_when_access_is_refused_says_where_to_look(archive, client, code):
    archive.misbehave[SEARCH] = [status(code)]

    with pytest.raises(InputError, match="DERMASCAN_ISIC_URL or the isic_archive connection"):
        client.count()


def test_search_when_there_is_no_archive_at_the_address_names_it(archive):
    with (
        IsicClient(f"{archive.url}/elsewhere", retry=QUICK) as client,
        pytest.raises(InputError, match=r"/elsewhere is no ISIC archive.*isic_archive"),
    ):
        client.count()


def test_search_when_a_page_is_html_names_the_url(archive, client):
    archive.misbehave[SEARCH] = [page("<html>Log in to the hotel's network</html>")]

    with pytest.raises(PermanentError, match=f"{archive.url}{SEARCH}.*not what an ISIC archive"):
        client.count()


def test_search_when_the_server_stumbles_tries_again(archive, client):
    archive.misbehave[SEARCH] = [status(503), reset()]

    assert client.count() == 25


def test_search_when_nobody_listens_names_the_url():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with (
            IsicClient(url, retry=QUICK) as client,
            pytest.raises(TransientError, match=f"{url}.*after 3 attempts"),
        ):
            client.count()


@pytest.mark.parametrize("url", ["", "archive.test", "ftp://archive.test", "http://"])
def test_client_when_the_address_is_no_web_address_says_so(url):
    with pytest.raises(InputError, match="DERMASCAN_ISIC_URL"):
        IsicClient(url)


def test_client_when_the_address_ends_in_the_api_path_takes_it_too(archive):
    with IsicClient(f"{archive.url}/api/v2/", retry=QUICK) as client:
        assert client.count() == 25


@pytest.mark.parametrize("collections", ["a", "1,,2", "1;2"])
def test_search_when_collections_are_no_numbers_says_so(client, collections):
    with pytest.raises(InputError, match="numbers with commas"):
        client.count("", collections)


def test_search_when_the_limit_is_no_number_of_images_says_so(client):
    with pytest.raises(InputError, match="limit 0"):
        list(client.search(limit=0))


def test_license_text_returns_the_archives_text(client):
    assert client.license_text("CC-0") == "No rights reserved"


def test_license_text_when_unknown_names_the_licence(client):
    with pytest.raises(InputError, match=r"no licence '\.\./CC-9'"):
        client.license_text("../CC-9")


def test_download_returns_the_bytes_in_the_order_asked(archive, client):
    for number in (0, 5, 6):
        archive.misbehave[name(number)] = [silence(0.1)]

    found = list(client.download(client.search()))

    assert [one.record.isic_id for one in found] == list(archive.images)
    assert [one.data for one in found] == list(archive.images.values())
    assert all(one.sha256 == sha256_hex(one.data) for one in found)
    assert all(one.failure is None for one in found)


def test_download_keeps_to_its_concurrency_and_its_connections(archive, client):
    records = list(client.search())
    for number in range(25):
        archive.misbehave[name(number)] = [silence(0.05, then=body(JPEG + name(number).encode()))]
    archive.most_under_way = archive.connections = 0

    found = list(client.download(records))

    assert [one.attempts for one in found] == [1] * 25
    assert 2 <= archive.most_under_way <= 4
    assert archive.connections <= 4


@pytest.mark.parametrize(
    "stumble",
    [
        status(503),
        status(500),
        status(429),
        half(JPEG + ONE.encode()),
        reset(),
        endless(),
        page("<html>please wait</html>"),
        body(b""),
        unannounced(JPEG),
        body(JPEG),
        body(JPEG + ONE.encode() + b"surplus"),
        body(JPEG + ONE.encode(), Content_Encoding="gzip"),
        body(JPEG + ONE.encode(), Content_Length=str(SIZE + 1)),
        body(JPEG + ONE.encode(), Content_Length=str(SIZE - 1)),
        body(JPEG + ONE.encode(), Content_Length="-5"),
    ],
    ids=[
        "503",
        "500",
        "429-without-a-time",
        "half-a-body",
        "reset",
        "endless",
        "html",
        "empty",
        "short-without-a-length",
        "short",
        "long",
        "compressed",
        "content-length-too-large",
        "content-length-too-small",
        "content-length-negative",
    ],
)
def test_download_when_an_answer_goes_wrong_once_tries_again(archive, client, stumble):
    archive.misbehave[ONE] = [stumble]

    found = downloads(client)

    assert found[ONE].data == archive.images[ONE]
    assert found[ONE].attempts == 2
    assert all(one.failure is None for one in found.values())


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (status(503), "http 503 after 3 attempts"),
        (half(JPEG + ONE.encode()), f"size {SIZE // 2} of {SIZE} bytes after 3 attempts"),
        (reset(), "connection broken after 3 attempts"),
        (endless(), f"size over {SIZE} instead of {SIZE} bytes after 3 attempts"),
        (page("<html>sorry</html>"), "not an image: text/html after 3 attempts"),
        (body(b""), f"size 0 instead of {SIZE} bytes after 3 attempts"),
        (body(JPEG), f"size {len(JPEG)} instead of {SIZE} bytes after 3 attempts"),
        (body(JPEG * 3), f"size {len(JPEG) * 3} instead of {SIZE} bytes after 3 attempts"),
        (redirect("ftp://files.test/a.jpg"), "refused: "),
        (redirect("file:///etc/passwd"), "refused: "),
        (redirect(f"/files/{ONE}.jpg"), "TooManyRedirects after 3 attempts"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_download_when_the_trouble_stays_records_the_reason_and_goes_on(
    archive, client, trouble, reason
):
    archive.always[ONE] = trouble

    found = downloads(client)

    assert found.pop(ONE).failure.startswith(reason)
    assert len(found) == 24
    assert all(one.data is not None for one in found.values())


@pytest.mark.parametrize(
    ("slowness", "reason"),
    [
        (silence(1), "timeout"),
        (drip(JPEG + ONE.encode(), 0.02), "not finished within 0.6 s"),
        (drip(JPEG + ONE.encode(), 0.02, headers_too=True), "not finished within 0.6 s"),
    ],
    ids=["silence", "slow-body", "slow-headers"],
)
def test_download_when_an_answer_never_comes_to_an_end_does_not_wait_for_it(
    archive, impatient, slowness, reason
):
    archive.always[ONE] = slowness

    (found,) = impatient.download(islice(impatient.search(), 1, 2))

    assert found.failure == f"{reason} after 3 attempts"


@pytest.mark.parametrize("code", [400, 403, 404, 410])
def test_download_when_refused_asks_for_a_fresh_url_once_then_records_it(archive, client, code):
    archive.always[ONE] = status(code)

    found = downloads(client)

    assert found[ONE].failure == f"http {code}"
    assert found[ONE].attempts == 2
    assert sum(one.failure is not None for one in found.values()) == 1
    assert len(archive.asked(f"/api/v2/images/{ONE}/")) == 1


def test_download_when_no_length_is_announced_takes_the_promised_one(archive, client):
    archive.misbehave[ONE] = [unannounced(archive.images[ONE])]

    found = downloads(client)

    assert (found[ONE].data, found[ONE].attempts) == (archive.images[ONE], 1)


def test_download_when_signed_urls_have_expired_uses_fresh_ones(archive, client):
    records = list(client.search())
    archive.generation += 1

    found = list(client.download(records))

    assert [one.data for one in found] == list(archive.images.values())


def test_download_when_a_url_is_signed_sends_its_escapes_as_they_are(archive, client):
    signed = f"/files/{ONE}.jpg?generation=0&Signature=a%2Fb%7Ec%2B%3D"
    archive.file_urls[ONE] = f"{archive.url}{signed}"

    found = downloads(client)

    assert found[ONE].data == archive.images[ONE]
    assert [request.path for request in archive.asked("Signature")] == [signed]


def test_count_when_the_environment_names_a_proxy_asks_there(archive, monkeypatch):
    monkeypatch.setenv("http_proxy", archive.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with IsicClient("http://isic.invalid", retry=QUICK) as client:
        assert client.count() == 25

    assert archive.asked(SEARCH)[0].path.startswith("http://isic.invalid/")


def test_download_when_expired_and_the_archive_has_forgotten_the_image_says_so(archive, client):
    records = list(client.search(limit=2))
    archive.generation += 1
    archive.always[f"/api/v2/images/{ONE}/"] = status(404)

    first, second = client.download(records)

    assert first.failure is None
    assert second.failure == "http 403, and no fresh URL: http 404"


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://files.test/a.jpg",
        "ws://files.test/a.jpg",
        "http://[::1",
        "http://files.test:99999/a.jpg",
        "http://files..test/a.jpg",
        "data:,x",
        "http://",
        "//a.jpg",
    ],
)
def test_download_when_the_url_is_no_web_address_refuses_it(client, url):
    record = ImageRecord(ONE, url, 5, "jpg", "CC-0", "", {})

    (found,) = client.download([record])

    assert found.data is None
    assert found.failure.startswith(("refused", "connection broken"))


def test_download_when_a_file_of_the_promised_size_is_no_image_hands_it_over(archive, client):
    archive.images[ONE] = b"<html>no image</html>"
    archive.images[name(2)] = b""

    found = downloads(client)

    assert found[ONE].data == b"<html>no image</html>"
    assert found[name(2)].data == b""


def test_download_when_a_file_promises_to_be_too_large_does_not_ask_for_it(archive):
    archive.promised_sizes[ONE] = 10**15
    with IsicClient(archive.url, retry=QUICK, max_image_bytes=1000) as client:
        found = downloads(client)

    assert found[ONE].failure == f"size {10**15} is over the limit of 1000 bytes"
    assert not archive.asked(f"/files/{ONE}")
    assert sum(one.failure is None for one in found.values()) == 24


def test_download_consumes_records_only_as_fast_as_results_are_taken(archive, client):
    taken = []
    template = next(client.search(limit=1))

    def records():
        for number in range(10_000):
            taken.append(number)
            yield template

    results = client.download(records())
    list(islice(results, 20))
    results.close()

    assert len(taken) <= 20 + 2 * 4 + 1
    assert len(archive.asked("/files/")) <= 20 + 2 * 4 + 1


def test_download_when_429_bursts_come_with_a_time_loses_nothing(archive, client):
    for number in range(25):
        archive.misbehave[name(number)] = [status(429, retry_after="1")] * 3

    found = downloads(client)

    assert all(one.failure is None for one in found.values())


def test_download_when_throttled_for_ever_records_it(archive, client):
    archive.always[ONE] = status(429, retry_after="1")

    found = downloads(client)

    assert found[ONE].failure == "http 429 after 4 attempts"


def test_download_when_one_is_told_to_wait_all_wait(archive):
    archive.misbehave[ONE] = [status(503, retry_after="1")]
    with IsicClient(archive.url, concurrency=2) as client:
        found = downloads(client)

    told = archive.asked(f"/files/{ONE}")[0].moment
    pauses = [request.moment - told for request in archive.asked("/files/")]
    assert all(one.failure is None for one in found.values())
    assert sum(0 < pause < 0.9 for pause in pauses) <= 1  # the one already on its way
    assert sum(pause >= 0.9 for pause in pauses) >= 20


def test_close_while_downloads_are_under_way_does_not_wait_for_them(archive):
    for number in range(1, 25):
        archive.always[name(number)] = silence(5)
    started = time.monotonic()
    with IsicClient(archive.url, concurrency=4) as client:
        results = client.download(list(client.search(limit=8)))
        first = next(results)

    with pytest.raises(CancelledError):
        next(results)
    assert first.data == archive.images[name(0)]
    assert archive.under_way
    assert time.monotonic() - started < 3


def test_client_keeps_signed_urls_out_of_the_log(archive, caplog):
    caplog.set_level(logging.INFO)
    with IsicClient(archive.url, retry=QUICK) as client:
        archive.always[ONE] = status(403)
        downloads(client)

    assert "generation=" not in caplog.text
