"""A server of the public ISIC archive's API over a folder: a mirror for closed networks.

It answers what the official client and DermaScan's own client ask: search with counts and cursor
paging, single images, collections, licences, and files under URLs that expire. Everything is
public and nothing can be changed.
"""

import base64
import hashlib
import hmac
import logging
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Generic, TypeVar
from urllib.parse import quote

import numpy as np
from fastapi import APIRouter, FastAPI, Header, HTTPException, Query, Request
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from isic_metadata import FIELD_REGISTRY
from pydantic import BaseModel

from dermascan.errors import InputError
from dermascan.isic import digest
from dermascan.isic.catalogue import Catalogue, Collection, Rows, read_catalogue
from dermascan.isic.query import Value, parse_query
from dermascan.isic.thumbnail import THUMBNAIL_BYTES, make_thumbnail

logger = logging.getLogger(__name__)

T = TypeVar("T")

PREFIX = "/api/v2"
PAGE_SIZE = 100
SEARCHES_KEPT = 16
SMALL_BYTES = 1024 * 1024  # read at once, which spares three changes of thread
URL_LIFETIME_SECONDS = 7 * 24 * 3600
TOP_LEVEL_FIELDS = frozenset({"isic_id", "copyright_license", "attribution", "public"})
PIXEL_FIELDS = frozenset({"pixels_x", "pixels_y"})


class FileLink(BaseModel):
    """Where a file is and how many bytes it has."""

    url: str
    size: int


class Files(BaseModel):
    """The files of an image."""

    full: FileLink
    thumbnail_256: FileLink


class Metadata(BaseModel):
    """What is known of an image, without empty fields."""

    acquisition: dict[str, Value]
    clinical: dict[str, Value]


class ImageRecord(BaseModel):
    """An image as the API gives it."""

    public: bool
    isic_id: str
    copyright_license: str
    attribution: str
    files: Files
    metadata: Metadata


class CollectionRecord(BaseModel):
    """A collection as the API gives it."""

    id: int
    name: str
    description: str
    public: bool = True
    pinned: bool = False
    locked: bool = True
    doi: str | None = None
    doi_url: str | None = None


class Page(BaseModel, Generic[T]):
    """One page of results, the number of all results and the links to the neighbouring pages."""

    count: int
    next: str | None
    previous: str | None
    results: list[T]


class TotalSize(BaseModel):
    """Bytes of all images that a search finds."""

    size: int


@dataclass(frozen=True)
class Cursor:
    """A place beside an image: a page begins after it or, going backward, ends before it."""

    isic_id: str
    backward: bool

    def encode(self) -> str:
        """Return the cursor as it stands in a link."""
        text = ("<" if self.backward else ">") + self.isic_id
        return base64.urlsafe_b64encode(text.encode()).decode()

    @classmethod
    def decode(cls, text: str) -> "Cursor":
        """Read a cursor from a link.

        Raises:
            InputError: it is not one that this server made.
        """
        try:
            decoded = base64.urlsafe_b64decode(text).decode()
        except ValueError:
            decoded = ""
        if decoded[:1] not in {"<", ">"}:
            raise InputError("cursor not understood: take it from a page's next or previous link")
        return cls(decoded[1:], backward=decoded[0] == "<")


class UrlSigner:
    """Makes and checks URLs that expire; a new process accepts none of an old one's.

    Args:
        lifetime_seconds: how long a URL is good.
        clock: seconds since the epoch; replaced in tests.
    """

    def __init__(self, lifetime_seconds: float, clock: Callable[[], float] = time.time) -> None:
        self._lifetime, self._clock = lifetime_seconds, clock
        self._secret = secrets.token_bytes(32)

    def sign(self, path: str) -> str:
        """Return a path, not yet quoted, as a quoted one with expiry and signature."""
        expires = f"{self._clock() + self._lifetime:.3f}"
        return f"{quote(path)}?Expires={expires}&Signature={self._signature(path, expires)}"

    def is_valid(self, path: str, expires: str, signature: str) -> bool:
        """Tell whether this signer made the URL of an unquoted path and it has not expired."""
        expected = self._signature(path, expires)
        if not hmac.compare_digest(expected.encode(), signature.encode()):
            return False
        return self._clock() < float(expires)

    def _signature(self, path: str, expires: str) -> str:
        message = f"{path}\n{expires}".encode("utf-8", "surrogatepass")
        return hmac.new(self._secret, message, hashlib.sha256).hexdigest()


class Archive:
    """The API's answers over one catalogue.

    Args:
        directory: the folder that holds the images.
        catalogue: what was read from it.
        signer: makes and checks the files' URLs.
    """

    def __init__(self, directory: Path, catalogue: Catalogue, signer: UrlSigner) -> None:
        self._directory, self._catalogue, self._signer = directory, catalogue, signer
        # A search is asked for page by page, some of them at the same time.
        self._found = lru_cache(SEARCHES_KEPT)(self._search)
        names = [name for name in catalogue.columns if name not in TOP_LEVEL_FIELDS]
        self._acquisition = [name for name in names if _is_acquisition(name)]
        self._clinical = [name for name in names if not _is_acquisition(name)]
        # One at a time, so that large originals do not add up in memory.
        self._thumbnail_lock = threading.Lock()

    def images(
        self,
        request: Request,
        query: str = "",
        collections: str = "",
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page[ImageRecord]:
        """Return a page of the images that a query and collections select."""
        found = self._found(query, collections)
        place = Cursor.decode(cursor) if cursor else None
        start, stop = self._page_bounds(found, place, _page_size(limit))
        base = str(request.base_url).rstrip("/")
        ids = self._catalogue.ids
        following = Cursor(ids[found[stop - 1]], backward=False) if stop < len(found) else None
        preceding = Cursor(ids[found[start]], backward=True) if 0 < start < len(found) else None
        return Page(
            count=len(found),
            next=_page_link(request, following),
            previous=_page_link(request, preceding),
            results=[self._record(base, row) for row in found[start:stop].tolist()],
        )

    def size(self, query: str = "", collections: str = "") -> TotalSize:
        """Return the bytes of all images that a query and collections select."""
        found = self._found(query, collections)
        return TotalSize(size=int(self._catalogue.sizes[found].sum()))

    def image(self, request: Request, isic_id: str) -> ImageRecord:
        """Return one image."""
        row = self._catalogue.row_of(isic_id)
        if row is None:
            raise HTTPException(404, f"there is no image {isic_id!r}")
        return self._record(str(request.base_url).rstrip("/"), row)

    def collections(self) -> Page[CollectionRecord]:
        """Return all collections in one page."""
        found = [_collection_record(one) for one in self._catalogue.collections.values()]
        return Page(count=len(found), next=None, previous=None, results=found)

    def collection(self, collection_id: int) -> CollectionRecord:
        """Return one collection."""
        found = self._catalogue.collections.get(collection_id)
        if found is None:
            raise HTTPException(404, f"there is no collection {collection_id}")
        return _collection_record(found)

    def license_text(self, license_type: str) -> PlainTextResponse:
        """Return the text of a licence."""
        text = self._catalogue.licenses.get(license_type)
        if text is None:
            raise HTTPException(404, f"there is no licence {license_type!r}")
        return PlainTextResponse(text)

    def user(self) -> JSONResponse:
        """Answer as the public archive answers who is not signed in: nobody can sign in here."""
        return JSONResponse({"detail": "Unauthorized"}, 401)

    def file(
        self,
        name: str,
        expires: Annotated[str, Query(alias="Expires")] = "",
        signature: Annotated[str, Query(alias="Signature")] = "",
        part: Annotated[str, Header(alias="Range")] = "",
    ) -> Response:
        """Return an original image; only names that the catalogue knows reach the disk."""
        self._check_url(_file_path(name), expires, signature)
        row = self._catalogue.row_of_file(name)
        path = None if row is None else self._directory / self._catalogue.images[row].name
        if path is None or not path.is_file():
            raise HTTPException(404, f"there is no file {name!r}")
        facts = path.stat()
        whole = FileResponse(path, stat_result=facts)
        whole.headers[digest.HEADER] = digest.of_file(path)
        if part or facts.st_size > SMALL_BYTES:
            return whole
        return Response(path.read_bytes(), headers=whole.headers)

    def thumbnail(
        self,
        isic_id: str,
        expires: Annotated[str, Query(alias="Expires")] = "",
        signature: Annotated[str, Query(alias="Signature")] = "",
    ) -> Response:
        """Return an image made small."""
        self._check_url(_thumbnail_path(isic_id), expires, signature)
        row = self._catalogue.row_of(isic_id)
        if row is None:
            raise HTTPException(404, f"there is no image {isic_id!r}")
        with self._thumbnail_lock:
            content = make_thumbnail(self._directory / self._catalogue.images[row].name)
        return Response(content, media_type="image/jpeg")

    def _check_url(self, path: str, expires: str, signature: str) -> None:
        if not self._signer.is_valid(path, expires, signature):
            raise HTTPException(403, "this URL has expired or was not made by this server")

    def _search(self, query: str, collections: str) -> Rows:
        node = parse_query(query, self._catalogue.fields)
        return self._catalogue.search(node, _collection_ids(collections))

    def _page_bounds(self, found: Rows, place: Cursor | None, limit: int) -> tuple[int, int]:
        """Return where a page begins and ends in `found`."""
        if place is None:
            return 0, min(limit, len(found))
        if place.backward:
            stop = int(np.searchsorted(found, self._catalogue.rows_before(place.isic_id)))
            return max(0, stop - limit), stop
        start = int(np.searchsorted(found, self._catalogue.rows_through(place.isic_id)))
        return start, min(start + limit, len(found))

    def _record(self, base: str, row: int) -> ImageRecord:
        image, isic_id = self._catalogue.images[row], self._catalogue.ids[row]
        return ImageRecord(
            public=True,
            isic_id=isic_id,
            copyright_license=str(self._catalogue.columns["copyright_license"].value(row) or ""),
            attribution=str(self._catalogue.columns["attribution"].value(row) or ""),
            files=Files(
                full=FileLink(
                    url=base + self._signer.sign(_file_path(image.name)), size=image.size
                ),
                thumbnail_256=FileLink(
                    url=base + self._signer.sign(_thumbnail_path(isic_id)), size=THUMBNAIL_BYTES
                ),
            ),
            metadata=Metadata(
                acquisition=self._filled(self._acquisition, row),
                clinical=self._filled(self._clinical, row),
            ),
        )

    def _filled(self, names: Iterable[str], row: int) -> dict[str, Value]:
        cells = ((name, self._catalogue.columns[name].value(row)) for name in names)
        return {name: value for name, value in cells if value is not None}


def _is_acquisition(name: str) -> bool:
    return name in PIXEL_FIELDS or (
        name in FIELD_REGISTRY and FIELD_REGISTRY[name].type == "acquisition"
    )


def _page_size(limit: int | None) -> int:
    return min(max(limit or PAGE_SIZE, 1), PAGE_SIZE)


def _page_link(request: Request, cursor: Cursor | None) -> str | None:
    if cursor is None:
        return None
    return str(request.url.include_query_params(cursor=cursor.encode()))


def _file_path(name: str) -> str:
    return f"/files/{name}"


def _thumbnail_path(isic_id: str) -> str:
    return f"/thumbnails/{isic_id}.jpg"


def _collection_record(collection: Collection) -> CollectionRecord:
    return CollectionRecord(
        id=collection.id, name=collection.name, description=collection.description
    )


def _collection_ids(text: str) -> list[int]:
    """Read `2,17,42`."""
    parts = text.split(",") if text else []
    if not all(part.isascii() and part.isdecimal() and len(part) < 19 for part in parts):
        raise InputError(f"collections not understood: {text[:50]!r} is not like 2,17,42")
    return [int(part) for part in parts]


def create_app(directory: Path, url_lifetime_seconds: float = URL_LIFETIME_SECONDS) -> FastAPI:
    """Build the server of a folder.

    Args:
        directory: a folder as `isic image download` writes it (see `dermascan.isic.catalogue`).
        url_lifetime_seconds: how long the URL of a file is good; after that it answers 403 and
            a client must ask for the image's record again.

    Raises:
        InputError: the folder cannot be served.
    """
    archive = Archive(directory, read_catalogue(directory), UrlSigner(url_lifetime_seconds))
    api = APIRouter(prefix=PREFIX)
    api.add_api_route("/images/", archive.images)
    api.add_api_route("/images/search/", archive.images)
    api.add_api_route("/images/search/size/", archive.size)
    api.add_api_route("/images/{isic_id}/", archive.image)
    api.add_api_route("/collections/", archive.collections)
    api.add_api_route("/collections/{collection_id}/", archive.collection)
    api.add_api_route("/zip-download/license-file/{license_type}/", archive.license_text)
    api.add_api_route("/users/me/", archive.user)
    # The pages of FastAPI's documentation load scripts from the internet.
    app = FastAPI(title="ISIC archive mirror", docs_url=None, redoc_url=None)
    app.include_router(api)
    app.add_api_route(_file_path("{name}"), archive.file, methods=["GET", "HEAD"])
    app.add_api_route(_thumbnail_path("{isic_id}"), archive.thumbnail)
    app.add_exception_handler(InputError, _refuse)
    app.add_middleware(digest.DigestMiddleware)
    return app


def _refuse(_request: Request, error: Exception) -> JSONResponse:
    """Answer 400; the official client looks for the word "query" in `message`."""
    return JSONResponse({"message": str(error), "detail": str(error)}, 400)


def serve(
    directory: Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    url_lifetime_seconds: float = URL_LIFETIME_SECONDS,
) -> None:
    """Serve a folder until interrupted.

    Args:
        directory: a folder as `isic image download` writes it.
        host: the address to listen on; the default is reachable from this machine only.
        port: the port to listen on.
        url_lifetime_seconds: how long the URL of a file is good.

    Raises:
        InputError: the folder cannot be served, or the address is not free.
    """
    import uvicorn  # noqa: PLC0415  # only a running server needs it

    app = create_app(directory, url_lifetime_seconds)
    listener = _listener(host, port)
    logger.info("serving %s on http://%s:%d%s/", directory, host, port, PREFIX)
    config = uvicorn.Config(app, log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listener])


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        raise InputError(
            f"cannot listen on {host}:{port} ({error.strerror}): choose another port with --port"
        ) from error
