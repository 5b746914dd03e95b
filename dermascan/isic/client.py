"""Search the ISIC archive and download from it, losing nothing silently.

The shape of the API is that of https://api.isic-archive.com/api/docs/swagger/; whatever
serves the same paths, such as `dermascan archive serve`, will do.
"""

import asyncio
import json
import logging
import re
import ssl
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import parse_qs, quote, urlencode, urlsplit
from urllib.request import getproxies

import aiohttp
import httpx
from yarl import URL

from dermascan import __version__
from dermascan.errors import InputError, PermanentError, TransientError
from dermascan.fingerprint import sha256_hex
from dermascan.isic.digest import contradicted
from dermascan.isic.division import IDENTIFIER_DIGITS, divide
from dermascan.isic.records import (
    WHERE_TO_SET,
    ImageRecord,
    PackedRecords,
    Page,
    parse_image,
    parse_page,
)
from dermascan.isic.retry import Attempts, Gate, RetryPolicy, retry_after_seconds

__all__ = ["Download", "ImageRecord", "IsicClient", "RetryPolicy", "Timeouts"]

logger = logging.getLogger(__name__)

PAGE_SIZE = 100  # the archive gives no more on one page, whatever it is asked for
MAX_PAGE_BYTES = 64 * 1024 * 1024
MAX_IMAGE_BYTES = 200 * 1024 * 1024
WINDOW_BYTES = 256 * 1024 * 1024  # promised bytes that may be in memory at once
MAX_PAGES_WITHOUT_NEWS = 10
SEARCHES_AT_ONCE = 10
MAX_REDIRECTS = 5
NO_WEB_ADDRESS = "refused: not an http or https address"

_IDENTIFIER = re.compile(rf"ISIC_([0-9]{{{IDENTIFIER_DIGITS}}})")
_SENDABLE = re.compile(r"[!-~]+")
_COLLECTIONS = re.compile(r"\d+(,\d+)*")
_TEXT_TYPES = ("text/", "application/json", "application/xml", "application/xhtml")
_PASSING_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})

T = TypeVar("T")


@dataclass(frozen=True)
class Download:
    """What became of one image.

    Attributes:
        record: the image that was asked for.
        data: the file's bytes, exactly `record.size` of them; None after a failure.
        sha256: of `data`, in hexadecimal.
        failure: why there are no bytes, None when there are.
        attempts: requests that were sent for the file.
    """

    record: ImageRecord
    data: bytes | None
    sha256: str | None
    failure: str | None
    attempts: int


@dataclass(frozen=True)
class Timeouts:
    """Seconds that one request may take: to connect, between two reads, and in total."""

    connect: float = 10.0
    read: float = 30.0
    total: float = 300.0


class _PassingError(Exception):
    """A request failed in a way that may not last."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class _StatusError(Exception):
    """The server understood the request and said no."""

    def __init__(self, status: int, message: str = "") -> None:
        super().__init__(f"http {status}")
        self.status, self.message = status, message


class _FinalError(Exception):
    """There is no point in asking again; the message is the reason."""


class IsicClient:
    """A connection to an ISIC archive; use it as a context manager.

    Requests run in an event loop in a thread of its own, so callers need no `async`.

    Args:
        base_url: the archive's address, with or without `/api/v2`.
        concurrency: files under way at once.
        retry: when a failed request is tried again.
        timeouts: how long one request may take.
        max_image_bytes: files that promise to be larger are not asked for.

    Raises:
        InputError: `base_url` is not an http or https address.
    """

    def __init__(
        self,
        base_url: str,
        *,
        concurrency: int = 32,
        retry: RetryPolicy | None = None,
        timeouts: Timeouts | None = None,
        max_image_bytes: int = MAX_IMAGE_BYTES,
    ) -> None:
        self.base_url = _checked_base_url(base_url)
        self._api = f"{self.base_url}/api/v2/"
        self._search = f"{self._api}images/search/"
        self._retry = retry or RetryPolicy()
        self._timeouts = timeouts or Timeouts()
        self._max_image_bytes = max_image_bytes
        self._window = 2 * concurrency
        self._gate = Gate(self._retry)
        self._slots = asyncio.Semaphore(concurrency)
        self._loop = _LoopThread()
        self._http = self._loop.run(_http_session(self._timeouts, concurrency))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop what is under way and close all connections."""
        self._loop.close(self._http.close)

    # Searching

    def count(self, query: str = "", collections: str = "") -> int:
        """Return how many images match.

        Args:
            query: in the archive's query language, "" for all.
            collections: collection numbers with commas between, "" for all.

        Raises:
            InputError: the archive does not understand the query, or is not an archive.
            PermanentError: the answer is not what an archive says.
            TransientError: the archive cannot be reached.
        """
        return self._counted_page(_search_parameters(query, collections, 1))[0]

    def search(
        self, query: str = "", collections: str = "", limit: int | None = None
    ) -> Iterator[ImageRecord]:
        """Yield each matching image once, fetching pages of 100.

        A long search without a limit is cut by identifiers into searches that are made at the same
        time (`isic.division`); its images come in another order than the archive's.

        Args:
            query: in the archive's query language, "" for all.
            collections: collection numbers with commas between, "" for all.
            limit: stop after so many images, None for all.

        Raises:
            InputError: the archive does not understand the query, or is not an archive.
            PermanentError: a page is malformed, or pages repeat without end.
            TransientError: the archive cannot be reached.
        """
        if limit is not None and limit < 1:
            message = f"limit {limit} is not a number of images: give 1 or more, or none"
            raise InputError(message)
        size = min(PAGE_SIZE, limit or PAGE_SIZE)
        promised, page = self._counted_page(_search_parameters(query, collections, size))
        promised = min(promised, limit or promised)
        tally = _Tally()
        parts = [query]
        if limit is None:
            parts = divide(query, promised, partial(self._counts, collections))
        if parts == [query]:
            pages = self._pages_from(page)
        else:
            logger.info("listing %d images in %d parts", promised, len(parts))
            pages = self._pages_of(parts, collections)
        for following in pages:
            wanted = None if limit is None else limit - tally.images
            yield from tally.new(following, self.base_url)[:wanted]
            if limit is not None and tally.images >= limit:
                break
        tally.report(self.base_url, promised)

    def license_text(self, license_type: str) -> str:
        """Return the text of a licence such as `CC-BY-NC`.

        Raises:
            InputError: the archive has no such licence.
            TransientError: the archive cannot be reached.
        """
        url = f"{self._api}zip-download/license-file/{quote(license_type, safe='')}/"
        try:
            return self._loop.run(self._ask(url)).decode("utf-8", "replace")
        except _StatusError as error:
            message = f"the archive has no licence {license_type!r} ({error} from {url})"
            raise InputError(message) from error

    def _pages_from(self, page: Page) -> Iterator[Page]:
        yield page
        cursors = _Cursors(self._search)
        while (parameters := cursors.following(page)) is not None:
            page = self._page(parameters)
            yield page

    def _pages_of(self, queries: Iterable[str], collections: str) -> Iterator[Page]:
        """Yield the pages of several searches, one search after the other; all are under way."""
        window: deque[Future[list[PackedRecords]]] = deque()
        parameters = (_search_parameters(query, collections, PAGE_SIZE) for query in queries)
        try:
            for each in parameters:
                if len(window) >= SEARCHES_AT_ONCE:
                    yield from self._unpacked(window.popleft())
                window.append(self._loop.submit(self._packed_pages(each)))
            while window:
                yield from self._unpacked(window.popleft())
        finally:
            for future in window:
                future.cancel()

    def _unpacked(self, pages: Future[list[PackedRecords]]) -> Iterator[Page]:
        try:
            for packed in pages.result():
                yield Page(tuple(packed), None, None)
        except _StatusError as error:
            raise _explained(error, self.base_url, self._search) from error

    async def _packed_pages(self, parameters: str) -> list[PackedRecords]:
        """Return all pages of a search, packed, for there are many of them at the same time."""
        pages, cursors = [], _Cursors(self._search)
        following: str | None = parameters
        while following is not None:
            url = f"{self._search}?{following}"
            page = parse_page(await self._ask(url), url)
            pages.append(PackedRecords.of(page.images))
            following = cursors.following(page)
        return pages

    def _counts(self, collections: str, queries: Sequence[str]) -> list[int] | None:
        """Return how many images each query finds; None where that cannot be told."""
        slots = asyncio.Semaphore(SEARCHES_AT_ONCE)

        async def count(query: str) -> int | None:
            url = f"{self._search}?{_search_parameters(query, collections, 1)}"
            async with slots:
                return parse_page(await self._ask(url), url).count

        async def count_all() -> list[int | None]:
            return await asyncio.gather(*map(count, queries))

        try:
            counts = self._loop.run(count_all())
        except _StatusError as error:
            logger.info("%s: searching page by page: %s", self.base_url, error)
            return None
        known = [found for found in counts if found is not None]
        return known if len(known) == len(counts) else None

    def _counted_page(self, parameters: str) -> tuple[int, Page]:
        page = self._page(parameters)
        if page.count is None:
            message = f"{self._search}: the first page has no count: check {WHERE_TO_SET}"
            raise PermanentError(message)
        return page.count, page

    def _page(self, parameters: str) -> Page:
        url = f"{self._search}?{parameters}"
        try:
            return parse_page(self._loop.run(self._ask(url)), url)
        except _StatusError as error:
            raise _explained(error, self.base_url, url) from error

    # Downloading

    def download(self, records: Iterable[ImageRecord]) -> Iterator[Download]:
        """Download files, many at once, and yield what became of each, in the order given.

        Nothing is raised for a file that fails: its `Download` says why.

        Args:
            records: consumed only as fast as downloads are taken.
        """
        window: deque[tuple[int, Future[Download]]] = deque()
        promised = 0
        try:
            for record in records:
                while window and (
                    len(window) >= self._window or promised + record.size > WINDOW_BYTES
                ):
                    size, future = window.popleft()
                    promised -= size
                    yield future.result()
                promised += record.size
                window.append((record.size, self._loop.submit(self._download(record))))
            while window:
                yield window.popleft()[1].result()
        finally:
            for _, future in window:
                future.cancel()

    async def _download(self, record: ImageRecord) -> Download:
        if record.size > self._max_image_bytes:
            reason = f"size {record.size} is over the limit of {self._max_image_bytes} bytes"
            return Download(record, None, None, reason, 0)
        attempts = Attempts(self._retry, self._gate)
        try:
            async with self._slots:
                data = await self._file(record, attempts)
        except _FinalError as error:
            logger.warning("%s: %s", record.isic_id, error)
            return Download(record, None, None, str(error), attempts.made)
        return Download(record, data, sha256_hex(data), None, attempts.made)

    async def _file(self, record: ImageRecord, attempts: Attempts) -> bytes:
        url, just_resolved = record.url, False
        while True:
            await attempts.begin()
            try:
                async with self._answer(url, encoding="identity") as response:
                    return await _promised_body(response, record.size)
            except _StatusError as error:
                if just_resolved:
                    raise _FinalError(str(error)) from error
                url, just_resolved = await self._fresh_url(record, error), True
            except _PassingError as error:
                logger.debug("%s: %s", record.isic_id, error)
                just_resolved = False
                if not await attempts.may_continue(error.retry_after):
                    raise _FinalError(f"{error} after {attempts.made} attempts") from error

    async def _fresh_url(self, record: ImageRecord, refusal: "_StatusError") -> str:
        # An expired signed URL is refused as 400, 403, 404 or 410, depending on the store.
        url = f"{self._api}images/{quote(record.isic_id, safe='')}/"
        try:
            return parse_image(await self._ask(url), url).url
        except (_StatusError, PermanentError, TransientError) as error:
            raise _FinalError(f"{refusal}, and no fresh URL: {error}") from error

    # Talking

    async def _ask(self, url: str) -> bytes:
        """Return what the API says, trying again while that can help."""
        attempts = Attempts(self._retry, self._gate)
        while True:
            await attempts.begin()
            try:
                async with self._answer(url) as response:
                    return await _page_body(response)
            except _FinalError as error:
                raise PermanentError(f"{url}: {error}: check {WHERE_TO_SET}") from error
            except _PassingError as error:
                logger.info("%s: %s", url, error)
                if not await attempts.may_continue(error.retry_after):
                    message = (
                        f"{url}: {error} after {attempts.made} attempts in {attempts.seconds:.1f} s"
                        f": is the archive up, and is {WHERE_TO_SET} right?"
                    )
                    raise TransientError(message) from error

    @asynccontextmanager
    async def _answer(
        self, url: str, encoding: str = "gzip, deflate"
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request and hold its answer open, every trouble as one of this module's errors."""
        try:
            async with self._http.get(
                _as_signed(url),
                headers={"Accept-Encoding": encoding},
                auto_decompress=encoding != "identity",
                max_redirects=MAX_REDIRECTS,
            ) as response:
                await _check_status(response)
                yield response
        except aiohttp.ServerTimeoutError as error:
            raise _PassingError("timeout") from error
        except TimeoutError as error:
            raise _PassingError(f"not finished within {self._timeouts.total:g} s") from error
        except (aiohttp.NonHttpUrlClientError, ValueError) as error:  # a host may be unspeakable
            raise _FinalError(NO_WEB_ADDRESS) from error
        except aiohttp.ClientError as error:
            raise _PassingError(_in_words(error)) from error


class _Cursors:
    """The places in a search's results that were asked for, to notice when they repeat."""

    def __init__(self, search: str) -> None:
        self._search = search
        self._seen: set[str] = set()

    def following(self, page: Page) -> str | None:
        """Return the query string of the page after this one, None after the last.

        Raises:
            PermanentError: that page was asked for already.
        """
        if page.next_parameters is None:
            return None
        cursor = parse_qs(page.next_parameters).get("cursor", [page.next_parameters])[0]
        if cursor in self._seen:
            message = f"{self._search}: the page cursor {cursor!r} repeats without end"
            raise PermanentError(message)
        self._seen.add(cursor)
        return page.next_parameters


class _Tally:
    """What a search has found so far, to notice what comes twice or not at all."""

    def __init__(self) -> None:
        self._seen = _Identifiers()
        self._duplicates = 0
        self._pages_without_news = 0

    @property
    def images(self) -> int:
        return len(self._seen)

    def new(self, page: Page, archive: str) -> list[ImageRecord]:
        """Return the images of a page that were on none before.

        Raises:
            PermanentError: page after page brought nothing new.
        """
        news = [image for image in page.images if self._seen.add(image.isic_id)]
        self._duplicates += len(page.images) - len(news)
        self._pages_without_news = 0 if news else self._pages_without_news + 1
        if self._pages_without_news > MAX_PAGES_WITHOUT_NEWS:
            message = f"{archive}: {self._pages_without_news} pages in a row had no new image"
            raise PermanentError(message)
        return news

    def report(self, archive: str, promised: int) -> None:
        """Log images that came twice and images that did not come."""
        if self._duplicates:
            logger.warning("%s listed %d images more than once", archive, self._duplicates)
        if self.images < promised:
            logger.warning("%s promised %d images and listed %d", archive, promised, self.images)


class _Identifiers:
    """A set of image identifiers, in a bit for each of those that look as the archive's do."""

    def __init__(self) -> None:
        self._bits = bytearray(10**IDENTIFIER_DIGITS // 8)
        self._others: set[str] = set()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, name: str) -> bool:
        """Take an identifier in; tell whether it was not there."""
        number = _IDENTIFIER.fullmatch(name)
        is_new = self._set(int(number[1])) if number else name not in self._others
        if is_new and not number:
            self._others.add(name)
        self._count += is_new
        return is_new

    def _set(self, number: int) -> bool:
        byte, bit = number >> 3, 1 << (number & 7)
        is_new = not self._bits[byte] & bit
        self._bits[byte] |= bit
        return is_new


class _LoopThread:
    """An event loop that runs in a thread of its own until it is closed."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="isic-client", daemon=True
        )
        self._thread.start()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.submit(work).result()

    def close(self, last_work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if self._loop.is_closed():
            return
        self.run(_cancel_all_others())
        self.run(last_work())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _cancel_all_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


# Reading answers


async def _check_status(response: aiohttp.ClientResponse) -> None:
    status = response.status
    if status == HTTPStatus.OK:
        return
    if status in _PASSING_STATUSES or status >= 500:
        header = response.headers.get("Retry-After")
        raise _PassingError(f"http {status}", retry_after_seconds(header, datetime.now(UTC)))
    raise _StatusError(status, _server_message(await _page_body(response)))


async def _page_body(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_PAGE_BYTES:
            raise _FinalError(f"the answer is over {MAX_PAGE_BYTES} bytes")
    whole = bytes(body)
    if "Content-Encoding" not in response.headers:  # a digest is of the encoded bytes
        _check_digest(response, whole)
    return whole


async def _promised_body(response: aiohttp.ClientResponse, promised: int) -> bytes:
    """Read a file of exactly the promised size, and never more than one chunk beyond it."""
    _check_announcement(response, promised)
    chunks, size = [], 0
    try:
        async for chunk in response.content.iter_any():
            chunks.append(chunk)
            size += len(chunk)
            if size > promised:
                raise _PassingError(f"size over {promised} instead of {promised} bytes")
    except aiohttp.ClientPayloadError as error:  # what had come and was not read is discarded
        came = response.content.total_bytes
        raise _PassingError(f"size {came} of {promised} bytes") from error
    if size < promised:
        raise _PassingError(f"size {size} instead of {promised} bytes")
    body = b"".join(chunks)
    _check_digest(response, body)
    return body


def _check_digest(response: aiohttp.ClientResponse, body: bytes) -> None:
    if statement := contradicted(response.headers, body):
        raise _PassingError(f"the answer does not match {statement}")


def _check_announcement(response: aiohttp.ClientResponse, promised: int) -> None:
    """Notice from the headers alone that the promised file will not come."""
    encoding = response.headers.get("Content-Encoding")
    if encoding:
        raise _PassingError(f"unasked-for Content-Encoding {encoding}")
    length = response.headers.get("Content-Length")
    if length in {None, str(promised)}:
        return
    content_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
    if content_type.startswith(_TEXT_TYPES):
        raise _PassingError(f"not an image: {content_type}")
    raise _PassingError(f"size {length} instead of {promised} bytes")


def _in_words(error: aiohttp.ClientError) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"no connection to {error.host}:{error.port}"
    if isinstance(error, aiohttp.TooManyRedirects):
        return "TooManyRedirects"
    return "connection broken"


def _server_message(body: bytes) -> str:
    """Return what an error page says: a JSON field that APIs use for it, or its beginning."""
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if isinstance(answer, dict):
        for field in ("message", "detail", "error"):
            if answer.get(field):
                return str(answer[field])
    return body[:300].decode("utf-8", "replace").strip()


def _explained(error: _StatusError, base_url: str, url: str) -> InputError:
    if error.status == HTTPStatus.NOT_FOUND:
        return InputError(
            f"{url} does not exist, so {base_url} is no ISIC archive: check {WHERE_TO_SET}"
        )
    if error.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return InputError(f"{url}: the archive does not let us in ({error}): check {WHERE_TO_SET}")
    return InputError(f"{url}: the archive refused the search ({error}): {error.message}")


# Setting up


def _checked_base_url(text: str) -> str:
    url = text.strip().rstrip("/").removesuffix("/api/v2")
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        message = f"{text!r} is not an http or https address: check {WHERE_TO_SET}"
        raise InputError(message)
    return url


def _search_parameters(query: str, collections: str, page_size: int) -> str:
    numbers = collections.replace(" ", "")
    if numbers and not _COLLECTIONS.fullmatch(numbers):
        message = f"collections {collections!r}: give numbers with commas between, such as 65,70"
        raise InputError(message)
    return urlencode(
        {"query": query, "limit": page_size} | ({"collections": numbers} if numbers else {})
    )


async def _http_session(timeouts: Timeouts, connections: int) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections, ssl=_trusted()),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": f"DermaScan/{__version__}"},
        timeout=aiohttp.ClientTimeout(
            total=timeouts.total, sock_connect=timeouts.connect, sock_read=timeouts.read
        ),
        middlewares=(_asked_once,),
        # Looking for a proxy takes longer than the rest of a request: only where there is one.
        trust_env=bool(getproxies().keys() - {"no"}),
    )


@cache
def _trusted() -> ssl.SSLContext:
    """Return whom to trust: `SSL_CERT_FILE` or `SSL_CERT_DIR`, or else certifi's authorities."""
    return httpx.create_ssl_context()


async def _asked_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keep aiohttp from asking again by itself where a connection breaks: attempts are counted."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise aiohttp.ClientConnectionError(str(error)) from error


def _as_signed(url: str) -> URL:
    """Return a URL whose escapes stay as they were signed; what cannot be sent is escaped."""
    try:
        address = URL(url, encoded=_SENDABLE.fullmatch(url) is not None)
    except ValueError as error:
        raise _FinalError(NO_WEB_ADDRESS) from error
    if address.scheme not in {"http", "https"}:
        raise _FinalError(NO_WEB_ADDRESS)
    return address
