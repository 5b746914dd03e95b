import threading

import numpy as np
import pytest

from dermascan.model.savedmodel import Scores
from dermascan.serving import scoring
from dermascan.serving.problems import BusyError
from dermascan.serving.scoring import ScoringQueue, ScoringTask

SECONDS = 10


class WaitingScorer:
    """Scores images by their first pixel, but not before it is let."""

    def __init__(self) -> None:
        self.let, self.begun = threading.Event(), threading.Event()
        self.batches: list[int] = []

    def score(self, images: np.ndarray, batch_size: int) -> Scores:  # noqa: ARG002  # as `Scorer` has it
        self.begun.set()
        assert self.let.wait(SECONDS)
        self.batches.append(len(images))
        if images.max() == 255:
            raise ValueError("no such brightness")
        risks = images[:, 0, 0, 0] / np.float32(255)
        return Scores(np.repeat(risks[:, None], 7, axis=1), risks, risks[:, None])

    def explain(self, images: np.ndarray, batch_size: int) -> np.ndarray:  # noqa: ARG002  # likewise
        return images[:, :1, :1, :1].astype(np.float32)


def task(scorer, *values: int, explain: bool = False) -> ScoringTask:
    images = np.array(values, np.uint8).reshape(-1, 1, 1, 1).repeat(3, axis=3)
    return ScoringTask(scorer, images, explain)


@pytest.fixture
def scorer():
    return WaitingScorer()


@pytest.fixture
def queue():
    with ScoringQueue(most_waiting=6, batch=4) as queue:
        yield queue


def occupy(queue: ScoringQueue, scorer: WaitingScorer):
    first = queue.submit(task(scorer, 1))
    assert scorer.begun.wait(SECONDS)
    return first


def test_queue_when_requests_wait_together_scores_them_together_each_with_its_rows(queue, scorer):
    first = occupy(queue, scorer)
    both = [queue.submit(task(scorer, 51, 102)), queue.submit(task(scorer, 153, explain=True))]
    assert queue.waiting_images == 3
    scorer.let.set()

    one, other = (future.result(SECONDS) for future in both)

    assert first.result(SECONDS).activations is None
    assert scorer.batches == [1, 3]
    np.testing.assert_allclose(one.scores.p_malignant, [0.2, 0.4])
    np.testing.assert_allclose(other.scores.p_malignant, [0.6])
    assert one.activations is None
    assert other.activations.shape == (1, 1, 1, 1)


def test_queue_when_a_batch_is_full_leaves_the_next_request_whole(queue, scorer):
    occupy(queue, scorer)
    futures = [queue.submit(task(scorer, 1, 2, 3)), queue.submit(task(scorer, 4, 5))]
    scorer.let.set()

    assert [len(future.result(SECONDS).scores.p_malignant) for future in futures] == [3, 2]

    assert scorer.batches == [1, 3, 2]


def test_queue_when_the_model_changes_scores_nothing_of_both_together(queue, scorer):
    later = WaitingScorer()
    later.let.set()
    occupy(queue, scorer)
    futures = [queue.submit(task(scorer, 1)), queue.submit(task(later, 2))]
    scorer.let.set()

    for future in futures:
        future.result(SECONDS)

    assert (scorer.batches, later.batches) == ([1, 1], [1])


def test_queue_when_too_many_wait_is_busy(queue, scorer):
    occupy(queue, scorer)
    queue.submit(task(scorer, 1, 2, 3, 4))

    with pytest.raises(BusyError):
        queue.submit(task(scorer, 1, 2, 3))

    scorer.let.set()


def test_queue_when_one_request_fails_tells_it_and_goes_on(queue, scorer):
    scorer.let.set()
    failing = queue.submit(task(scorer, 255))

    with pytest.raises(ValueError, match="no such brightness"):
        failing.result(SECONDS)

    assert queue.submit(task(scorer, 51)).result(SECONDS)


def test_queue_when_nobody_waits_for_a_request_any_more_leaves_it_out(queue, scorer):
    occupy(queue, scorer)
    given_up, kept = queue.submit(task(scorer, 1)), queue.submit(task(scorer, 2))
    given_up.cancel()
    scorer.let.set()

    kept.result(SECONDS)

    assert scorer.batches == [1, 1]


def test_queue_when_closed_lets_nobody_wait_for_ever(scorer, monkeypatch):
    monkeypatch.setattr(scoring, "STOP_SECONDS", 0.1)
    with ScoringQueue(most_waiting=6, batch=4) as queue:
        first = occupy(queue, scorer)
        waiting = queue.submit(task(scorer, 1))

    assert waiting.cancelled()
    with pytest.raises(BusyError):
        queue.submit(task(scorer, 1))
    scorer.let.set()
    assert first.result(SECONDS)
