"""What each address of the API does."""

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated

import numpy as np
from fastapi import Query, Request, Security
from fastapi.security import APIKeyHeader
from starlette.responses import Response

from dermascan.inference.scoring import Examined, examine
from dermascan.serving.champion import ChampionKeeper, ServedModel
from dermascan.serving.contract import (
    CurrentModel,
    Health,
    Predictions,
    Readiness,
    Result,
    ScoringModel,
)
from dermascan.serving.description import described
from dermascan.serving.guard import ApiKey, RateLimiter
from dermascan.serving.limits import ServingLimits
from dermascan.serving.metrics import Metrics
from dermascan.serving.problems import BusyError, ProblemError, busy, later, no_model
from dermascan.serving.results import results
from dermascan.serving.scoring import Scored, ScoringQueue, ScoringTask
from dermascan.serving.uploads import MemoryBudget, Upload, read_uploads

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
KEY_HEADER = APIKeyHeader(
    name="X-API-Key", auto_error=False, description="Needed if the server was started with a key."
)


@dataclass(frozen=True)
class Service:
    """What the endpoints work with.

    Attributes:
        limits: of the server.
        keeper: has the model.
        queue: leads to it.
        metrics: are told of images.
        decoders: threads that decode, as many as there are cores.
        api_key: what requests must show, None to let everybody in.
    """

    limits: ServingLimits
    keeper: ChampionKeeper
    queue: ScoringQueue
    metrics: Metrics
    decoders: ThreadPoolExecutor
    api_key: ApiKey | None = None


class Endpoints:
    """The handlers, with the state that they share."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._limits = service.limits
        self._rate = RateLimiter(self._limits.requests_per_minute, self._limits.burst)
        self._memory = MemoryBudget(self._limits.buffered_bytes)
        self._under_way = 0

    async def admit(
        self, request: Request, key: Annotated[str | None, Security(KEY_HEADER)] = None
    ) -> None:
        """Let a request in.

        Raises:
            ProblemError: 429 for a client that asks too often, 401 for one without the key.
        """
        address = request.client.host if request.client else ""
        if wait := self._rate.seconds_to_wait(address):
            raise later(HTTPStatus.TOO_MANY_REQUESTS, wait, "this client asks too often")
        wanted = self._service.api_key
        if wanted and not wanted.matches(key):
            raise ProblemError(HTTPStatus.UNAUTHORIZED, "send the API key as header X-API-Key")

    async def predict(
        self,
        request: Request,
        explain: Annotated[bool, Query(description="Also draw where the evidence lies.")] = False,
    ) -> Predictions:
        """Score images of skin lesions.

        An image that cannot be scored is a result with a reason, not an error of the request. All
        results of an answer are from the model version that it names.
        """
        self._require_model()
        try:
            with self._counted(), self._memory.account() as account:
                async with asyncio.timeout(self._limits.seconds):
                    uploads = await read_uploads(request, self._limits, account)
                    return await self._predictions(uploads, self._require_model(), explain)
        except TimeoutError as error:
            detail = f"not done within {self._limits.seconds:g} s: send fewer or smaller images"
            raise ProblemError(HTTPStatus.GATEWAY_TIMEOUT, detail) from error
        except (BusyError, MemoryError) as error:
            raise busy() from error

    async def current_model(self) -> CurrentModel:
        """Describe the model version that answers at present."""
        return described(self._require_model())

    async def alive(self) -> Health:
        """Tell that the process answers."""
        return Health()

    async def ready(self) -> Readiness:
        """Tell whether a model is loaded and warm."""
        served = self._require_model()
        return Readiness(
            model=served.champion.model,
            version=served.champion.version,
            warning=self._service.keeper.trouble,
        )

    async def metrics(self) -> Response:
        """Return figures for Prometheus."""
        return Response(self._service.metrics.text(), media_type=METRICS_TYPE)

    def _require_model(self) -> ServedModel:
        keeper = self._service.keeper
        served = keeper.served
        if served is None:
            raise no_model(
                keeper.trouble
                or f"model {keeper.model} has no champion that is loaded yet: wait if one was just "
                "promoted, else train one, or start with DERMASCAN_SERVING_MODEL for another model"
            )
        return served

    @contextmanager
    def _counted(self) -> Iterator[None]:
        if self._under_way >= self._limits.requests:
            raise BusyError
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    async def _predictions(
        self, uploads: Sequence[Upload], served: ServedModel, explain: bool
    ) -> Predictions:
        examined = await self._examined(uploads, served)
        scored = await self._scored(examined, served, explain=explain and served.can_explain)
        metadata = served.metadata
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            self._service.decoders, lambda: tuple(results(examined, scored, metadata))
        )
        for result in found:
            self._service.metrics.image(_outcome(result))
        return Predictions(
            model=ScoringModel(
                name=served.champion.model,
                version=served.champion.version,
                classes=metadata.classes,
            ),
            threshold=metadata.threshold,
            results=found,
        )

    async def _examined(self, uploads: Sequence[Upload], served: ServedModel) -> list[Examined]:
        """Decode one after the other, so that a request with many does not hold up the others."""
        loop = asyncio.get_running_loop()
        return [
            await loop.run_in_executor(
                self._service.decoders, examine, upload.filename, upload.data, served.preprocessing
            )
            for upload in uploads
        ]

    async def _scored(
        self, examined: Sequence[Examined], served: ServedModel, *, explain: bool
    ) -> Scored | None:
        images = [image for each in examined if (image := each.image) is not None]
        if not images:
            return None
        task = ScoringTask(served.scorer, np.stack(images), explain)
        return await asyncio.wrap_future(self._service.queue.submit(task))


def _outcome(result: Result) -> str:
    return "ok" if result.reason is None else result.reason.partition(":")[0]
