import logging

import pytest

from dermascan.model_mirror import VERSION_TAG, mirror_champion
from dermascan.registry import Decision, promote, rollback
from dermascan.versions import claim_version, publish_version

ANN = Decision("ann", "better")


@pytest.fixture
def versions(store, tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"graph")
    made = [claim_version(store, "m", f"training-{number}") for number in range(2)]
    for version in made:
        publish_version(store, "m", version, tmp_path)
    return made


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    from mlflow import MlflowClient  # noqa: PLC0415  # takes seconds to import

    folder = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # where MLflow keeps artifacts of a local database
        yield MlflowClient(f"sqlite:///{folder}/mlflow.db")


def shown(client, model: str) -> str:
    return client.get_model_version_by_alias(model, "champion").tags[VERSION_TAG]


def test_mirror_follows_promotion_and_rollback_and_registers_each_version_once(
    store, versions, client
):
    first, second = versions
    experiment = client.create_experiment("lesions")
    run = client.create_run(experiment, tags={"dermascan.fingerprint": "training-0"})

    assert mirror_champion(store, "m", "unused", client)  # before there is any: nothing to show
    for move, expected in (
        (lambda: promote(store, "m", first, ANN), first),
        (lambda: promote(store, "m", second, ANN), second),
        (lambda: rollback(store, "m", "", ANN), first),
    ):
        move()
        assert mirror_champion(store, "m", "unused", client)
        assert mirror_champion(store, "m", "unused", client)
        assert shown(client, "m") == str(expected)

    known = {each.tags[VERSION_TAG]: each for each in client.search_model_versions("name = 'm'")}
    assert set(known) == {str(first), str(second)}
    assert len(client.search_model_versions("name = 'm'")) == 2
    assert known[str(first)].source == store.address(f"models/m/{first}/")
    assert known[str(first)].run_id == run.info.run_id


class Slow:
    """A client during whose call the champion moves."""

    def __init__(self, client, meanwhile):
        self._client, self._meanwhile = client, [meanwhile]

    def __getattr__(self, name):
        if name == "set_registered_model_alias" and self._meanwhile:
            self._meanwhile.pop()()
        return getattr(self._client, name)


def test_mirror_when_a_later_move_was_shown_meanwhile_does_not_leave_the_older_one(
    store, tmp_path, client
):
    for version in (1, 2):
        publish_version(store, "slow", version, tmp_path)
    promote(store, "slow", 1, ANN)

    def meanwhile():
        promote(store, "slow", 2, ANN)
        mirror_champion(store, "slow", "unused", client)

    assert mirror_champion(store, "slow", "unused", Slow(client, meanwhile))
    assert shown(client, "slow") == "2"


class Down:
    def __getattr__(self, name):
        raise ConnectionError("nobody listens\nand a long trace")


def test_mirror_when_mlflow_is_down_warns_and_does_not_raise(store, versions, caplog):
    promote(store, "m", versions[0], ANN)
    with caplog.at_level(logging.WARNING):
        assert not mirror_champion(store, "m", "http://unused", Down())
    (message,) = caplog.messages
    assert "nobody listens. The champion is the one in object storage" in message
