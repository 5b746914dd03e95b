import gc
import logging
import weakref

import pytest
from serving.service import GENEROUS, MODEL, VERSION, StandInScorer, keeper_of, publish
from stacks import wait_until

import dermascan.serving.champion
from dermascan.layout import ModelKeys
from dermascan.registry import Decision, rollback
from dermascan.serving.limits import ServingLimits
from dermascan.serving.metrics import Metrics
from dermascan.storage import Store


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def keeper(store: Store, metrics):
    return keeper_of(store, metrics, GENEROUS)


def count(metrics: Metrics, name: str) -> float:
    lines = (line.rpartition(" ") for line in metrics.text().decode().splitlines())
    return next(float(value) for sample, _, value in lines if sample == name)


def damage(store: Store, version: int) -> None:
    store.put(ModelKeys(MODEL).version(version) + "number", b"666")


def test_keeper_when_nothing_was_promoted_has_no_model_and_no_trouble(keeper):
    keeper.poll()

    assert (keeper.served, keeper.trouble) == (None, None)


def test_keeper_when_the_pointer_moves_replaces_the_model(store, keeper, metrics, tmp_path):
    publish(store, tmp_path, 0)
    keeper.poll()
    first = keeper.served
    keeper.poll()
    assert keeper.served is first

    publish(store, tmp_path, 1)
    keeper.poll()

    assert (first.champion.version, keeper.served.champion.version) == (VERSION, VERSION + 1)
    assert keeper.served.scorer.number == 1
    assert count(metrics, "dermascan_model_swaps_total") == 2
    model = f'dermascan_model_info{{model="{MODEL}",version="{VERSION + 1}"}}'
    assert count(metrics, model) == 1
    assert f'version="{VERSION}"' not in metrics.text().decode()


def test_keeper_when_rolled_back_and_forth_unseen_keeps_the_model_and_tells_the_last_move(
    store, keeper, tmp_path
):
    publish(store, tmp_path, 0)
    publish(store, tmp_path, 1)
    keeper.poll()
    before = keeper.served
    rollback(store, MODEL, "", Decision("a test", "back"))
    rollback(store, MODEL, "", Decision("a test", "and forth"))

    keeper.poll()

    assert keeper.served.scorer is before.scorer
    assert (before.champion.move, keeper.served.champion.move) == (2, 4)


def test_keeper_when_a_file_is_not_the_manifests_keeps_the_old_model_and_says_so(
    store, keeper, metrics, tmp_path, caplog
):
    publish(store, tmp_path, 0)
    keeper.poll()
    damage(store, publish(store, tmp_path, 1))

    with caplog.at_level(logging.ERROR):
        keeper.poll()
        keeper.poll()

    assert keeper.served.champion.version == VERSION
    assert f"champion {VERSION + 1} cannot be served" in keeper.trouble
    assert "manifest" in keeper.trouble
    assert len(caplog.records) == 1
    assert count(metrics, "dermascan_model_swap_failures_total") == 1


def test_keeper_when_a_version_fails_tries_it_again_after_growing_pauses(store, tmp_path):
    clock, tries = Clock(), []

    def load(folder):
        tries.append(clock.now)
        if len(tries) < 4:
            raise RuntimeError("an operation that this TensorFlow does not know")
        return StandInScorer(folder)

    keeper = keeper_of(store, Metrics(), GENEROUS, load)
    keeper._clock = clock
    publish(store, tmp_path, 0)
    for clock.now in range(40):
        keeper.poll()

    assert tries == [0, 5, 15, 35]
    assert keeper.trouble is None
    assert keeper.served.champion.version == VERSION


def test_keeper_when_another_version_is_promoted_does_not_wait_for_it(store, keeper, tmp_path):
    damage(store, publish(store, tmp_path, 0))
    keeper.poll()
    publish(store, tmp_path, 1)

    keeper.poll()

    assert keeper.served.champion.version == VERSION + 1
    assert keeper.trouble is None


def test_keeper_when_the_storage_does_not_answer_keeps_the_model(store, metrics, tmp_path):
    impatient = Store(store.settings.impatient(), store.bucket)
    keeper = keeper_of(impatient, metrics, GENEROUS)
    publish(store, tmp_path, 0)
    keeper.poll()
    keeper._store = Store(
        store.settings.impatient().model_copy(update={"endpoint_url": "http://127.0.0.1:9"}),
        store.bucket,
    )

    keeper.poll()

    assert keeper.served.champion.version == VERSION
    assert "pointer cannot be read" in keeper.trouble
    assert count(metrics, "dermascan_champion_poll_failures_total") == 1
    keeper._store = impatient
    keeper.poll()
    assert keeper.trouble is None


def test_keeper_when_something_unforeseen_happens_looks_again(store, tmp_path, monkeypatch, caplog):
    real, failures = dermascan.serving.champion.champion, [RuntimeError("unforeseen")]

    def champion(*args):
        if failures:
            raise failures.pop()
        return real(*args)

    monkeypatch.setattr("dermascan.serving.champion.champion", champion)
    publish(store, tmp_path, 0)
    with keeper_of(store, Metrics(), GENEROUS) as keeper:
        wait_until(lambda: keeper.served is not None, 20, "the keeper no longer looks")

    assert "unforeseen" in caplog.text


def test_keeper_when_the_model_is_replaced_lets_the_old_one_go(store, keeper, tmp_path):
    publish(store, tmp_path, 0)
    keeper.poll()
    old = weakref.ref(keeper.served.scorer)
    keeper.served.scorer.itself = keeper.served.scorer  # a cycle, as TensorFlow's objects have

    publish(store, tmp_path, 1)
    gc.disable()
    try:
        keeper.poll()
    finally:
        gc.enable()

    assert old() is None


def test_keeper_when_limits_are_stricter_than_the_models_applies_them(store, tmp_path):
    keeper = keeper_of(store, Metrics(), ServingLimits(image_pixels=5_000))
    publish(store, tmp_path, 0)

    keeper.poll()

    assert keeper.served.preprocessing.limits.max_pixels == 5_000
