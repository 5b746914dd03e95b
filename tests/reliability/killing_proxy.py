"""An HTTP proxy before an S3 server that counts a process's calls and kills it at one of them.

Calls are let through one at a time: after a kill at call n exactly the calls before n have
taken effect, and call n too if the kill came after it.
"""

import http.client
import os
import signal
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Literal
from urllib.parse import unquote, urlsplit

SECONDS_TO_LEARN_THE_VICTIM = 30
_NOT_RELAYED = {"connection", "content-length", "transfer-encoding"}


@dataclass(frozen=True)
class Call:
    """One request to object storage, as method and path with query."""

    method: str
    path: str

    @property
    def writes(self) -> bool:
        return self.method not in {"GET", "HEAD"}

    @property
    def key(self) -> str:
        """The object's key, without bucket and query."""
        return unquote(urlsplit(self.path).path).lstrip("/").partition("/")[2]


@dataclass(frozen=True)
class Kill:
    """At which call, from 1, and on which side of its effect."""

    call: int
    moment: Literal["before", "after"]


class KillingProxy(socketserver.ThreadingTCPServer):
    """Forward to `endpoint`; `calls` holds what came since `arm`."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, endpoint: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.backend = urlsplit(endpoint).netloc
        self.turn = threading.Lock()
        self.arm(None)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def arm(self, kill: Kill | None) -> None:
        """Forget what was counted, and kill the next victim at a call if one is given."""
        self.calls: list[Call] = []
        self.killed = False
        self._kill, self._victim, self._known = kill, 0, threading.Event()

    def aim(self, victim: int) -> None:
        """Say which process the calls since `arm` come from."""
        self._victim = victim
        self._known.set()

    def strike(self, moment: str) -> bool:
        """Kill the victim if its time has come at the call that is under way."""
        if self._kill != Kill(len(self.calls), moment):  # type: ignore[arg-type]  # one of the two
            return False
        assert self._known.wait(SECONDS_TO_LEARN_THE_VICTIM)
        self.killed = True  # before the victim's end can be noticed
        os.kill(self._victim, signal.SIGKILL)
        return True


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes
    length: str


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: KillingProxy

    def relay(self) -> None:
        assert "Transfer-Encoding" not in self.headers, "the proxy reads bodies of known length"
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.server.turn:
            answer = self._forwarded(body)
        if answer is None:
            self.close_connection = True
            return
        self.send_response_only(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        self.send_header("Content-Length", answer.length)
        self.end_headers()
        self.wfile.write(answer.body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = relay  # noqa: N815  # the base's names

    def _forwarded(self, body: bytes) -> _Answer | None:
        proxy = self.server
        if proxy.killed:
            return None
        proxy.calls.append(Call(self.command, self.path))
        if proxy.strike("before"):
            return None
        answer = self._ask(body)
        return None if proxy.strike("after") else answer

    def _ask(self, body: bytes) -> _Answer:
        connection = http.client.HTTPConnection(self.server.backend, timeout=60)
        try:
            connection.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            data = answer.read()
            kept = [(n, v) for n, v in answer.getheaders() if n.lower() not in _NOT_RELAYED]
            length = answer.getheader("Content-Length") or str(len(data))
            return _Answer(answer.status, kept, data, length)
        finally:
            connection.close()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base's name
        """Say nothing: `calls` is the log."""

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:
            return  # the victim is gone


@contextmanager
def killing_proxy(endpoint: str) -> Iterator[KillingProxy]:
    with KillingProxy(endpoint) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join(timeout=10)
