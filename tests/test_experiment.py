"""What becomes of a trained model; the models are dummies, so that no TensorFlow is needed."""

import io

import pandas as pd
import pytest

from dermascan.errors import ConflictError, GateFailedError
from dermascan.evaluation import CLASS_COLUMNS, evaluate
from dermascan.experiment import judge, promote_model
from dermascan.gate import GateResult
from dermascan.imaging import ImageSize, Preprocessing
from dermascan.layout import ModelKeys, TrainingKeys
from dermascan.registry import (
    Decision,
    champion,
    fetch_version,
    history,
    list_versions,
    promote,
    rollback,
)
from dermascan.savedmodel import METADATA_FILE, ModelMetadata
from dermascan.storage import Store
from dermascan.taxonomy import LESION_CLASSES

MODEL = "tiny"
RULES = """
rules:
  - name: enough images
    metric: images
    comparison: at_least
    threshold: 1
    why: the test wants any model to pass
"""


class Killed(BaseException):
    """Stands for the end of a process in the middle of its work."""


@pytest.fixture
def rules(tmp_path):
    path = tmp_path / "gate.yaml"
    path.write_text(RULES)
    return path


def scored_lesions() -> pd.DataFrame:
    rows = []
    for i, name in enumerate(LESION_CLASSES * 2):
        scores = dict.fromkeys(CLASS_COLUMNS, 0.02) | {f"p_{name}": 0.88}
        risk = sum(scores[f"p_{each}"] for each in ("mel", "bcc", "akiec"))
        identity = {"isic_id": f"ISIC_{i:07d}", "lesion_id": f"IL_{i:07d}", "lesion_class": name}
        rows.append({**identity, **scores, "p_malignant": risk})
    return pd.DataFrame(rows)


def put_trained(store: Store, training: str) -> None:
    """Leave what `train` and `evaluate` leave."""
    keys = TrainingKeys(training)
    metadata = ModelMetadata(
        malignant_classes=("mel", "bcc", "akiec"),
        threshold=0.5,
        temperature=1.0,
        preprocessing=Preprocessing(ImageSize(48, 64)).as_plain(),
        dataset_fingerprint="d" * 24,
        training_fingerprint=training,
        network={"architecture": "none"},
        licences={},
    )
    store.put(keys.model + METADATA_FILE, metadata.model_dump_json(by_alias=True).encode())
    store.put(f"{keys.model}saved_model.pb", training.encode())
    table = scored_lesions()
    sink = io.BytesIO()
    table.to_parquet(sink)
    store.put(keys.scores, sink.getvalue())
    evaluation = evaluate(table, 0.5, dataset="made-up")
    store.put(keys.evaluation, evaluation.model_dump_json().encode())


@pytest.fixture
def candidates(store, rules):
    """Two training runs, both judged while there was no champion."""
    for training in ("first", "second"):
        put_trained(store, training)
        judge(store, training, MODEL, rules)
    return store


def present(store: Store) -> int:
    current = champion(store, MODEL)
    assert current
    return current.version


def versions_moved_to(store: Store) -> list[int]:
    return [entry.version for entry in history(store, MODEL)]


def files_of(store: Store, version: int) -> dict[str, str]:
    prefix = ModelKeys(MODEL).version(version)
    return {found.key: found.etag for found in store.list(prefix)}


def promote_and_die(store: Store, monkeypatch, before: str) -> int:
    """Promote `first`, and die before one of the steps; return the version it published."""

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(before, die)
        with pytest.raises(Killed):
            promote_model(store, "first", MODEL, "run")
    claimed = store.get_json(TrainingKeys("first").candidacy(MODEL).version)
    return int(claimed["version"])


BEFORE_THE_MOVE = "dermascan.experiment.promote"
BEFORE_THE_END = "dermascan.storage.Store.put_json"


def test_judge_names_the_champion_that_it_compared_with(candidates, rules):
    store = candidates
    assert judge(store, "first", MODEL, rules).champion_version is None
    promoted = promote_model(store, "first", MODEL, "run")
    assert judge(store, "second", MODEL, rules).champion_version == promoted.version
    kept = GateResult.model_validate_json(store.get(TrainingKeys("second").candidacy(MODEL).gate))
    assert kept.champion_version == promoted.version


def test_promote_model_when_run_again_does_nothing(candidates, rules):
    store = candidates
    promoted = promote_model(store, "first", MODEL, "run")
    before = {found.key: found.etag for found in store.list("")}
    judge(store, "first", MODEL, rules)
    assert promote_model(store, "first", MODEL, "run") == promoted
    assert {found.key: found.etag for found in store.list("")} == before


@pytest.mark.parametrize("before", [BEFORE_THE_MOVE, BEFORE_THE_END])
def test_promote_model_when_interrupted_and_judged_again_completes_with_the_published_version(
    candidates, rules, monkeypatch, tmp_path, before
):
    store = candidates
    version = promote_and_die(store, monkeypatch, before)
    published = files_of(store, version)
    rules.write_text(RULES.replace("enough images", "some images"))  # another gate.json
    judge(store, "first", MODEL, rules)
    assert promote_model(store, "first", MODEL, "run").version == version
    assert files_of(store, version) == published
    copy = fetch_version(store, MODEL, version, tmp_path / "copy")
    assert (copy / "saved_model.pb").read_bytes() == b"first"
    assert "enough images" in (copy / "gate.json").read_text()
    assert versions_moved_to(store) == [version]


def test_promote_model_when_the_champion_changed_since_the_verdict_publishes_nothing(
    candidates, rules
):
    store = candidates
    first = promote_model(store, "first", MODEL, "run")
    remedy = rf"no champion of 'tiny', but now .* champion tiny {first.version}: clear .*`gate`"
    with pytest.raises(ConflictError, match=remedy):
        promote_model(store, "second", MODEL, "other run")
    assert list_versions(store, MODEL) == [first.version]
    assert present(store) == first.version
    judge(store, "second", MODEL, rules)
    second = promote_model(store, "second", MODEL, "other run")
    assert versions_moved_to(store) == [first.version, second.version]


def test_promote_model_when_the_champion_changes_after_publication_moves_nothing(
    candidates, rules, monkeypatch
):
    store = candidates
    version = promote_and_die(store, monkeypatch, BEFORE_THE_MOVE)
    other = promote_model(store, "second", MODEL, "other run").version
    with pytest.raises(ConflictError, match=str(other)):
        promote_model(store, "first", MODEL, "run")
    assert present(store) == other
    judge(store, "first", MODEL, rules)
    assert promote_model(store, "first", MODEL, "run").version == version
    assert versions_moved_to(store) == [other, version]


def test_promote_model_when_rolled_back_before_its_retry_does_not_promote_again(
    candidates, rules, monkeypatch
):
    store = candidates
    other = promote_model(store, "second", MODEL, "other run").version
    judge(store, "first", MODEL, rules)
    version = promote_and_die(store, monkeypatch, BEFORE_THE_END)
    assert present(store) == version
    assert rollback(store, MODEL, "", Decision("ann", "bad")).version == other
    promote_model(store, "first", MODEL, "run")
    assert present(store) == other


def test_promote_model_when_its_version_was_promoted_by_hand_completes(candidates, monkeypatch):
    store = candidates
    version = promote_and_die(store, monkeypatch, BEFORE_THE_MOVE)
    promote(store, MODEL, version, Decision("ann", "by hand"))
    assert promote_model(store, "first", MODEL, "run").version == version
    assert versions_moved_to(store) == [version]


def test_promote_model_when_the_gate_was_not_passed_is_refused(candidates, rules):
    store = candidates
    rules.write_text(RULES.replace("threshold: 1", "threshold: 1000"))
    with pytest.raises(GateFailedError, match="enough images"):
        judge(store, "first", MODEL, rules)
    with pytest.raises(GateFailedError, match="enough images"):
        promote_model(store, "first", MODEL, "run")
    assert list_versions(store, MODEL) == []
