from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from dermascan.errors import ConflictError, InputError, IntegrityError, NotFoundError
from dermascan.layout import ModelKeys
from dermascan.registry import (
    Decision,
    ModelReference,
    champion,
    claim_version,
    fetch_version,
    history,
    list_versions,
    promote,
    publish_version,
    read_file,
    resolve_version,
    rollback,
)
from dermascan.storage import Store

ANN = Decision("ann", "better")
BOB = Decision("bob", "worse after all")


def versions_moved_to(store: Store) -> list[int]:
    return [entry.version for entry in history(store, "m")]


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


def test_fetch_version_when_a_file_is_gone_refuses_it(store, published, tmp_path):
    store.delete(["models/m/2/variables/variables.index"])
    with pytest.raises(IntegrityError, match=r"variables\.index.*backup"):
        fetch_version(store, "m", 2, tmp_path / "copy")


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"[]",
        b"{}",
        b'{"model": "m", "version": 2, "files": [{"path": "saved_model.pb"}]}',
        b'{"model": "m", "version": 1, "files": []}',
        b'{"model": "other", "version": 2, "files": []}',
        b'{"model": "m", "version": 2, "files": [{"path": "../1/x", "sha256": "", "size": 0}]}',
        b'{"model": "m", "version": 2, "files": [{"path": "/etc/x", "sha256": "", "size": 0}]}',
    ],
)
def test_version_when_its_manifest_is_not_its_own_is_refused(store, published, tmp_path, manifest):
    promote(store, "m", 1, ANN)
    store.put("models/m/2/MANIFEST.json", manifest)
    with pytest.raises(IntegrityError, match="manifest"):
        fetch_version(store, "m", 2, tmp_path / "copy")
    with pytest.raises(IntegrityError, match="manifest"):
        promote(store, "m", 2, ANN)
    with pytest.raises(IntegrityError, match="manifest"):
        resolve_version(store, ModelReference("m", "2"))
    assert versions_moved_to(store) == [1]


def test_read_file_returns_what_was_published_or_refuses_it(store, published):
    assert read_file(store, "m", 1, "saved_model.pb") == b"graph"
    with pytest.raises(NotFoundError, match=r"report\.html"):
        read_file(store, "m", 1, "report.html")
    store.put("models/m/1/saved_model.pb", b"another graph")
    with pytest.raises(IntegrityError, match=r"saved_model\.pb"):
        read_file(store, "m", 1, "saved_model.pb")


def test_rollback_to_a_damaged_version_is_refused(store, published):
    for version in (1, 2):
        promote(store, "m", version, ANN)
    store.put("models/m/1/saved_model.pb", b"another graph")
    with pytest.raises(IntegrityError, match=r"saved_model\.pb"):
        rollback(store, "m", "", BOB)
    assert versions_moved_to(store) == [1, 2]


def test_rollback_to_a_version_that_was_never_champion_says_what_proves_it(store, published):
    for version in (1, 2):
        promote(store, "m", version, ANN)
    with pytest.raises(InputError, match="models promote 3"):
        rollback(store, "m", "3", BOB)
    assert versions_moved_to(store) == [1, 2]


def test_version_without_manifest_does_not_exist(store, published, tmp_path):
    store.put("models/m/9/saved_model.pb", b"half an upload")
    assert list_versions(store, "m") == [1, 2, 3]
    with pytest.raises(NotFoundError, match="models list"):
        fetch_version(store, "m", 9, tmp_path / "copy")
    with pytest.raises(NotFoundError):
        promote(store, "m", 9, ANN)
    assert champion(store, "m") is None


def test_publish_version_when_content_differs_is_refused_and_writes_nothing(store, published):
    before = {found.key: found.etag for found in store.list("models/m/1/")}
    (published / "saved_model.pb").write_bytes(b"other")
    (published / "report.html").write_bytes(b"new")
    with pytest.raises(IntegrityError, match="other content"):
        publish_version(store, "m", 1, published)
    assert {found.key: found.etag for found in store.list("models/m/1/")} == before


def test_publish_version_when_a_try_died_before_the_manifest_replaces_its_files(
    store, published, tmp_path
):
    store.put("models/m/9/saved_model.pb", b"of the try that died")
    publish_version(store, "m", 9, published)
    publish_version(store, "m", 9, published)
    copy = fetch_version(store, "m", 9, tmp_path / "copy")
    assert (copy / "saved_model.pb").read_bytes() == b"graph"


def test_promote_and_rollback_move_the_pointer_and_keep_a_history(store, published):
    assert promote(store, "m", 1, ANN)
    assert promote(store, "m", 2, ANN)
    assert not promote(store, "m", 2, ANN)
    assert rollback(store, "m", "", BOB).version == 1
    moves = [(entry.move, entry.version, entry.by) for entry in history(store, "m")]
    assert moves == [(1, 1, "ann"), (2, 2, "ann"), (3, 1, "bob")]


def test_rollback_when_there_was_one_champion_only_says_so(store, published):
    promote(store, "m", 1, ANN)
    with pytest.raises(InputError, match="one champion only"):
        rollback(store, "m", "", BOB)


def test_rollback_when_one_request_is_tried_again_moves_once(store, published):
    for version in (1, 2):
        promote(store, "m", version, ANN)
    request = Decision("dag/run", "bad", request="dag/run")
    assert rollback(store, "m", "", request).version == 1
    store.delete([ModelKeys("m").history_entry(3)])  # as if it had died before it could record
    assert rollback(store, "m", "", request).version == 1
    assert versions_moved_to(store) == [1, 2, 1]


def test_rollback_when_one_request_is_tried_again_after_a_later_move_leaves_that(store, published):
    for version in (1, 2):
        promote(store, "m", version, ANN)
    request = Decision("dag/run", "bad", request="dag/run")
    rollback(store, "m", "", request)
    promote(store, "m", 3, ANN)
    assert rollback(store, "m", "", request).version == 3
    assert versions_moved_to(store) == [1, 2, 1, 3]


@pytest.mark.parametrize("requests", [("dag/first", "dag/second"), (None, None)])
def test_rollback_when_requests_differ_or_have_no_name_moves_each_time(store, published, requests):
    for version in (1, 2):
        promote(store, "m", version, ANN)
    for request in requests:
        rollback(store, "m", "", Decision("bob", "to and fro", request))
    assert versions_moved_to(store) == [1, 2, 1, 2]


def test_promote_when_its_request_moved_the_pointer_before_leaves_it(store, published):
    request = Decision("dag/run", "passed the gate", request="training/abc")
    promote(store, "m", 1, request)
    promote(store, "m", 2, ANN)
    assert not promote(store, "m", 1, request)
    assert versions_moved_to(store) == [1, 2]


def test_promote_when_the_guard_objects_leaves_the_pointer(store, published):
    promote(store, "m", 1, ANN)

    def guard(current):
        assert current.version == 1
        raise ConflictError("not this one")

    with pytest.raises(ConflictError, match="not this one"):
        promote(store, "m", 2, ANN, guard)
    assert versions_moved_to(store) == [1]


def test_champion_when_written_before_there_were_requests_can_be_read(store, published):
    promote(store, "m", 1, ANN)
    record = store.get_json(ModelKeys("m").champion)
    del record["request"]
    for key in (ModelKeys("m").champion, ModelKeys("m").history_entry(1)):
        store.put_json(key, record)
    promote(store, "m", 2, Decision("dag/run", "", request="dag/run"))
    assert [entry.request for entry in history(store, "m")] == [None, "dag/run"]


def test_history_when_the_last_move_is_not_recorded_yet_has_it_all_the_same(store, published):
    for version in (1, 2):
        promote(store, "m", version, ANN)
    store.delete(["models/m/history/000002.json"])
    assert versions_moved_to(store) == [1, 2]


def test_history_when_an_earlier_move_is_gone_is_refused(store, published):
    for version in (1, 2):
        promote(store, "m", version, ANN)
    store.delete(["models/m/history/000001.json"])
    with pytest.raises(IntegrityError, match=r"000001\.json is gone"):
        versions_moved_to(store)


def test_promote_when_pointer_and_history_tell_of_different_moves_is_refused(store, published):
    for version in (1, 2):
        promote(store, "m", version, ANN)
    key = ModelKeys("m").champion
    store.put_json(key, store.get_json(key) | {"version": 3})  # by hand, past the registry
    with pytest.raises(IntegrityError, match=r"000002\.json and champion\.json"):
        promote(store, "m", 1, BOB)


def test_promote_when_somebody_else_is_faster_says_who_and_changes_nothing(store, published):
    promote(store, "m", 1, ANN)

    def guard(_):
        promote(store, "m", 3, BOB)

    with pytest.raises(ConflictError, match=r"version 2 was not made .*bob made version 3"):
        promote(store, "m", 2, ANN, guard)
    assert versions_moved_to(store) == [1, 3]


def test_promote_when_its_answer_was_lost_and_others_moved_on_counts_as_won(
    store, published, monkeypatch
):
    promote(store, "m", 1, ANN)
    move = Store.move_pointer

    def lose_the_answer(self, key, value, tag):
        monkeypatch.undo()
        move(self, key, value, tag)
        promote(store, "m", 3, BOB)
        raise ConflictError("tried again after the answer was lost")

    monkeypatch.setattr(Store, "move_pointer", lose_the_answer)
    assert promote(store, "m", 2, ANN)
    assert versions_moved_to(store) == [1, 2, 3]


def test_promote_when_a_twin_of_its_request_is_faster_has_nothing_to_do(store, published):
    request = Decision("dag/run", "twice at once", request="dag/run")

    def guard(_):
        promote(store, "m", 2, request)

    assert not promote(store, "m", 2, request, guard)
    assert versions_moved_to(store) == [2]


def test_promote_when_the_mover_died_before_recording_repairs_the_history(store, published):
    promote(store, "m", 1, ANN)
    store.delete(["models/m/history/000001.json"])
    promote(store, "m", 2, ANN)
    assert [entry.move for entry in history(store, "m")] == [1, 2]


def test_promote_when_many_try_at_once_loses_no_move(store, published):
    def attempt(version: int) -> bool:
        try:
            return promote(store, "m", version, Decision(f"p{version}", "race"))
        except ConflictError:
            return False

    with ThreadPoolExecutor(6) as pool:
        won = sum(pool.map(attempt, [1, 2, 3] * 8))
    moves = [entry.move for entry in history(store, "m")]
    assert moves == list(range(1, won + 1))
    current = champion(store, "m")
    assert current
    assert current.move == won


NOON = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)


def test_claim_version_when_taken_takes_the_next(store):
    assert claim_version(store, "m", "a", NOON) == 20260131120000
    assert claim_version(store, "m", "b", NOON) == 20260131120001


def test_claim_version_when_its_owner_died_before_publishing_returns_the_same(store, published):
    claimed = claim_version(store, "m", "a", NOON)
    assert claim_version(store, "m", "a") == claimed
    publish_version(store, "m", claimed, published)
    assert claim_version(store, "m", "a") > claimed


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
