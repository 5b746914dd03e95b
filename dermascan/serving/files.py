"""The files of the page, read once and sent with what a browser needs to know."""

import mimetypes
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from dermascan.fingerprint import sha256_hex

PAGE = Path(__file__).parent / "page"
INDEX = "index.html"
# Not left to the machine's own table of types, which may call scripts plain text.
_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}


@dataclass(frozen=True)
class PageFile:
    """A file as it is sent; its tag changes with its bytes."""

    data: bytes
    media_type: str
    tag: str

    @classmethod
    def read(cls, path: Path) -> "PageFile":
        """Read a file."""
        data = path.read_bytes()
        media_type = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0]
        tag = f'"{sha256_hex(data)[:32]}"'
        return cls(data, media_type or "application/octet-stream", tag)

    def response(self, request: Request) -> Response:
        """Return the file, or that the browser's copy is still right."""
        headers = {"ETag": self.tag, "Cache-Control": "no-cache"}
        known = request.headers.get("if-none-match", "")
        if self.tag in known.replace("W/", "").replace(" ", "").split(","):
            return Response(status_code=304, headers=headers)
        return Response(self.data, headers=headers, media_type=self.media_type)


def read_page(folder: Path = PAGE) -> dict[str, PageFile]:
    """Return the files of a folder and its sub-folders by their relative paths."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): PageFile.read(path) for path in paths}
