"""A small ISIC archive on a real socket that misbehaves on command."""

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

JPEG = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 2


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    archive: "MisbehavingArchive"

    def setup(self) -> None:
        super().setup()
        self.archive.connections += 1

    def do_GET(self) -> None:
        self.archive.note(self)
        self.archive.answer(self)

    def send(
        self, status: int, body: bytes, content_type: str, headers: Mapping[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": content_type,
            "Content-Length": str(len(body)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def send_json(self, value: object, status: int = 200) -> None:
        self.send(status, json.dumps(value).encode(), "application/json")

    def hang_up(self, *, reset: bool = False) -> None:
        if reset:
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR) if not reset else self.connection.close()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # http.server's name
        pass


Answer = Callable[[Handler], None]


def status(code: int, *, retry_after: str | None = None, message: str = "no") -> Answer:
    headers = {"Retry-After": retry_after} if retry_after is not None else {}
    body = json.dumps({"message": message}).encode()
    return lambda handler: handler.send(code, body, "application/json", headers)


def page(text: str, content_type: str = "text/html") -> Answer:
    return lambda handler: handler.send(200, text.encode(), content_type)


def body(data: bytes, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler: handler.send(200, data, "image/jpeg", named)


def redirect(url: str) -> Answer:
    return lambda handler: handler.send(302, b"", "text/plain", {"Location": url})


def half(data: bytes) -> Answer:
    """Promise all of `data`, send half of it and close the connection."""

    def answer(handler: Handler) -> None:
        handler.send(200, data[: len(data) // 2], "image/jpeg", {"Content-Length": str(len(data))})
        handler.hang_up()

    return answer


def unannounced(data: bytes) -> Answer:
    """Send `data` without saying how long it is, and close the connection."""

    def answer(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(data)
        handler.close_connection = True

    return answer


def endless() -> Answer:
    """Send bytes without a length until the other side has enough."""

    def answer(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.close_connection = True
        try:
            while True:
                handler.wfile.write(bytes(65536))
        except OSError:
            pass

    return answer


def drip(data: bytes, seconds_between: float, *, headers_too: bool = False) -> Answer:
    """Send an answer so slowly, byte by byte, that no single read ever times out."""

    def answer(handler: Handler) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(data)}\r\n\r\n".encode()
        try:
            if not headers_too:
                handler.wfile.write(head)
            for byte in head + data if headers_too else data:
                handler.wfile.write(bytes([byte]))
                time.sleep(seconds_between)
        except OSError:
            pass
        handler.close_connection = True

    return answer


def silence(seconds: float, then: Answer | None = None) -> Answer:
    def answer(handler: Handler) -> None:
        time.sleep(seconds)
        if then is None:
            handler.close_connection = True
        else:
            then(handler)

    return answer


def reset() -> Answer:
    return lambda handler: handler.hang_up(reset=True)


@dataclass
class Seen:
    """One request: when, for what, with which headers."""

    moment: float
    path: str
    headers: Mapping[str, str]


@dataclass
class MisbehavingArchive:
    """What the server serves, and the misbehaviour that it is told to show.

    `misbehave[name]` is a list of answers for an `isic_id`'s file, or for an API path; each is
    given once, in order, before the right answer. A signed URL carries the generation that was
    current when it was made; files are refused with 403 once `generation` has moved on.
    """

    images: dict[str, bytes]
    url: str = ""
    generation: int = 0
    page_size: int = 100
    promised_sizes: dict[str, int] = field(default_factory=dict)
    file_urls: dict[str, str] = field(default_factory=dict)
    misbehave: dict[str, list[Answer]] = field(default_factory=dict)
    always: dict[str, Answer] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    count: int | None = None
    repeat: tuple[str, ...] = ()
    under_way: int = 0
    most_under_way: int = 0
    connections: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, handler: Handler) -> None:
        with self.lock:
            self.seen.append(Seen(time.monotonic(), handler.path, dict(handler.headers)))

    def asked(self, part: str) -> list[Seen]:
        with self.lock:
            return [request for request in self.seen if part in request.path]

    def answer(self, handler: Handler) -> None:
        with self.lock:
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            self._answer(handler)
        finally:
            with self.lock:
                self.under_way -= 1

    def _answer(self, handler: Handler) -> None:
        path = urlsplit(handler.path).path
        name = path.strip("/").split("/")[-1].removesuffix(".jpg")
        for key in (path, name if path.startswith("/files/") else path):
            with self.lock:
                queue = self.misbehave.get(key, [])
                answer = queue.pop(0) if queue else self.always.get(key)
            if answer is not None:
                answer(handler)
                return
        if path == "/api/v2/images/search/":
            self._search(handler)
        elif path.startswith("/api/v2/images/") and name in self.images:
            handler.send_json(self._image(name))
        elif path.startswith("/api/v2/zip-download/license-file/") and name == "CC-0":
            handler.send(200, b"No rights reserved", "text/plain")
        elif path.startswith("/files/") and name in self.images:
            self._file(handler, name)
        else:
            handler.send_json({"detail": "Not Found"}, 404)

    def _search(self, handler: Handler) -> None:
        asked = parse_qs(urlsplit(handler.path).query, keep_blank_values=True)
        start = int(asked.get("cursor", ["0"])[0])
        size = min(int(asked.get("limit", ["100"])[0]), self.page_size)
        names = [*self.images, *self.repeat]
        more = start + size < len(names)
        following = f"http://wrong.invalid/api/v2/images/search/?cursor={start + size}&limit={size}"
        handler.send_json(
            {
                "count": (len(names) if self.count is None else self.count) if not start else None,
                "next": following if more else None,
                "previous": None,
                "results": [self._image(name) for name in names[start : start + size]],
            }
        )

    def _image(self, name: str) -> dict[str, object]:
        signed = f"{self.url}/files/{name}.jpg?generation={self.generation}"
        size = self.promised_sizes.get(name, len(self.images[name]))
        return {
            "public": True,
            "isic_id": name,
            "copyright_license": "CC-0",
            "attribution": "Nobody",
            "files": {
                "full": {"url": self.file_urls.get(name, signed), "size": size},
                "thumbnail_256": {"url": signed, "size": 1},
            },
            "metadata": {
                "acquisition": {"pixels_x": 8, "image_type": "dermoscopic"},
                "clinical": {"sex": "female", "age_approx": 45, "melanocytic": True},
            },
        }

    def _file(self, handler: Handler, name: str) -> None:
        if f"generation={self.generation}" not in handler.path:
            handler.send(403, b"<Error>Request has expired</Error>", "application/xml")
        else:
            handler.send(200, self.images[name], "image/jpeg")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients that hang up are part of the game


@contextmanager
def misbehaving_archive(images: dict[str, bytes]) -> Iterator[MisbehavingArchive]:
    archive = MisbehavingArchive(images)
    handler = type("BoundHandler", (Handler,), {"archive": archive})
    server = _Server(("127.0.0.1", 0), handler)
    archive.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield archive
    finally:
        server.shutdown()
        server.server_close()
