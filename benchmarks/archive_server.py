"""An archive server that answers late, as one far away does.

archive_server.py FOLDER PORT MILLISECONDS
"""

import asyncio
import sys
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from dermascan.isic.archive import create_app


class Late:
    """Holds each request for a while; requests do not wait for each other."""

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self._app, self._seconds = app, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wait, then pass on."""
        if scope["type"] == "http":
            await asyncio.sleep(self._seconds)
        await self._app(scope, receive, send)


def main() -> None:
    """Serve until killed."""
    folder, port, milliseconds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    app = Late(create_app(folder), milliseconds / 1000)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main()
