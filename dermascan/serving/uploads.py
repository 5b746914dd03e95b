"""The images of a `multipart/form-data` body, kept in memory and under limits, never on a disk."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from dermascan.serving.limits import ServingLimits
from dermascan.serving.problems import BusyError, ProblemError

FIELD = b"images"
# Besides images, a form may have some fields that mean nothing here.
OTHER_PARTS = 16
_MULTIPART = b"multipart/form-data"


@dataclass(frozen=True)
class Upload:
    """One image as it came: what the client calls it, and its bytes."""

    filename: str
    data: bytes


class MemoryBudget:
    """How many bytes of bodies may be in memory; used by the event loop's thread only."""

    def __init__(self, most: int) -> None:
        self._left = most

    @contextmanager
    def account(self) -> Iterator["Account"]:
        """Return what one request takes bytes from; they are given back at the end."""
        account = Account(self)
        try:
            yield account
        finally:
            self._left += account.taken

    def take(self, count: int) -> None:
        """Take bytes.

        Raises:
            BusyError: so many are not left.
        """
        if count > self._left:
            raise BusyError
        self._left -= count


class Account:
    """The bytes that one request has taken of a budget."""

    def __init__(self, budget: MemoryBudget) -> None:
        self.taken = 0
        self._budget = budget

    def take(self, count: int) -> None:
        """Take more.

        Raises:
            BusyError: so many are not left.
        """
        self._budget.take(count)
        self.taken += count


async def read_uploads(
    request: Request, limits: ServingLimits, account: Account
) -> tuple[Upload, ...]:
    """Read the images of a request, one or more, in order.

    Args:
        request: whose body nobody has read yet.
        limits: of bytes and images.
        account: takes what is held in memory.

    Raises:
        ProblemError: 400 for a body that is not what its type says, 413 for too much, 415 for
            another type, 422 for a form without images.
        BusyError: the account cannot take as much.
    """
    form = _Form(_boundary(request), limits)
    too_large = f"the request has more than {limits.request_bytes:,} bytes: send fewer images"
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdecimal() and int(announced) > limits.request_bytes:
        raise ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, too_large)
    received = 0
    async for chunk in _chunks(request):
        received += len(chunk)
        if received > limits.request_bytes:
            raise ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, too_large)
        account.take(len(chunk))
        form.feed(chunk)
    return form.images()


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    async for chunk in request.stream():
        if chunk:
            yield chunk


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type"))
    encoding = request.headers.get("content-encoding", "identity")
    if kind != _MULTIPART or encoding != "identity":
        raise ProblemError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "send images as multipart/form-data, without Content-Encoding",
        )
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise _malformed("its Content-Type has no boundary")
    return boundary


def _malformed(what: str) -> ProblemError:
    return ProblemError(HTTPStatus.BAD_REQUEST, f"the body is no multipart/form-data: {what}")


class _Form:
    """Collects the images while the body comes in; other fields are not kept."""

    def __init__(self, boundary: bytes, limits: ServingLimits) -> None:
        self._most_images = limits.images
        self._images: list[Upload] = []
        self._parts = 0
        self._ended = False
        self._name = self._value = b""
        self._disposition: str | None = None
        self._filename = ""
        self._data: bytearray | None = None
        try:
            self._parser = MultipartParser(boundary, self._callbacks())  # type: ignore[arg-type]  # a TypedDict there
        except FormParserError as error:
            raise _malformed("its boundary is too long") from error

    def feed(self, chunk: bytes) -> None:
        """Take in the next bytes of the body."""
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise _malformed("its parts cannot be told apart") from error

    def images(self) -> tuple[Upload, ...]:
        """Return the images when the body is over."""
        if not self._ended:
            raise _malformed("it ends before its last part")
        if not self._images:
            raise ProblemError(
                HTTPStatus.UNPROCESSABLE_ENTITY, "no image: send one or more as the field `images`"
            )
        return tuple(self._images)

    def _callbacks(self) -> dict[str, object]:
        return {
            "on_part_begin": self._begin_part,
            "on_header_begin": self._begin_header,
            "on_header_field": self._extend_name,
            "on_header_value": self._extend_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._begin_data,
            "on_part_data": self._extend_data,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def _begin_part(self) -> None:
        self._parts += 1
        self._disposition, self._data = None, None
        if self._parts > self._most_images + OTHER_PARTS:
            raise self._too_many()

    def _begin_header(self) -> None:
        self._name = self._value = b""

    def _extend_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _extend_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value.decode("latin-1")

    def _begin_data(self) -> None:
        kind, options = parse_options_header(self._disposition)
        if kind != b"form-data" or b"name" not in options:
            raise _malformed("a part has no name")
        if options[b"name"] == FIELD:
            if len(self._images) == self._most_images:
                raise self._too_many()
            self._filename = options.get(b"filename", b"").decode(errors="replace")
            self._data = bytearray()

    def _extend_data(self, data: bytes, start: int, end: int) -> None:
        if self._data is not None:
            self._data += memoryview(data)[start:end]

    def _end_part(self) -> None:
        if self._data is not None:
            self._images.append(Upload(self._filename, bytes(self._data)))
            self._data = None

    def _end(self) -> None:
        self._ended = True

    def _too_many(self) -> ProblemError:
        return ProblemError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"at most {self._most_images} images are taken at once: send them in several requests",
        )
