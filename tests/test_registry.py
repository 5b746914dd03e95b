from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from dermascan.errors import ConflictError, InputError, IntegrityError, NotFoundError
from dermascan.registry import (
    ModelReference,
    champion,
    claim_version,
    fetch_version,
    history,
    list_versions,
    promote,
    publish_version,
    resolve_version,
    rollback,
)
from dermascan.storage import Store


@pytest.fixture
def published(store: Store, tmp_path):
    folder = tmp_path / "model"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables" / "variables.index").write_bytes(b"weights")
    for version in (1, 2, 3):
        publish_version(store, "m", version, folder)
    return folder


def test_fetch_version_returns_the_files_that_were_published(store, published, tmp_path):
    copy = fetch_version(store, "m", 1, tmp_path / "copy")
    assert (copy / "saved_model.pb").read_bytes() == b"graph"
    assert (copy / "variables" / "variables.index").read_bytes() == b"weights"


def test_fetch_version_when_a_file_was_changed_refuses_it(store, published, tmp_path):
    store.put("models/m/2/saved_model.pb", b"another graph")
    with pytest.raises(IntegrityError, match=r"saved_model\.pb"):
        fetch_version(store, "m", 2, tmp_path / "copy")


def test_version_without_manifest_does_not_exist(store, published, tmp_path):
    store.put("models/m/9/saved_model.pb", b"half an upload")
    assert list_versions(store, "m") == [1, 2, 3]
    with pytest.raises(NotFoundError, match="models list"):
        fetch_version(store, "m", 9, tmp_path / "copy")
    with pytest.raises(NotFoundError):
        promote(store, "m", 9, "test", "no")
    assert champion(store, "m") is None


def test_publish_version_when_content_differs_is_refused(store, published):
    (published / "saved_model.pb").write_bytes(b"other")
    with pytest.raises(IntegrityError):
        publish_version(store, "m", 1, published)


def test_promote_and_rollback_move_the_pointer_and_keep_a_history(store, published):
    assert promote(store, "m", 1, "ann", "first")
    assert promote(store, "m", 2, "ann", "better")
    assert not promote(store, "m", 2, "ann", "again")
    assert rollback(store, "m", "", "bob", "worse after all").version == 1
    moves = [(entry.move, entry.version, entry.by) for entry in history(store, "m")]
    assert moves == [(1, 1, "ann"), (2, 2, "ann"), (3, 1, "bob")]


def test_rollback_when_there_was_one_champion_only_says_so(store, published):
    promote(store, "m", 1, "ann", "first")
    with pytest.raises(InputError, match="one champion only"):
        rollback(store, "m", "", "bob", "")


def test_promote_when_the_mover_died_before_recording_repairs_the_history(store, published):
    promote(store, "m", 1, "ann", "first")
    store.delete(["models/m/history/000001.json"])
    promote(store, "m", 2, "ann", "second")
    assert [entry.move for entry in history(store, "m")] == [1, 2]


def test_promote_when_many_try_at_once_loses_no_move(store, published):
    def attempt(version: int) -> bool:
        try:
            return promote(store, "m", version, f"p{version}", "race")
        except ConflictError:
            return False

    with ThreadPoolExecutor(6) as pool:
        won = sum(pool.map(attempt, [1, 2, 3] * 8))
    moves = [entry.move for entry in history(store, "m")]
    assert moves == list(range(1, won + 1))
    current = champion(store, "m")
    assert current
    assert current.move == won


def test_claim_version_when_taken_takes_the_next(store):
    now = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)
    assert claim_version(store, "m", "a", now) == 20260131120000
    assert claim_version(store, "m", "b", now) == 20260131120001


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("champion", ("dermascan", "champion")),
        ("20260131120000", ("dermascan", "20260131120000")),
        ("other", ("other", "champion")),
        ("other/7", ("other", "7")),
        ("other/", ("other", "champion")),
        ("", ("dermascan", "champion")),
    ],
)
def test_model_reference_parse_reads_every_form(text, expected):
    reference = ModelReference.parse(text)
    assert (reference.model, reference.version) == expected


def test_resolve_version_when_there_is_none_says_what_to_do(store):
    with pytest.raises(NotFoundError, match="train_model"):
        resolve_version(store, ModelReference("m", "champion"))
    with pytest.raises(InputError, match="no model version"):
        resolve_version(store, ModelReference("m", "latest"))
