"""Runs of one DAG at once, request by request: they leave what they leave one after the other.

`DERMASCAN_RACES` sets how many interleavings are tried (`docs/reliability/registry.md`).
"""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from archives import row, serving, write_folder
from hostile import encoded, photograph
from stepping import Operation

import dermascan.inference.batch
import dermascan.inference.index
from dermascan.example_set import preprocess, split
from dermascan.imaging import ImageSize, Preprocessing
from dermascan.inference.batch import predict, resolve, summarise
from dermascan.ingest.downloading import download
from dermascan.ingest.planning import IngestRequest, plan
from dermascan.ingest.publishing import publish_manifest
from dermascan.ingest.uploading import upload
from dermascan.isic.client import IsicClient
from dermascan.model.savedmodel import Scores
from dermascan.registry import ModelReference
from dermascan.storage import Store
from dermascan.versions import publish_version

INTERLEAVINGS = int(os.environ.get("DERMASCAN_RACES", "30")) // 10
POINTS = 2 * INTERLEAVINGS
LICENCES = SimpleNamespace(license_text=lambda name: f"the text of {name}")
SMALL, LARGE = Preprocessing(ImageSize(16, 16)), Preprocessing(ImageSize(32, 24))

pytestmark = pytest.mark.timeout(240 + 20 * INTERLEAVINGS)


@pytest.fixture(autouse=True)
def one_request_at_a_time(monkeypatch):
    for module in ("inference.batch", "ingest.uploading", "preprocess", "versions"):
        monkeypatch.setattr(f"dermascan.{module}.concurrently", in_order)


@pytest.fixture(autouse=True)
def standing_clock(monkeypatch):
    """Let runs that are compared finish in the same second."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(2026, 1, 1, tzinfo=tz)

    monkeypatch.setattr(dermascan.inference.index, "datetime", Clock)


def in_order(function, items, concurrency=1, ahead=0):
    return map(function, items)


def contents(store: Store) -> dict[str, bytes]:
    return {found.key: store.get(found.key) for found in store.list("")}


def restore(store: Store, state: dict[str, bytes]) -> None:
    store.delete([found.key for found in store.list("")])
    for key, data in state.items():
        store.put(key, data)


Call = Callable[[Store], object]


def one_after_the_other(store: Store, state: dict[str, bytes], *calls: Call) -> dict[str, bytes]:
    restore(store, state)
    for call in calls:
        call(store)
    return contents(store)


def orders(store: Store, call: Call, points: int | None = None) -> Iterator[Callable[..., None]]:
    """Yield ways for two calls to take turns: one overtakes the other after n of its requests.

    Each n is tried, or `points` of them evenly; and then turns by chance.
    """
    alone = Operation(store, call)
    run_to_its_end(alone)
    every = max(1, alone.requests // points) if points else 1
    for after in range(0, alone.requests + 1, every):
        yield partial(overtake, after)
    for seed in range(INTERLEAVINGS):
        yield partial(take_turns, seed)


def run_to_its_end(operation: Operation) -> None:
    while not operation.ended:
        operation.step()


def overtake(after: int, overtaken: Operation, other: Operation) -> None:
    while not overtaken.ended and overtaken.requests < after:
        overtaken.step()
    run_to_its_end(other)
    run_to_its_end(overtaken)


def take_turns(seed: int, *operations: Operation) -> None:
    chance = random.Random(seed)
    while going := [operation for operation in operations if not operation.ended]:
        operation = chance.choice(going)
        for _ in range(chance.randint(1, 6)):
            if not operation.ended:
                operation.step()


def at_once(store: Store, state: dict[str, bytes], order, *calls: Call) -> dict[str, bytes]:
    """Let calls take turns, request by request, and return what is in the bucket afterwards."""
    restore(store, state)
    operations = [Operation(store, call) for call in calls]
    order(*operations)
    for operation in operations:
        if operation.error:
            raise operation.error
    return contents(store)


def assert_equal_to_one_of(found: dict[str, bytes], expected: list[dict[str, bytes]]) -> None:
    if found not in expected:
        changed = {
            key for key in found.keys() & expected[0].keys() if found[key] != expected[0][key]
        }
        raise AssertionError(
            f"more: {found.keys() - expected[0].keys()}, missing: "
            f"{expected[0].keys() - found.keys()}, changed: {changed}"
        )


# Ingest


@contextmanager
def uploaded(store: Store, folder, *limits: int):
    """Yield plans whose images are all in place, and that wait to be published."""
    write_folder(folder, [row(i) for i in range(24)])
    with serving(folder) as url, IsicClient(url) as client:
        planned = [plan(store, client, IngestRequest("isic", limit=limit)) for limit in limits]
        for each in planned:
            for shard in range(each.shards):
                download(store, client, each, shard)
                upload(store, each, shard)
    yield planned


def publishing(planned) -> Call:
    return lambda store: publish_manifest(store, LICENCES, planned)


@pytest.mark.parametrize("limits", [(8, 8), (8, 6)], ids=["the same", "other params"])
def test_publications_at_once_leave_what_they_leave_in_turn(store, tmp_path, limits):
    with uploaded(store, tmp_path, *limits) as (first, second):
        state = contents(store)
        calls = publishing(first), publishing(second)
        expected = [
            one_after_the_other(store, state, *calls),
            one_after_the_other(store, state, *reversed(calls)),
        ]
        restore(store, state)
        for order in list(orders(store, calls[0])):
            assert_equal_to_one_of(at_once(store, state, order, *calls), expected)


# Preprocessing


def preparing(preprocessing: Preprocessing) -> Call:
    def run(store: Store) -> None:
        examples = split(store, "isic", preprocessing, None)
        for shard in range(len(examples.shards)):
            preprocess(store, examples, shard)

    return run


@pytest.mark.parametrize("other", [SMALL, LARGE], ids=["the same", "other params"])
def test_preprocessing_at_once_leaves_what_it_leaves_in_turn(store, tmp_path, monkeypatch, other):
    monkeypatch.setattr("dermascan.example_set._require_validated", lambda *_: None)
    with uploaded(store, tmp_path, 24) as (planned,):
        publish_manifest(store, LICENCES, planned)
    state = contents(store)
    calls = preparing(SMALL), preparing(other)
    expected = one_after_the_other(store, state, *calls)
    restore(store, state)
    for order in list(orders(store, calls[0], POINTS)):
        assert_equal_to_one_of(at_once(store, state, order, *calls), [expected])


# Batch inference


class StandInScorer:
    """Stands in for a loaded model, since TensorFlow takes ten seconds to import."""

    runtime = "a stand-in 1.0"
    metadata = SimpleNamespace(preprocessing=Preprocessing(ImageSize(16, 16)), threshold=0.3)

    def score(self, images: np.ndarray) -> Scores:
        risks = images.mean(axis=(1, 2, 3), dtype=np.float64).astype(np.float32) / 255
        shares = np.full((len(images), 7), 1 / 7, np.float32)
        return Scores(shares, risks, np.zeros((len(images), 2), np.float32))

    def explain(self, images: np.ndarray) -> np.ndarray:
        return images.mean(axis=-1, keepdims=True).repeat(7, axis=-1).astype(np.float32)


def inferring(prefix: str) -> Call:
    def run(store: Store) -> None:
        planned = resolve(store, prefix, ModelReference("m", "1"))
        for shard in range(planned.shards):
            predict(store, planned, shard)
        summarise(store, planned)

    return run


@pytest.mark.parametrize("other", ["new/", "new/b"], ids=["the same", "other params"])
def test_batch_inference_at_once_leaves_what_it_leaves_in_turn(store, tmp_path, monkeypatch, other):
    monkeypatch.setattr("dermascan.model.savedmodel.load_scorer", lambda _: StandInScorer())
    monkeypatch.setattr(dermascan.inference.batch, "_report", lambda *_: "a report")
    (tmp_path / "saved_model.pb").write_bytes(b"never loaded")
    publish_version(store, "m", 1, tmp_path)
    for number, name in enumerate(("a", "b1", "b2")):
        store.put(f"new/{name}.jpg", encoded(photograph(seed=number), "JPEG"))
    store.put("new/b3.txt", b"no image")
    state = contents(store)
    calls = inferring("new/"), inferring(other)
    expected = one_after_the_other(store, state, *calls)
    restore(store, state)
    for order in list(orders(store, calls[0])):
        assert_equal_to_one_of(at_once(store, state, order, *calls), [expected])
