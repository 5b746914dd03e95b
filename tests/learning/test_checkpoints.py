import numpy as np
import pytest

from dermascan.learning.checkpoints import Checkpoints, TrainingState


def state(epoch):
    return TrainingState(
        network=[np.full((2, 3), epoch, np.float32), np.array([1, epoch], np.uint32)],
        optimizer=[np.array(epoch, np.int64)],
        average=[np.full((2, 3), epoch / 2, np.float32)],
    )


def epochs(store):
    return [found.key for found in store.list("t/") if found.key.endswith(".npz")]


def test_load_after_save_gives_the_same_arrays_and_notes(store):
    checkpoints = Checkpoints(store, "t/", "me")

    checkpoints.save(3, state(3), {"history": [{"loss": 0.25}]}, best=3)

    again = Checkpoints(store, "t/", "me")
    assert again.latest() == (3, {"history": [{"loss": 0.25}]})
    loaded = again.load(3)
    for part in ("network", "optimizer", "average"):
        for found, expected in zip(getattr(loaded, part), getattr(state(3), part), strict=True):
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected)


def test_save_keeps_the_last_two_epochs_and_the_best(store):
    checkpoints = Checkpoints(store, "t/", "me")

    for epoch in range(6):
        checkpoints.save(epoch, state(epoch), {}, best=1)

    assert epochs(store) == ["t/epoch-0001.npz", "t/epoch-0004.npz", "t/epoch-0005.npz"]


def test_latest_when_killed_before_the_pointer_moved_is_the_epoch_before(store, monkeypatch):
    checkpoints = Checkpoints(store, "t/", "me")
    checkpoints.save(1, state(1), {}, best=1)

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "put_json", die)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(2, state(2), {}, best=2)

    assert checkpoints.latest() == (1, {})
    assert checkpoints.load(1).optimizer[0] == 1


def test_latest_when_of_another_training_starts_anew(store):
    Checkpoints(store, "t/", "another").save(1, state(1), {}, best=1)

    assert Checkpoints(store, "t/", "me").latest() is None
