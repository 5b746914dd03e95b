"""The champion in memory: loaded, proven, warm, and replaced when the pointer moves."""

import gc
import logging
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import ValidationError

from dermascan.errors import DermaScanError
from dermascan.evaluation import Evaluation
from dermascan.imaging import Preprocessing
from dermascan.model.golden import GOLDEN_FILE, draw_images, require_golden
from dermascan.model.loading import load_fastest
from dermascan.model.metadata import ModelMetadata
from dermascan.model.scorer import Scorer
from dermascan.model.signatures import EXPLAIN_SIGNATURE
from dermascan.registry import Champion, champion, fetch_version
from dermascan.serving.limits import ServingLimits
from dermascan.serving.metrics import Metrics
from dermascan.storage import Store

logger = logging.getLogger(__name__)

FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 5.0, 300.0
STOP_SECONDS = 5.0
EVALUATION_FILE = "evaluation.json"


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A version that is ready to answer, never changed.

    Attributes:
        champion: the record of its promotion.
        scorer: the loaded model.
        preprocessing: the model's, with the server's limits where they are stricter.
        evaluation: its figures, None if the version has none that this release can read.
    """

    champion: Champion
    scorer: Scorer
    preprocessing: Preprocessing
    evaluation: Evaluation | None

    @property
    def metadata(self) -> ModelMetadata:
        """Return what the version says of itself."""
        return self.scorer.metadata

    @property
    def can_explain(self) -> bool:
        """Tell whether the version shows where its evidence lies."""
        return EXPLAIN_SIGNATURE in self.metadata.signatures


@dataclass(frozen=True)
class _Failure:
    """A move of the pointer whose version could not be loaded, and when to try again."""

    token: str
    tries: int
    again_at: float
    trouble: str


class ChampionKeeper:
    """Follows the champion pointer in a thread of its own; a context manager.

    A version that cannot be read, does not match its manifest, or scores its golden images
    differently than when it was exported does not replace the one that answers. It is tried again
    after pauses that double, up to five minutes, or at once when the pointer moves again.

    Args:
        store: the bucket.
        model: the model's name.
        limits: of the server.
        metrics: are told of swaps and failures.
        load: makes a scorer of a version's folder; replaced in tests.
        clock: monotonic seconds; replaced in tests.
    """

    def __init__(  # noqa: PLR0913  # the last two are for tests
        self,
        store: Store,
        model: str,
        limits: ServingLimits,
        metrics: Metrics,
        *,
        load: Callable[[Path], Scorer] = load_fastest,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model = model
        self._store, self._limits, self._metrics = store, limits, metrics
        self._load, self._clock = load, clock
        self._served: ServedModel | None = None
        self._trouble: str | None = None
        self._failure: _Failure | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="champion", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._thread.join(STOP_SECONDS)

    @property
    def served(self) -> ServedModel | None:
        """The version that answers, None until there is one."""
        return self._served

    @property
    def trouble(self) -> str | None:
        """Why the present champion is not served, None if it is or there is none."""
        return self._trouble

    def poll(self) -> None:
        """Look at the pointer once, and load what it shows if that is new."""
        try:
            found = champion(self._store, self.model)
        except DermaScanError as error:
            self._metrics.poll_failed()
            self._note(f"the champion pointer cannot be read: {error}")
            return
        if found is None or (self._served and self._served.champion == found):
            self._note(None)
        elif (failure := self._failure_to_wait_for(found)) is not None:
            self._note(failure.trouble)
        else:
            self._replace_by(found)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.poll()
            except Exception:  # a thread that ended would keep the old model for ever
                logger.exception("the champion of %s could not be looked for", self.model)
            self._stopping.wait(self._limits.poll_seconds)

    def _failure_to_wait_for(self, found: Champion) -> _Failure | None:
        failure = self._failure
        waits = failure and failure.token == found.token and self._clock() < failure.again_at
        return failure if waits else None

    def _replace_by(self, found: Champion) -> None:
        started = self._clock()
        try:
            self._served = self._loaded(found)
        except Exception as error:  # noqa: BLE001  # whatever is wrong with it, the old one goes on
            self._metrics.swap_failed()
            trouble = f"champion {found.version} cannot be served: {error}"
            self._remember_failure(found, trouble)
            self._note(trouble)
            return
        self._failure = None
        self._note(None)
        self._metrics.swapped(self.model, found.version)
        seconds = self._clock() - started
        logger.info("%s version %d answers, ready in %.1f s", self.model, found.version, seconds)
        gc.collect()  # a loaded model has cycles, and holds some hundred megabytes

    def _remember_failure(self, found: Champion, trouble: str) -> None:
        before = self._failure
        tries = before.tries + 1 if before and before.token == found.token else 1
        pause = min(LONGEST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2 ** (tries - 1))
        self._failure = _Failure(found.token, tries, self._clock() + pause, trouble)

    def _note(self, trouble: str | None) -> None:
        """Log trouble when it begins, changes or ends, not at every look."""
        if trouble == self._trouble:
            return
        self._trouble = trouble
        if trouble is None and self._served is None:
            logger.info("object storage answers again; %s has no champion yet", self.model)
        elif trouble is None:
            logger.info("the champion of %s is served again", self.model)
        else:
            answers = self._served.champion.version if self._served else "no version"
            logger.error("%s: %s; %s goes on answering", self.model, trouble, answers)

    def _loaded(self, found: Champion) -> ServedModel:
        served = self._served
        if served and served.champion.version == found.version:  # promoted again meanwhile
            return ServedModel(found, served.scorer, served.preprocessing, served.evaluation)
        with tempfile.TemporaryDirectory(prefix="dermascan-") as name:
            folder = fetch_version(self._store, self.model, found.version, Path(name))
            scorer = self._load(folder)
            preprocessing = self._limits.applied_to(scorer.metadata.preprocessing)
            loaded = ServedModel(found, scorer, preprocessing, _evaluation(folder))
            _warm_up(loaded, folder)
        return loaded


def _warm_up(model: ServedModel, folder: Path) -> None:
    """Let a model score and explain once, which also proves it if it has golden images.

    Raises:
        IntegrityError: it scores its golden images differently than when it was exported.
    """
    scorer = model.scorer
    if (folder / GOLDEN_FILE).is_file():
        require_golden(folder, scorer.score, f"version {model.champion.version}")
    drawn = draw_images(model.preprocessing.image_size)[:1]
    scorer.score(drawn)
    if model.can_explain:
        scorer.explain(drawn)


def _evaluation(folder: Path) -> Evaluation | None:
    path = folder / EVALUATION_FILE
    try:
        return Evaluation.model_validate_json(path.read_bytes()) if path.is_file() else None
    except ValidationError:
        logger.info("the evaluation of this version is of another release")
        return None
