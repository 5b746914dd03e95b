"""The server with a stand-in for the model, since TensorFlow takes ten seconds to import."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import httpx
import numpy as np
from hostile import encoded, photograph
from live import live
from numpy.typing import NDArray
from PIL import Image

from dermascan.imaging import ImageSize, Preprocessing
from dermascan.model.metadata import METADATA_FILE, ModelMetadata, read_metadata
from dermascan.model.savedmodel import Scores
from dermascan.registry import Decision, promote, publish_version
from dermascan.serving.app import create_app
from dermascan.serving.champion import ChampionKeeper
from dermascan.serving.guard import ApiKey
from dermascan.serving.limits import ServingLimits
from dermascan.serving.metrics import Metrics
from dermascan.serving.server import server_options
from dermascan.storage import Store

MODEL = "tiny"
PROBLEM = "application/problem+json"
BOUNDARY = "boundary"
HEADERS = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
VERSION = 20260101000000
THRESHOLD = 0.3
GOOD = encoded(photograph(), "JPEG")
GENEROUS = ServingLimits(requests_per_minute=1e6, burst=1_000_000, poll_seconds=0.1)
METADATA = ModelMetadata(
    malignant_classes=("akiec", "bcc", "mel"),
    threshold=THRESHOLD,
    preprocessing=Preprocessing(image_size=ImageSize(48, 64)),
    dataset_fingerprint="d" * 24,
    training_fingerprint="t" * 24,
    network={},
    signatures={"explain": {"inputs": {}, "outputs": {}}},
    licences={},
)
SHARE_OF_VERSION = 1e-3
CLIENTS, CHANGE_SECONDS = 50, 120

T = TypeVar("T")


class StandInScorer:
    """Stands in for a loaded model; its scores tell its version, and depend on the image."""

    runtime = "a stand-in 1.0"

    def __init__(self, folder: Path) -> None:
        self.metadata = read_metadata(folder)
        self.number = float((folder / "number").read_text())

    def score(self, images: NDArray[np.uint8], batch_size: int = 32) -> Scores:  # noqa: ARG002  # as `Scorer` has it
        """Return the mean of each image, and a little more for later versions."""
        assert images.shape[1:] == (48, 64, 3)
        means = images.mean(axis=(1, 2, 3), dtype=np.float64) / 512
        risks = (means + SHARE_OF_VERSION * self.number).astype(np.float32)
        shares = np.repeat((1 - risks)[:, None] / 4, 7, axis=1).astype(np.float32)
        shares[:, [0, 1, 4]] = risks[:, None] / 3
        return Scores(shares, risks, np.zeros((len(images), 2), np.float32))

    def explain(self, images: NDArray[np.uint8], batch_size: int = 32) -> NDArray[np.float32]:  # noqa: ARG002  # likewise
        """Return evidence in the middle of each image."""
        activations = np.zeros((len(images), 3, 4, 7), np.float32)
        activations[:, 1, 1:3] = 1
        return activations


def publish(store: Store, folder: Path, number: int, *, model: str = MODEL) -> int:
    """Publish version `number` (from 0) and make it champion; return its full number."""
    files = folder / f"{model}-{number}"
    files.mkdir(parents=True)
    (files / METADATA_FILE).write_text(METADATA.model_dump_json())
    (files / "number").write_text(str(number))
    publish_version(store, model, VERSION + number, files)
    promote(store, model, VERSION + number, Decision("a test", "because"))
    return VERSION + number


def keeper_of(store: Store, metrics: Metrics, limits: ServingLimits, load=StandInScorer):
    """Return what follows the champion of the stand-in model."""
    return ChampionKeeper(store, MODEL, limits, metrics, load=load)


@contextmanager
def serving(
    store: Store, limits: ServingLimits = GENEROUS, key: str | None = None, load=StandInScorer
) -> Iterator[httpx.Client]:
    """Serve the stand-in model, if one is published, to a client that is yielded."""
    metrics = Metrics()
    keeper = keeper_of(store, metrics, limits, load)
    keeper.poll()
    app = create_app(keeper, metrics, limits, ApiKey(key) if key else None)
    with (
        live(app, **server_options(None)) as url,
        httpx.Client(base_url=url, timeout=60, trust_env=False) as client,
    ):
        yield client


def images(*files: bytes, field: str = "images") -> list[tuple[str, tuple[str, bytes]]]:
    """Return the form that a client sends."""
    return [(field, (f"{number}.jpg", data)) for number, data in enumerate(files)]


def predict(client: httpx.Client, *files: bytes, **options: object) -> httpx.Response:
    """Send files to be scored."""
    return client.post("/v1/predict", files=images(*files), **options)


def grey(level: int) -> bytes:
    """Return a plain image."""
    return encoded(Image.new("RGB", (200, 150), (level, level, level)), "PNG")


def part(data: bytes, disposition: str = 'form-data; name="images"; filename="a.jpg"') -> bytes:
    return f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + data + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def require_problem(response: httpx.Response, status: int) -> str:
    assert response.status_code == status
    assert response.headers["content-type"] == PROBLEM
    problem = response.json()
    assert set(problem) == {"type", "title", "status", "detail"}
    assert problem["status"] == status
    return problem["detail"]


def wait_for(condition, seconds: float = 20) -> None:
    ready = threading.Event()
    for _ in range(int(seconds / 0.05)):
        if condition():
            return
        ready.wait(0.05)
    raise AssertionError("it did not happen")


async def ask_during(
    url: str,
    ask: Callable[[httpx.AsyncClient, int], Awaitable[T]],
    change: Callable[[], object],
    version: int,
) -> list[T]:
    """Let many clients ask again and again during a change, and a little after it.

    Args:
        url: of the server.
        ask: makes the request with this number, from 0.
        change: makes `version` champion.
        version: that answers in the end.
    """
    asked, changed, answers = asyncio.Event(), asyncio.Event(), []
    limits = httpx.Limits(max_connections=CLIENTS + 1)

    async def keep_asking(client: httpx.AsyncClient, number: int) -> None:
        left = 3
        while left:
            answers.append(await ask(client, number))
            number += CLIENTS
            asked.set()
            left -= changed.is_set()

    # No test's own limit of time reaches into an event loop: a task would swallow its exception.
    async with (
        asyncio.timeout(CHANGE_SECONDS),
        httpx.AsyncClient(base_url=url, limits=limits, timeout=CHANGE_SECONDS) as client,
        asyncio.TaskGroup() as clients,
    ):
        for number in range(CLIENTS):
            clients.create_task(keep_asking(client, number))
        await asked.wait()
        await asyncio.to_thread(change)
        while (await client.get("/v1/models/current")).json()["version"] != version:  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(0.01)
        changed.set()
    return answers
