"""An HTTP proxy in front of one server that does to each exchange what a test asks for."""

import http.client
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain, cycle, repeat
from urllib.parse import urlsplit

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Request:
    """What a client sent."""

    method: str
    path: str
    headers: Headers
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


@dataclass(frozen=True)
class Response:
    """What goes back to the client."""

    status: int
    reason: str
    headers: Headers
    body: bytes


class Exchange:
    """One request on its way, for a fault to play with."""

    def __init__(self, handler: "_Handler", request: Request) -> None:
        self.request, self._handler = request, handler

    def forward(self, request: Request | None = None) -> Response:
        """Send the request to the real server and return its whole answer."""
        return self._handler.proxy.ask(request or self.request)

    def answer(self, response: Response, *, of_body: int | None = None) -> None:
        """Give the client an answer, or only so many bytes of its body."""
        lines = [f"HTTP/1.1 {response.status} {response.reason}"]
        lines += [f"{name}: {value}" for name, value in response.headers]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        body = b"" if self.request.method == "HEAD" else response.body[:of_body]
        self._handler.wfile.write(head + body)
        self._handler.wfile.flush()

    def reset(self) -> None:
        """Break the connection off with a TCP reset."""
        linger = struct.pack("ii", 1, 0)
        self._handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.hang_up()

    def hang_up(self) -> None:
        """End the connection, as a server does that has sent all it wants to."""
        self._handler.hang_up()


Fault = Callable[[Exchange], None]


# Faults


def untouched(exchange: Exchange) -> None:
    exchange.answer(exchange.forward())


def latency(seconds: float) -> Fault:
    def fault(exchange: Exchange) -> None:
        time.sleep(seconds)
        untouched(exchange)

    return fault


def reset_before_request(exchange: Exchange) -> None:
    """The server never hears of it."""
    exchange.reset()


def reset_after_headers(exchange: Exchange) -> None:
    exchange.answer(exchange.forward(), of_body=0)
    exchange.reset()


def reset_in_body(exchange: Exchange) -> None:
    response = exchange.forward()
    exchange.answer(response, of_body=len(response.body) // 2)
    exchange.reset()


def truncated_answer(exchange: Exchange) -> None:
    """All is promised, half is sent, and the connection is closed in good order."""
    response = exchange.forward()
    exchange.answer(response, of_body=len(response.body) // 2)
    exchange.hang_up()


def truncated_request(exchange: Exchange) -> None:
    """The server gets half of the body, then nothing more."""
    exchange._handler.proxy.send_half(exchange.request)
    exchange.reset()


def lost_answer(exchange: Exchange) -> None:
    """The server does as it is told, and the client never hears of it."""
    exchange.forward()
    exchange.reset()


def error_after_effect(exchange: Exchange) -> None:
    """The server does as it is told, and something on the way says that it failed."""
    exchange.forward()
    status(500, "InternalError")(exchange)


def status(code: int, name: str = "SlowDown", retry_after: int | None = None) -> Fault:
    """Answer with an S3 error in the server's place."""
    body = f"<?xml version='1.0'?><Error><Code>{name}</Code><Message>no</Message></Error>".encode()
    headers: Headers = (("Content-Type", "application/xml"), ("Content-Length", str(len(body))))
    if retry_after is not None:
        headers = (*headers, ("Retry-After", str(retry_after)))
    return lambda exchange: exchange.answer(
        Response(code, http.client.responses[code], headers, body)
    )


def stall_before_answer(seconds: float) -> Fault:
    """Take the request and send nothing; the server never hears of it."""

    def fault(exchange: Exchange) -> None:
        exchange._handler.proxy.wait(seconds)
        exchange.reset()

    return fault


def stall_in_body(seconds: float) -> Fault:
    def fault(exchange: Exchange) -> None:
        response = exchange.forward()
        exchange.answer(response, of_body=len(response.body) // 2)
        exchange._handler.proxy.wait(seconds)
        exchange.reset()

    return fault


def flipped_answer(exchange: Exchange) -> None:
    """One bit in the middle of the answer's body is not what the server sent."""
    response = exchange.forward()
    exchange.answer(replace(response, body=_flipped(response.body)))


def flipped_request(exchange: Exchange) -> None:
    """One bit in the middle of the request's body is not what the client sent."""
    exchange.answer(
        exchange.forward(replace(exchange.request, body=_flipped(exchange.request.body)))
    )


def without_headers(*names: str) -> Fault:
    """Keep headers of the request from the server, as a careless gateway does."""
    gone = {name.lower() for name in names}

    def fault(exchange: Exchange) -> None:
        kept = tuple(pair for pair in exchange.request.headers if pair[0].lower() not in gone)
        exchange.answer(exchange.forward(replace(exchange.request, headers=kept)))

    return fault


def answer_headers(**changes: str) -> Fault:
    """Put other values into the answer's headers."""
    names = {name.replace("_", "-").lower(): value for name, value in changes.items()}

    def fault(exchange: Exchange) -> None:
        response = exchange.forward()
        kept = [pair for pair in response.headers if pair[0].lower() not in names]
        exchange.answer(replace(response, headers=(*kept, *names.items())))

    return fault


class Stale:
    """Answer for ever what was answered at first, as a cache does that nobody told."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Response] = {}

    def __call__(self, exchange: Exchange) -> None:
        name = (exchange.request.method, exchange.request.path)
        if name not in self._known:
            self._known[name] = exchange.forward()
        exchange.answer(self._known[name])


def _flipped(body: bytes) -> bytes:
    changed = bytearray(body)
    if changed:
        changed[len(changed) // 2] ^= 0x10
    return bytes(changed)


# The proxy


@dataclass
class _Rule:
    fault: Fault
    method: str
    path: re.Pattern[str]
    left: float

    def takes(self, request: Request) -> bool:
        wanted = request.method if self.method == "*" else self.method
        return request.method == wanted and self.path.search(request.path) is not None


@dataclass
class FaultProxy:
    """Forwards to `upstream`, except for what a rule asks for.

    Attributes:
        upstream: the real server's base URL.
        url: the proxy's own base URL.
        seen: every request, in the order of arrival.
        struck: how many exchanges met a fault.
    """

    upstream: str
    url: str = ""
    seen: list[Request] = field(default_factory=list)
    struck: int = 0
    _rules: list[_Rule] = field(default_factory=list)
    _storm: Iterator[Fault] = field(default_factory=lambda: repeat(untouched))
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _open: set["_Handler"] = field(default_factory=set)
    _released: threading.Event = field(default_factory=threading.Event)
    _server: "_Server | None" = None

    def strike(
        self, fault: Fault, *, times: float = 1, method: str = "*", path: str = "", after: int = 0
    ) -> None:
        """Do `fault` to the next `times` requests that match, after letting `after` through."""
        with self._lock:
            if after:
                self._rules.append(_Rule(untouched, method, re.compile(path), after))
            self._rules.append(_Rule(fault, method, re.compile(path), times))

    def strike_always(self, fault: Fault, *, method: str = "*", path: str = "") -> None:
        """Do `fault` to every request that matches."""
        self.strike(fault, times=float("inf"), method=method, path=path)

    def storm(self, faults: Sequence[Fault], every: int) -> None:
        """Do the next of `faults`, for ever in turn, to every so-manieth request."""
        with self._lock:
            self._storm = chain.from_iterable(
                chain(repeat(untouched, every - 1), (fault,)) for fault in cycle(faults)
            )

    def be_good(self) -> None:
        """Forget all rules and forwarded requests, and let stalled exchanges go."""
        with self._lock:
            self._rules.clear()
            self._storm = repeat(untouched)
            self.seen.clear()
            self.struck = 0
        self._released.set()
        self._released = threading.Event()

    def asked(self, method: str = "*", path: str = "") -> list[Request]:
        """Return the requests that match."""
        rule = _Rule(untouched, method, re.compile(path), 0)
        with self._lock:
            return [request for request in self.seen if rule.takes(request)]

    @contextmanager
    def outage(self, seconds: float | None = None) -> Iterator[None]:
        """Refuse connections inside the block, or for the first `seconds` of it."""
        self._stop()
        timer = threading.Timer(seconds or 0, self._start)
        if seconds is not None:
            timer.start()
        try:
            yield
        finally:
            if seconds is None:
                self._start()
            else:
                timer.join()

    # Used by faults and handlers

    def wait(self, seconds: float) -> None:
        """Stall, at most until the test is over."""
        self._released.wait(seconds)

    def ask(self, request: Request) -> Response:
        """Return what the real server answers."""
        connection = self._connection()
        try:
            self._send(connection, request, request.body)
            answer = connection.getresponse()
            body = answer.read()
            headers = _framed(answer.getheaders(), request, answer.status, len(body))
            return Response(answer.status, answer.reason, headers, body)
        finally:
            connection.close()

    def send_half(self, request: Request) -> None:
        """Send the real server all headers and half of the body, and break off."""
        connection = self._connection()
        self._send(connection, request, request.body[: len(request.body) // 2])
        connection.close()

    def fault_for(self, request: Request) -> Fault:
        """Note a request and return what is to be done to it."""
        with self._lock:
            self.seen.append(request)
            for rule in self._rules:
                if rule.left > 0 and rule.takes(request):
                    rule.left -= 1
                    self.struck += rule.fault is not untouched
                    return rule.fault
            fault = next(self._storm)
            self.struck += fault is not untouched
            return fault

    def _connection(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.upstream)
        assert parts.hostname
        return http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)

    def _send(self, connection: http.client.HTTPConnection, request: Request, body: bytes) -> None:
        connection.putrequest(
            request.method, request.path, skip_host=True, skip_accept_encoding=True
        )
        for name, value in request.headers:
            if name.lower() not in {"connection", "expect", "transfer-encoding"}:
                connection.putheader(name, value)
        connection.endheaders(body)

    def _start(self) -> None:
        port = urlsplit(self.url).port or 0
        handler = type("_BoundHandler", (_Handler,), {"proxy": self})
        self._server = _Server(("127.0.0.1", port), handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def _stop(self) -> None:
        assert self._server
        self._server.shutdown()
        self._server.server_close()
        for handler in list(self._open):
            handler.hang_up()


def _framed(headers: list[tuple[str, str]], request: Request, code: int, length: int) -> Headers:
    """Return the headers as they must be when the body is sent in one piece."""
    kept = [pair for pair in headers if pair[0].lower() not in {"transfer-encoding", "connection"}]
    if request.method == "HEAD" or code in {204, 304}:
        return tuple(kept)
    kept = [pair for pair in kept if pair[0].lower() != "content-length"]
    return (*kept, ("Content-Length", str(length)))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    proxy: FaultProxy

    def setup(self) -> None:
        super().setup()
        self.proxy._open.add(self)

    def finish(self) -> None:
        self.proxy._open.discard(self)
        super().finish()

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        request = Request(
            self.command, self.path, tuple(self.headers.items()), self.rfile.read(length)
        )
        self.proxy.fault_for(request)(Exchange(self, request))

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815  # http.server's names

    def hang_up(self) -> None:
        self.close_connection = True
        try:
            self.connection.shutdown(socket.SHUT_RDWR) if not self._lingers() else None
            self.connection.close()
        except OSError:
            pass  # the client was faster

    def _lingers(self) -> bool:
        size = struct.calcsize("ii")
        chosen = self.connection.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, size)
        return struct.unpack("ii", chosen) == (1, 0)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # http.server's name
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients that hang up are part of the game


@contextmanager
def fault_proxy(upstream: str) -> Iterator[FaultProxy]:
    """Run a proxy in front of a base URL."""
    proxy = FaultProxy(upstream)
    proxy._start()
    try:
        yield proxy
    finally:
        proxy.be_good()
        proxy._stop()
