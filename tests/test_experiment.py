"""What becomes of a trained model; the models are dummies, so that no TensorFlow is needed."""

import io
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from dermascan import experiment
from dermascan.assessment.approval import approval_request
from dermascan.assessment.head_to_head import compare_with_champion
from dermascan.drift.features import REFERENCE_FILE
from dermascan.errors import ConflictError, GateFailedError, IntegrityError
from dermascan.evaluation import CLASS_COLUMNS, evaluate
from dermascan.evaluation.schema import EVALUATION_VERSION
from dermascan.fingerprint import sha256_hex
from dermascan.gate import Comparability, GateResult
from dermascan.imaging import ImageSize, Preprocessing
from dermascan.layout import DatasetKeys, ModelKeys, TrainingKeys
from dermascan.model.savedmodel import METADATA_FILE, ModelMetadata, Scores, read_metadata
from dermascan.registry import (
    Decision,
    champion,
    fetch_version,
    history,
    list_versions,
    promote,
    rollback,
)
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
non_inferiority:
  - name: separation, against the champion
    metric: malignant.roc_auc
    margin: 0.01
    why: the test wants no model to pass that is worse
"""
SIZE = ImageSize(48, 64)
LESIONS = tuple(
    (f"ISIC_{i:07d}", f"IL_{i:07d}", name, i % len(LESION_CLASSES))
    for i, name in enumerate(LESION_CLASSES * 3)
)


class Killed(BaseException):
    """Stands for the end of a process in the middle of its work."""


@pytest.fixture
def rules(tmp_path):
    path = tmp_path / "gate.yaml"
    path.write_text(RULES)
    return path


@dataclass
class DummyScorer:
    """Tell the class of an image by how bright it is; `blind` tells nevi only."""

    metadata: ModelMetadata
    blind: bool

    @classmethod
    def load(cls, folder: Path) -> "DummyScorer":
        return cls(read_metadata(folder), b"blind" in (folder / "saved_model.pb").read_bytes())

    def score(self, images):
        size = self.metadata.preprocessing.image_size
        assert images.shape[1:] == (size.height, size.width, 3)
        labels = np.rint(images.mean(axis=(1, 2, 3)) / 30).astype(int).clip(0, 6)
        labels = np.full_like(labels, LESION_CLASSES.index("nv")) if self.blind else labels
        probabilities = np.full((len(images), 7), 0.02, np.float32)
        probabilities[np.arange(len(images)), labels] = 0.88
        risk = probabilities[:, list(self.metadata.malignant_indices())].sum(axis=1)
        return Scores(probabilities, risk, np.zeros((len(images), 1), np.float32))


judge = partial(experiment.judge, load=DummyScorer.load)
promote_model = partial(experiment.promote_model, load=DummyScorer.load)
promote_by_hand = partial(experiment.promote_by_hand, load=DummyScorer.load)


def put_images(store: Store, dataset: str = "made-up") -> pd.DataFrame:
    """Store an image of each lesion, as bright as its class is late in the alphabet."""
    rows = []
    for isic_id, lesion_id, name, label in LESIONS:
        _, data = cv2.imencode(".png", np.full((60, 80, 3), 30 * label, np.uint8))
        key = DatasetKeys(dataset).image(isic_id, "png")
        store.put(key, data.tobytes())
        rows.append((isic_id, key, sha256_hex(data.tobytes()), lesion_id, name))
    return pd.DataFrame(rows, columns=["isic_id", "key", "sha256", "lesion_id", "lesion_class"])


def scored(table: pd.DataFrame) -> pd.DataFrame:
    """Score every image rightly."""
    names = table["lesion_class"].to_numpy()
    columns = {
        column: np.where(names == column.removeprefix("p_"), 0.88, 0.02) for column in CLASS_COLUMNS
    }
    risk = columns["p_mel"] + columns["p_bcc"] + columns["p_akiec"]
    return table.assign(**columns, p_malignant=risk)


def put_scores(store: Store, training: str, *, blind: bool = False) -> None:
    """Leave the scores and the evaluation of a training run whose model is there."""
    keys = TrainingKeys(training)
    old = pd.read_parquet(io.BytesIO(store.get(keys.scores)))
    table = old[["isic_id", "key", "sha256", "lesion_id", "lesion_class"]]
    certain = scored(table.assign(lesion_class="nv") if blind else table)
    put_table(store, training, certain.assign(lesion_class=table["lesion_class"]))


def put_table(store: Store, training: str, table: pd.DataFrame, dataset: str = "made-up") -> None:
    keys = TrainingKeys(training)
    sink = io.BytesIO()
    table.to_parquet(sink)
    store.put(keys.scores, sink.getvalue())
    evaluation = evaluate(table, 0.5, dataset=dataset, resamples=50)
    store.put(keys.evaluation, evaluation.model_dump_json().encode())


def put_trained(
    store: Store,
    training: str,
    size: ImageSize = SIZE,
    dataset: str = "made-up",
    malignant: tuple[str, ...] = ("mel", "bcc", "akiec"),
) -> None:
    """Leave what `train` and `evaluate` leave."""
    keys = TrainingKeys(training)
    metadata = ModelMetadata(
        malignant_classes=malignant,
        threshold=0.5,
        preprocessing=Preprocessing(size),
        dataset_fingerprint="d" * 24,
        training_fingerprint=training,
        network={"architecture": "none"},
        licences={},
    )
    store.put(keys.model + METADATA_FILE, metadata.model_dump_json().encode())
    store.put(f"{keys.model}saved_model.pb", training.encode())
    put_table(store, training, scored(put_images(store, dataset)), dataset)


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


def test_promote_model_publishes_what_batches_are_compared_with_if_there_is_any(
    candidates, tmp_path
):
    store = candidates
    store.put(TrainingKeys("first").reference, b"a sample")
    with_reference = promote_model(store, "first", MODEL, "run").version
    copy = fetch_version(store, MODEL, with_reference, tmp_path / "copy")
    assert (copy / REFERENCE_FILE).read_bytes() == b"a sample"
    prefix = ModelKeys(MODEL).version(with_reference)
    assert prefix + REFERENCE_FILE in {found.key for found in store.list(prefix)}


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


class Watching:
    """Looks at the bucket, as a reader would, before and after each write of somebody else."""

    def __init__(self, reader: Store, folder: Path, monkeypatch) -> None:
        self._reader, self._folder, self._looks = reader, folder, 0
        self.seen: list[int | None] = []
        for name in ("_write", "_delete"):
            monkeypatch.setattr(Store, name, self._watched(getattr(Store, name)))

    def _watched(self, call):
        def watched(store, *arguments, **options):
            self._look()
            try:
                return call(store, *arguments, **options)
            finally:
                self._look()

        return watched

    def _look(self) -> None:
        current = champion(self._reader, MODEL)
        if current:
            folder = self._folder / str(self._looks)
            self._looks += 1
            copy = fetch_version(self._reader, MODEL, current.version, folder)
            assert (copy / "saved_model.pb").is_file()
            assert [move.move for move in history(self._reader, MODEL)][-1] == current.move
        self.seen.append(current and current.version)


def test_promote_model_shows_readers_the_old_or_the_new_champion_complete_at_every_write(
    candidates, rules, tmp_path, monkeypatch
):
    store = candidates
    first = promote_model(store, "first", MODEL, "run").version
    judge(store, "second", MODEL, rules)
    with monkeypatch.context() as patch:
        watching = Watching(store, tmp_path / "reader", patch)
        second = promote_model(store, "second", MODEL, "run").version
    moved = watching.seen.index(second)
    assert set(watching.seen[:moved]) == {first}
    assert set(watching.seen[moved:]) == {second}
    assert moved > 2 * len(files_of(store, second)) - 1  # nothing of the version comes later


def test_promote_model_when_the_copy_scores_golden_images_otherwise_moves_nothing(
    candidates, rules
):
    store = candidates
    first = promote_model(store, "first", MODEL, "run").version
    judge(store, "second", MODEL, rules)
    loads = iter((False, True))

    def load(folder: Path) -> DummyScorer:
        return DummyScorer(read_metadata(folder), blind=next(loads))

    with pytest.raises(IntegrityError, match="golden images differently"):
        promote_model(store, "second", MODEL, "run", load=load)
    assert versions_moved_to(store) == [first]


def test_promote_model_when_a_stored_file_changed_refuses_before_it_is_loaded(
    candidates, monkeypatch
):
    store = candidates
    version = promote_and_die(store, monkeypatch, BEFORE_THE_MOVE)
    store.put(f"{ModelKeys(MODEL).version(version)}saved_model.pb", b"changed")
    with pytest.raises(IntegrityError, match=r"saved_model\.pb"):
        promote_model(store, "first", MODEL, "run", load=must_not_be_called)
    assert champion(store, MODEL) is None


def test_promote_model_keeps_who_decided_and_where_in_the_history(candidates):
    store = candidates
    promote_model(store, "first", MODEL, "ann", approval="approved in train_model/run-1")
    (move,) = history(store, MODEL)
    assert move.by == "ann"
    assert move.reason == "training run first passed the gate, approved in train_model/run-1"


def test_promote_by_hand_proves_a_version_that_was_never_champion(candidates, monkeypatch):
    store = candidates
    version = promote_and_die(store, monkeypatch, BEFORE_THE_MOVE)

    def blinded(folder: Path) -> DummyScorer:
        return DummyScorer(read_metadata(folder), blind=True)

    with pytest.raises(IntegrityError, match="golden images differently"):
        promote_by_hand(store, MODEL, version, Decision("ann", "hope"), load=blinded)
    assert champion(store, MODEL) is None
    assert promote_by_hand(store, MODEL, version, Decision("ann", "looked at it"))
    assert present(store) == version


def test_promote_by_hand_of_a_former_champion_needs_no_network(candidates, rules):
    store = candidates
    first = promote_model(store, "first", MODEL, "run").version
    judge(store, "second", MODEL, rules)
    promote_model(store, "second", MODEL, "run")
    decision = Decision("ann", "the old one was better")
    assert promote_by_hand(store, MODEL, first, decision, load=must_not_be_called)
    assert present(store) == first
    store.put(f"{ModelKeys(MODEL).version(first)}gate.json", b"{}")
    with pytest.raises(IntegrityError, match=r"gate\.json"):
        promote_by_hand(store, MODEL, first, decision, load=must_not_be_called)


def test_promote_model_when_the_gate_was_not_passed_is_refused(candidates, rules):
    store = candidates
    rules.write_text(RULES.replace("threshold: 1", "threshold: 1000"))
    with pytest.raises(GateFailedError, match="enough images"):
        judge(store, "first", MODEL, rules)
    with pytest.raises(GateFailedError, match="enough images"):
        promote_model(store, "first", MODEL, "run")
    assert list_versions(store, MODEL) == []


@pytest.fixture
def champion_first(candidates):
    """`first` is champion, and `blind` a candidate that is worse."""
    store = candidates
    promote_model(store, "first", MODEL, "run")
    put_trained(store, "blind")
    return store


def test_approval_request_shows_the_gate_the_champion_and_where_to_look(champion_first, rules):
    store = champion_first
    version = present(store)
    verdict = judge(store, "second", MODEL, rules)
    page = "http://mlflow/#/experiments/1/runs/abc"
    text = approval_request(store, "second", MODEL, verdict, page)
    assert "21 test images: AUC 1.000" in text
    for result in verdict.results:
        assert f"| {result.name} | {result.needed} | {result.got} | met |" in text
    assert f"| candidate | champion {MODEL} {version} |" in text
    assert "| ROC AUC, malignant against benign | 1.000 | 1.000 | +0.000" in text
    assert f"({page}/artifacts/report.html)" in text
    assert f"[MLflow run]({page})" in text
    assert store.address(TrainingKeys("second").candidacy(MODEL).report) in text


def test_approval_request_when_there_is_no_champion_and_no_mlflow_says_so(candidates, rules):
    verdict = judge(candidates, "first", MODEL, rules)
    text = approval_request(candidates, "first", MODEL, verdict, None)
    assert "There is no champion yet" in text
    assert "](" not in text


def present_champion(store: Store):
    current = champion(store, MODEL)
    assert current
    return current


def test_judge_scores_the_champion_on_the_candidates_images(champion_first, rules):
    store = champion_first
    promote_blind(store, rules)
    result = judge(store, "second", MODEL, rules)
    row = next(r for r in result.results if r.metric == "malignant.roc_auc")
    assert row.value == pytest.approx(0.5)  # 1.0 of `second` and 0.5 of a champion that is blind
    assert row.passed


def promote_blind(store: Store, rules: Path) -> None:
    """Make the worse one champion, as if by hand."""
    lenient = rules.with_name("lenient.yaml")
    lenient.write_text(RULES.partition("non_inferiority")[0])
    judge(store, "blind", MODEL, lenient)
    promote_model(store, "blind", MODEL, "hand")


def test_judge_when_the_candidate_loses_against_the_champion_fails(champion_first, rules):
    store = champion_first
    put_scores(store, "blind", blind=True)
    with pytest.raises(GateFailedError, match="separation, against the champion"):
        judge(store, "blind", MODEL, rules)
    kept = store.get(TrainingKeys("blind").candidacy(MODEL).gate)
    assert not GateResult.model_validate_json(kept).passed


def test_judge_prepares_the_images_as_the_champion_wants_them(store, rules):
    put_trained(store, "small", ImageSize(32, 40))  # the dummy refuses other sizes
    judge(store, "small", MODEL, rules)
    promote_model(store, "small", MODEL, "run")
    put_trained(store, "large", ImageSize(48, 64))
    judge(store, "large", MODEL, rules)
    compared = compare_with_champion(store, "large", present_champion(store), must_not_be_called)
    assert compared.malignant.other_roc_auc == 1.0
    assert compared.malignant.difference.value == 0


def test_comparison_by_another_version_of_the_code_is_not_used_again(store, rules):
    put_trained(store, "first", ImageSize(32, 40))
    judge(store, "first", MODEL, rules)
    promote_model(store, "first", MODEL, "run")
    put_trained(store, "second", ImageSize(32, 40))
    judge(store, "second", MODEL, rules)
    champion = present_champion(store)
    key = TrainingKeys("second").candidacy(MODEL).comparison(champion.version)
    kept = json.loads(store.get(key))
    store.put_json(key, kept | {"version": EVALUATION_VERSION - 1})
    with pytest.raises(AssertionError, match="loaded"):
        compare_with_champion(store, "second", champion, must_not_be_called)


def must_not_be_called(folder: Path) -> DummyScorer:
    raise AssertionError(f"loaded {folder}")


def test_judge_compares_once_with_each_champion(champion_first, rules):
    store = champion_first
    first = judge(store, "second", MODEL, rules)
    again = judge(store, "second", MODEL, rules, load=must_not_be_called)
    assert again == first
    promote_blind(store, rules)
    with pytest.raises(AssertionError, match="loaded"):
        judge(store, "second", MODEL, rules, load=must_not_be_called)


def test_judge_when_the_champion_is_of_the_same_training_finds_no_difference(champion_first, rules):
    store = champion_first
    store.delete([TrainingKeys("first").candidacy(MODEL).promotion])  # as if it died before
    store.put(DatasetKeys("made-up").image(LESIONS[0][0], "png"), b"not needed")
    result = judge(store, "first", MODEL, rules)
    row = next(r for r in result.results if r.metric == "malignant.roc_auc")
    assert (row.value, row.passed) == (0, True)


@pytest.mark.parametrize(
    ("champions", "comparability"),
    [
        ({"dataset": "elsewhere"}, Comparability.OTHER_DATASET),
        ({"malignant": ("mel", "bcc")}, Comparability.OTHER_CLASSES),
    ],
)
def test_judge_when_the_champion_is_not_comparable_lets_the_floors_decide(
    store, rules, champions, comparability
):
    put_trained(store, "other", **champions)
    judge(store, "other", MODEL, rules)
    promote_model(store, "other", MODEL, "run")
    put_trained(store, "blind")
    put_scores(store, "blind", blind=True)
    result = judge(store, "blind", MODEL, rules)
    assert result.champion is comparability
    assert result.passed


def test_judge_when_the_champion_is_damaged_says_so_and_what_to_do(champion_first, rules):
    store = champion_first
    version = present(store)
    store.put(f"{ModelKeys(MODEL).version(version)}saved_model.pb", b"changed")
    with pytest.raises(
        IntegrityError, match=rf"champion tiny {version} cannot be scored.*rollback"
    ):
        judge(store, "second", MODEL, rules)


def test_judge_when_an_original_was_changed_names_it(champion_first, rules):
    store = champion_first
    key = DatasetKeys("made-up").image(LESIONS[0][0], "png")
    store.put(key, b"changed")
    with pytest.raises(IntegrityError, match=rf"^\S*{LESIONS[0][0]}\.png does not match"):
        judge(store, "second", MODEL, rules)


def test_judge_leaves_report_and_model_card_and_a_version_has_them(candidates, tmp_path):
    store = candidates
    keys = TrainingKeys("first").candidacy(MODEL)
    assert b"not published yet" in store.get(keys.card_markdown)
    version = promote_model(store, "first", MODEL, "run").version
    copy = fetch_version(store, MODEL, version, tmp_path / "copy")
    assert (copy / "report.html").read_bytes() == store.get(keys.report)
    assert str(version) in (copy / "card.md").read_text()
    assert "<html" in (copy / "card.html").read_text()


def test_mlflow_is_told_the_verdict_and_where_report_card_and_version_are(
    store, rules, tmp_path, monkeypatch
):
    from mlflow import MlflowClient  # noqa: PLC0415  # takes seconds to import

    monkeypatch.chdir(tmp_path)  # where MLflow keeps artifacts of a local database
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    put_trained(store, "first")
    judge(store, "first", MODEL, rules, tracking_uri=uri)
    promoted = promote_model(store, "first", MODEL, "run", tracking_uri=uri)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("made-up")
    (run,) = client.search_runs([experiment.experiment_id])
    prefix = store.address(ModelKeys(MODEL).version(promoted.version))
    assert run.data.tags["dermascan.fingerprint"] == "first"
    assert run.data.tags["dermascan.gate"] == "passed"
    assert run.data.tags["dermascan.version"] == f"{MODEL}/{promoted.version}"
    assert run.data.tags["dermascan.report.html"] == f"{prefix}report.html"
    assert run.data.tags["dermascan.card.html"] == f"{prefix}card.html"
    assert run.data.metrics["test.malignant.roc_auc"] == 1.0
    assert run.info.status == "FINISHED"
    shown = client.get_model_version_by_alias(MODEL, "champion")
    assert shown.tags["dermascan.version"] == str(promoted.version)
    assert (shown.source, shown.run_id) == (prefix, run.info.run_id)
    kept = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert kept == {"report.html", "card.html", "card.md", "figures"}
