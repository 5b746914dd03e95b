"""The page's application: looks at the logged-in user, reads, and answers with HTML."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Annotated, Any, Generic, TypeVar

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.responses import FileResponse, HTMLResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import ValidationError
from starlette.background import BackgroundTask

from dermascan.errors import DermaScanError, NotFoundError, TransientError
from dermascan.overview.documents import (
    Document,
    candidate_document,
    data_docs,
    prediction_document,
    read_place,
    version_document,
)
from dermascan.overview.health import storage_health, timed, tracking_health
from dermascan_airflow import access
from dermascan_airflow.bucket import Bucket, open_bucket
from dermascan_airflow.pages import render

logger = logging.getLogger(__name__)

HERE = Path(__file__).parent
PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
# A report is made of what came from outside. However it came to hold a script or a form, neither
# runs, and the page has no origin with whose rights anything could be asked of Airflow.
DOCUMENT_HEADERS = {
    **PAGE_HEADERS,
    "Content-Security-Policy": (
        "sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none'; "
        "style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'self'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
}
INLINE = ("text/html", "text/plain")
T = TypeVar("T")


@dataclass(frozen=True)
class Section(Generic[T]):
    """A part of the page: what was read, or why it could not be."""

    content: T | None
    problem: str | None = None


def make_app() -> FastAPI:
    """Return the application that Airflow mounts under `/dermascan`."""
    app = FastAPI(
        title="DermaScan", docs_url=None, redoc_url=None, openapi_url=None, lifespan=_warm
    )
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(DermaScanError, _failed)
    app.get("/", response_class=HTMLResponse)(overview)
    app.get("/datasets/{dataset}/{manifest}/data-docs/{suites}/{page:path}")(open_data_docs)
    app.get("/models/{model}/{version}/{name}")(open_version_document)
    app.get("/training/{training}/{model}/{name}")(open_candidate_document)
    app.get("/predictions/{run}/{name}")(open_prediction_document)
    app.get("/objects/{prefix:path}", response_class=HTMLResponse)(list_objects)
    return app


@asynccontextmanager
async def _warm(_: FastAPI) -> AsyncIterator[None]:
    """Connect while the server starts, so that the first visitor need not wait for it."""
    Thread(target=_connect, daemon=True).start()
    yield


def _connect() -> None:
    try:
        open_bucket().models.read()
    except DermaScanError as error:
        logger.info("the pages have nothing to show yet: %s", error)


# The page


def overview(  # noqa: PLR0913, PLR0917  # a query parameter for each list that has pages
    request: Request,
    user: GetUserDep,
    model: Annotated[str, Query(pattern=r"^([a-z0-9][a-z0-9._-]{0,62})?$")] = "",
    versions: Annotated[int, Query(ge=1, le=100_000)] = 1,
    datasets: Annotated[int, Query(ge=1, le=100_000)] = 1,
    older_than: Annotated[str, Query(max_length=80)] = "",
) -> Response:
    """Show champion, versions, datasets, latest predictions and health, as far as allowed."""
    wanted: dict[str, tuple[str, Callable[[Bucket], Any]]] = {
        "models": (access.MODELS, lambda bucket: bucket.models.read(model, versions)),
        "datasets": (access.DATASETS, lambda bucket: bucket.datasets.read(datasets)),
        "predictions": (access.PREDICTIONS, lambda b: b.predictions.read(older_than)),
    }
    allowed = {name: read for name, (dag, read) in wanted.items() if access.may(user, dag)}
    if not allowed:
        raise HTTPException(403, "you may see the runs of none of DermaScan's DAGs")
    sections, health, seconds = _gather(allowed)
    page = render(
        "overview.html.j2",
        request,
        sections=sections,
        health=health,
        may_roll_back=access.may(user, access.ROLLBACK, "POST"),
        asked={"model": model, "versions": versions, "datasets": datasets},
        first=not older_than,
    )
    timing = {"Server-Timing": f"read;dur={1000 * seconds:.1f}"}
    return HTMLResponse(page, headers=PAGE_HEADERS | timing)


def _gather(
    readers: dict[str, Callable[[Bucket], Any]],
) -> tuple[dict[str, Section[Any]], tuple[Any, ...], float]:
    try:
        bucket = open_bucket()
    except DermaScanError as error:
        unread: dict[str, Section[Any]] = {name: Section(None, str(error)) for name in readers}
        return unread, (storage_health("", str(error), 0),), 0.0
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    with ThreadPoolExecutor(len(readers) + 1) as pool:
        tracking = pool.submit(tracking_health, uri)
        found, seconds = timed(
            lambda: dict(
                zip(
                    readers,
                    pool.map(lambda r: _section(lambda: r(bucket)), readers.values()),
                    strict=True,
                )
            )
        )
        problem = next((each.problem for each in found.values() if each.problem), None)
        store = storage_health(f"s3://{bucket.store.bucket}", problem, seconds)
        return found, (store, tracking.result()), seconds


def _section(read: Callable[[], T]) -> Section[T]:
    try:
        return Section(read())
    except (DermaScanError, ValidationError) as error:
        return Section(None, str(error))


# Documents


Reader = Annotated[Bucket, Depends(open_bucket)]


def open_data_docs(
    dataset: str,
    manifest: str,
    suites: str,
    page: str,
    bucket: Reader,
    _: Annotated[Any, Depends(access.require_reader(access.DATASETS))],
) -> Response:
    """Show a page of the Data Docs of a manifest."""
    return _sent(bucket, data_docs(dataset, manifest, suites, page))


def open_version_document(
    model: str,
    version: int,
    name: str,
    bucket: Reader,
    _: Annotated[Any, Depends(access.require_reader(access.MODELS))],
) -> Response:
    """Show the evaluation report or the model card of a version."""
    return _sent(bucket, version_document(model, version, name))


def open_candidate_document(
    training: str,
    model: str,
    name: str,
    bucket: Reader,
    _: Annotated[Any, Depends(access.require_reader(access.MODELS))],
) -> Response:
    """Show the evaluation report or the model card of a candidate."""
    return _sent(bucket, candidate_document(training, model, name))


def open_prediction_document(
    run: str,
    name: str,
    bucket: Reader,
    _: Annotated[Any, Depends(access.require_reader(access.PREDICTIONS))],
) -> Response:
    """Show the report of a batch-inference run, or hand out its tables."""
    return _sent(bucket, prediction_document(run, name))


def list_objects(
    request: Request,
    prefix: str,
    bucket: Reader,
    _: Annotated[
        Any, Depends(access.require_reader(access.DATASETS, access.MODELS, access.PREDICTIONS))
    ],
) -> Response:
    """List what lies directly under a prefix, by name and size."""
    page = render("objects.html.j2", request, place=read_place(bucket.store, prefix))
    return HTMLResponse(page, headers=PAGE_HEADERS)


def _sent(bucket: Bucket, document: Document) -> Response:
    """Answer with an object, checked against its SHA-256 before the first byte is sent."""
    folder = Path(tempfile.mkdtemp(prefix="dermascan-"))
    tidy = BackgroundTask(shutil.rmtree, folder, ignore_errors=True)
    try:
        path = folder / "document"
        bucket.store.get_file(document.key, path)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    inline = document.media_type.startswith(INLINE)
    return FileResponse(
        path,
        media_type=document.media_type,
        filename=document.key.rsplit("/", 1)[-1],
        content_disposition_type="inline" if inline else "attachment",
        headers=DOCUMENT_HEADERS,
        background=tidy,
    )


# What goes wrong


def _refused(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return _problem(request, status, str(getattr(error, "detail", error)))


def _failed(request: Request, error: Exception) -> Response:
    kinds = ((NotFoundError, 404), (TransientError, 503))
    return _problem(
        request, next((s for kind, s in kinds if isinstance(error, kind)), 500), str(error)
    )


def _problem(request: Request, status: int, message: str) -> Response:
    login = get_auth_manager().get_url_login(next_url=str(request.url)) if status == 401 else None
    page = render("problem.html.j2", request, status=status, message=message, login=login)
    return HTMLResponse(page, status, headers=PAGE_HEADERS)
