"""The process that serves the application."""

import gc
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from dermascan.model.loading import load_fastest
from dermascan.model.scorer import Scorer
from dermascan.model.twin import has_twin
from dermascan.serving.app import create_app
from dermascan.serving.champion import ChampionKeeper
from dermascan.serving.guard import ApiKey
from dermascan.serving.limits import ServingLimits
from dermascan.serving.metrics import Metrics
from dermascan.settings import StorageSettings
from dermascan.storage import Store

logger = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 30
LAST_ANSWERS_SECONDS = 8
STORAGE_RETRY_SECONDS = 10.0
# Connections that wait for nothing cost little; beyond so many the server answers 503 itself.
CONNECTIONS = 1000


@dataclass(frozen=True)
class Address:
    """Where to listen, and behind whom.

    Attributes:
        host: address to listen on.
        port: to listen on.
        proxies: comma-separated addresses of the proxies whose `X-Forwarded-For` tells the
            client's address, None if clients come directly.
    """

    host: str
    port: int
    proxies: str | None = None


def serve(
    storage: StorageSettings,
    model: str,
    address: Address,
    limits: ServingLimits,
    api_key: ApiKey | None,
) -> None:
    """Answer until the process is asked to end.

    Args:
        storage: where the model is.
        model: whose champion answers.
        address: where to listen.
        limits: of requests.
        api_key: what requests must show, None to let everybody in.
    """
    metrics = Metrics()
    store = Store(storage.impatient(STORAGE_RETRY_SECONDS))
    keeper = ChampionKeeper(store, model, limits, metrics, load=Loading())
    app = create_app(keeper, metrics, limits, api_key)
    logger.info("listening on http://%s:%d", address.host, address.port)
    options = server_options(address.proxies)
    uvicorn.run(app, host=address.host, port=address.port, log_config=None, **options)


class Loading:
    """Loads models; puts TensorFlow itself aside for the garbage collector if it is needed.

    Looking through its half a million objects takes 0.3 s, in which no request is answered, each
    time that an old model is let go. A model with a twin for ONNX Runtime needs no TensorFlow.
    """

    def __init__(self) -> None:
        self._is_aside = False

    def __call__(self, folder: Path) -> Scorer:
        """Load a model from its folder."""
        if not self._is_aside and not has_twin(folder):
            import tensorflow  # noqa: F401, ICN001, PLC0415  # takes 10 s to import

            gc.collect()
            gc.freeze()
            self._is_aside = True
        return load_fastest(folder)


def server_options(proxies: str | None) -> dict[str, Any]:
    """Return uvicorn's settings, apart from where to listen and what to log.

    Args:
        proxies: see `Address`.
    """
    return {
        "access_log": False,  # it would show what clients put into the query
        "server_header": False,
        "proxy_headers": proxies is not None,
        "forwarded_allow_ips": proxies,
        "timeout_keep_alive": KEEP_ALIVE_SECONDS,
        "timeout_graceful_shutdown": LAST_ANSWERS_SECONDS,
        "limit_concurrency": CONNECTIONS,
    }
