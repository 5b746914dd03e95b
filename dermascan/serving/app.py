"""The application: endpoints, page and what is around them."""

from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from http import HTTPStatus
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from dermascan import DISCLAIMER, __version__
from dermascan.cores import usable_cores
from dermascan.serving.champion import ChampionKeeper
from dermascan.serving.contract import CurrentModel, Health, Predictions, Readiness
from dermascan.serving.endpoints import Endpoints, Service
from dermascan.serving.files import INDEX, PageFile, read_page
from dermascan.serving.guard import ApiKey
from dermascan.serving.limits import ServingLimits
from dermascan.serving.metrics import Metrics
from dermascan.serving.middleware import Around
from dermascan.serving.problems import Problem, ProblemError, documented, problem_response
from dermascan.serving.scoring import ScoringQueue

ADMISSION = (HTTPStatus.UNAUTHORIZED, HTTPStatus.TOO_MANY_REQUESTS)
NO_MODEL = HTTPStatus.SERVICE_UNAVAILABLE
PREDICTION_PROBLEMS = (
    HTTPStatus.BAD_REQUEST,
    *ADMISSION,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    NO_MODEL,
    HTTPStatus.GATEWAY_TIMEOUT,
)


def create_app(
    keeper: ChampionKeeper,
    metrics: Metrics,
    limits: ServingLimits | None = None,
    api_key: ApiKey | None = None,
) -> FastAPI:
    """Return the application; its threads live from its start-up until its shutdown.

    Args:
        keeper: has the model; followed by a thread of its own while the application runs.
        metrics: those that the keeper tells of swaps.
        limits: of requests.
        api_key: what requests to `/v1/` must show, None to let everybody in.
    """
    limits = limits or ServingLimits()
    service = Service(
        limits=limits,
        keeper=keeper,
        queue=ScoringQueue(limits.waiting_images, limits.batch),
        metrics=metrics,
        decoders=ThreadPoolExecutor(usable_cores(), thread_name_prefix="decoder"),
        api_key=api_key,
    )
    metrics.watch_queue(lambda: service.queue.waiting_images)
    app = FastAPI(
        title="DermaScan",
        version=__version__,
        description=f"Scores dermoscopic images of skin lesions. {DISCLAIMER}",
        docs_url=None,  # FastAPI's pages load scripts from elsewhere
        redoc_url=None,
        lifespan=_lifespan(service),
        exception_handlers={
            ProblemError: _answer_problem,
            HTTPException: _answer_http_error,
            RequestValidationError: _answer_invalid_request,
        },
    )
    endpoints = Endpoints(service)
    _add_predictions(app, endpoints, limits)
    _add_state(app, endpoints)
    _add_page(app)
    _add_problem_schema(app)
    app.add_middleware(Around, metrics=metrics)
    return app


def _lifespan(service: Service) -> Callable[[FastAPI], Any]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with ExitStack() as stack:
            stack.callback(service.decoders.shutdown, wait=False, cancel_futures=True)
            stack.enter_context(service.queue)
            stack.enter_context(service.keeper)
            yield

    return lifespan


def _add_predictions(app: FastAPI, endpoints: Endpoints, limits: ServingLimits) -> None:
    admitted = [Depends(endpoints.admit)]
    app.add_api_route(
        "/v1/predict",
        endpoints.predict,
        methods=["POST"],
        response_model=Predictions,
        dependencies=admitted,
        responses=documented(*PREDICTION_PROBLEMS),
        openapi_extra={"requestBody": _form_schema(limits)},
    )
    app.add_api_route(
        "/v1/models/current",
        endpoints.current_model,
        response_model=CurrentModel,
        dependencies=admitted,
        responses=documented(*ADMISSION, NO_MODEL),
    )


def _form_schema(limits: ServingLimits) -> dict[str, Any]:
    image = {"type": "string", "format": "binary", "description": "A JPEG or PNG file."}
    images = {"type": "array", "items": image, "minItems": 1, "maxItems": limits.images}
    form = {"type": "object", "required": ["images"], "properties": {"images": images}}
    return {"required": True, "content": {"multipart/form-data": {"schema": form}}}


def _add_state(app: FastAPI, endpoints: Endpoints) -> None:
    app.add_api_route("/healthz", endpoints.alive, response_model=Health)
    app.add_api_route(
        "/readyz", endpoints.ready, response_model=Readiness, responses=documented(NO_MODEL)
    )
    text = {"description": "Prometheus's text format.", "content": {"text/plain": {}}}
    app.add_api_route("/metrics", endpoints.metrics, response_class=Response, responses={200: text})


def _add_page(app: FastAPI) -> None:
    files = read_page()

    def page_file(name: str) -> PageFile:
        if name not in files:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        return files[name]

    async def index(request: Request) -> Response:
        return page_file(INDEX).response(request)

    async def static(request: Request, name: str) -> Response:
        return page_file(name).response(request)

    app.add_api_route("/", index, methods=["GET", "HEAD"], include_in_schema=False)
    app.add_api_route(
        "/static/{name:path}", static, methods=["GET", "HEAD"], include_in_schema=False
    )


def _add_problem_schema(app: FastAPI) -> None:
    """Put the problems' schema into the description, and drop FastAPI's own of errors."""
    made: Callable[[], dict[str, Any]] = app.openapi

    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            schemas = made()["components"]["schemas"]
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            schemas["Problem"] = Problem.model_json_schema()
        return made()

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way


async def _answer_problem(_: Request, error: Exception) -> Response:
    if not isinstance(error, ProblemError):
        raise error
    return error.response()


async def _answer_http_error(_: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    status = HTTPStatus(error.status_code)
    return problem_response(status, status.description or status.phrase, error.headers)


async def _answer_invalid_request(_: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    wrong = {f"{found['loc'][-1]}: {found['msg']}" for found in error.errors()}
    return problem_response(HTTPStatus.UNPROCESSABLE_ENTITY, "; ".join(sorted(wrong)))
