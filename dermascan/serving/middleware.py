"""What is done around every request: headers, counting, and no trace of an unforeseen error."""

import logging
import time
from http import HTTPStatus

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dermascan.serving.metrics import OTHER_ROUTE, Metrics
from dermascan.serving.problems import problem_response

logger = logging.getLogger(__name__)

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
NOT_STORED = "no-store"
_DISCONNECTED = 499  # the client went away before its answer; nobody else sees this status


class Around:
    """Adds security headers to every answer, counts it, and turns what was not foreseen into 500.

    The log has routes, statuses and times: no path, query, name or byte that a client sent.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _complete(MutableHeaders(raw=message["headers"]))
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except ClientDisconnect:
            status = _DISCONNECTED
        except Exception:
            logger.exception("a request to %s failed", _route(scope))
            if status:
                raise  # the answer is on its way: let the server break it off
            detail = "an error that should not happen: see the server's log"
            answer = problem_response(HTTPStatus.INTERNAL_SERVER_ERROR, detail)
            await answer(scope, receive, sending)
        finally:
            seconds = time.monotonic() - started
            self._metrics.answered(_route(scope), status, seconds)
            logger.info("%s %d %.3f s", _route(scope), status, seconds)


def _complete(headers: MutableHeaders) -> None:
    for name, value in SECURITY_HEADERS.items():
        headers[name] = value
    headers.setdefault("Cache-Control", NOT_STORED)


def _route(scope: Scope) -> str:
    """Return the pattern that a request's path has matched."""
    return getattr(scope.get("route"), "path", OTHER_ROUTE)
