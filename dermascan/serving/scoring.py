"""One thread that runs the model, and the bounded queue in front of it.

A batch takes all cores, so a second thread would only make both slower. Images of
requests that wait together go through the model together, up to `batch` of them, as long as they
are for the same model; none waits for others to come. A request's images are never divided between
two models.
"""

import logging
import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from dermascan.serving.problems import BusyError

if TYPE_CHECKING:
    from dermascan.model.scorer import Scorer, Scores

logger = logging.getLogger(__name__)

STOP_SECONDS = 5.0


@dataclass(frozen=True, eq=False)
class Scored:
    """What a model says of a request's images.

    Attributes:
        scores: one row an image.
        activations: float32 (N, h, w, classes), None if nobody asked.
    """

    scores: "Scores"
    activations: NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False)
class ScoringTask:
    """A request's images on their way through a model.

    Attributes:
        scorer: the model.
        images: uint8 (N, H, W, 3) RGB, N at least 1.
        explain: whether activations are wanted.
        outcome: completed by the thread.
    """

    scorer: "Scorer"
    images: NDArray[np.uint8]
    explain: bool = False
    outcome: "Future[Scored]" = field(default_factory=Future)


class ScoringQueue:
    """Runs tasks in a thread of its own; a context manager.

    Args:
        most_waiting: images that may wait; one task is always let in.
        batch: images that go through the model together.
    """

    def __init__(self, most_waiting: int, batch: int) -> None:
        self._most_waiting, self._batch = most_waiting, batch
        self._tasks: deque[ScoringTask] = deque()
        self._changed = threading.Condition()
        self._open = True
        self._thread = threading.Thread(target=self._run, name="scoring", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changed:
            self._open = False
            for task in self._tasks:
                task.outcome.cancel()
            self._tasks.clear()
            self._changed.notify()
        self._thread.join(STOP_SECONDS)

    @property
    def waiting_images(self) -> int:
        """How many images wait for the model."""
        with self._changed:
            return self._waiting()

    def submit(self, task: ScoringTask) -> "Future[Scored]":
        """Queue a task.

        Raises:
            BusyError: too many images wait already.
        """
        with self._changed:
            full = self._tasks and self._waiting() + len(task.images) > self._most_waiting
            if full or not self._open:
                raise BusyError
            self._tasks.append(task)
            self._changed.notify()
        return task.outcome

    def _waiting(self) -> int:
        return sum(len(task.images) for task in self._tasks)

    def _run(self) -> None:
        while tasks := self._next():
            try:
                _score(tasks, self._batch)
            except Exception as error:  # noqa: BLE001  # each request is told; the thread goes on
                for task in tasks:
                    task.outcome.set_exception(error)

    def _next(self) -> list[ScoringTask]:
        """Wait for tasks that fit one batch of one model; none when the queue is closed."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._tasks or not self._open)
                if not self._open:
                    return []
                if tasks := self._fitting():
                    return tasks

    def _fitting(self) -> list[ScoringTask]:
        chosen: list[ScoringTask] = []
        images = 0
        while self._tasks:
            task = self._tasks[0]
            other = chosen and task.scorer is not chosen[0].scorer
            if other or (chosen and images + len(task.images) > self._batch):
                break
            self._tasks.popleft()
            if task.outcome.set_running_or_notify_cancel():  # else nobody waits for it any more
                chosen.append(task)
                images += len(task.images)
        return chosen


def _score(tasks: list[ScoringTask], batch: int) -> None:
    scorer = tasks[0].scorer
    scores = scorer.score(np.concatenate([task.images for task in tasks]), batch)
    start = 0
    for task in tasks:
        rows = slice(start, start := start + len(task.images))
        activations = scorer.explain(task.images, batch) if task.explain else None
        task.outcome.set_result(Scored(_rows(scores, rows), activations))


def _rows(scores: "Scores", rows: slice) -> "Scores":
    return type(scores)(
        scores.probabilities[rows], scores.p_malignant[rows], scores.embedding[rows]
    )
