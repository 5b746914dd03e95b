import json
from pathlib import Path

import pytest

from dermascan.errors import InputError, IntegrityError, NotFoundError
from dermascan.inference.local_model import LocalModel, ModelCache, fetch_copy, open_copy
from dermascan.registry import Decision, ModelReference, promote
from dermascan.storage import Store
from dermascan.versions import MANIFEST, publish_version

CHAMPION = ModelReference("m", "champion")


@pytest.fixture
def versions(store: Store, tmp_path: Path) -> Store:
    """Publish versions 1 and 2 of `m`, and make 1 the champion."""
    files = tmp_path / "published"
    (files / "variables").mkdir(parents=True)
    (files / "saved_model.pb").write_bytes(b"graph")
    (files / "variables" / "variables.index").write_bytes(b"weights")
    for version in (1, 2):
        publish_version(store, "m", version, files)
    promote(store, "m", 1, Decision("ann", "good"))
    return store


def test_fetch_copy_leaves_a_whole_version_that_can_be_opened(versions, tmp_path):
    found = fetch_copy(versions, "m", 2, tmp_path / "new" / "copy")
    assert found == open_copy(tmp_path / "new" / "copy")
    assert str(found) == "m version 2"
    assert (found.folder / "variables" / "variables.index").read_bytes() == b"weights"


def test_fetch_copy_into_a_folder_with_something_in_it_refuses(versions, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_bytes(b"")
    with pytest.raises(InputError, match="is there already"):
        fetch_copy(versions, "m", 2, tmp_path / "full")


def test_fetch_copy_when_the_version_is_damaged_leaves_nothing(versions, tmp_path):
    versions.put("models/m/2/saved_model.pb", b"another graph")
    with pytest.raises(IntegrityError):
        fetch_copy(versions, "m", 2, tmp_path / "copies" / "2")
    assert list((tmp_path / "copies").iterdir()) == []


@pytest.mark.parametrize("change", ["saved_model.pb", "variables/variables.index", MANIFEST])
def test_open_copy_when_a_file_was_changed_refuses(versions, tmp_path, change):
    fetch_copy(versions, "m", 2, tmp_path / "copy")
    (tmp_path / "copy" / change).write_bytes(b"changed")
    with pytest.raises(IntegrityError):
        open_copy(tmp_path / "copy")


def test_open_copy_when_a_file_is_gone_refuses(versions, tmp_path):
    fetch_copy(versions, "m", 2, tmp_path / "copy")
    (tmp_path / "copy" / "variables" / "variables.index").unlink()
    with pytest.raises(IntegrityError, match=r"variables\.index"):
        open_copy(tmp_path / "copy")


def test_open_copy_of_a_model_that_was_never_published_has_no_version(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"graph")
    assert open_copy(tmp_path) == LocalModel(tmp_path)


def test_open_copy_without_a_model_says_how_to_get_one(tmp_path):
    with pytest.raises(NotFoundError, match="models fetch"):
        open_copy(tmp_path)


def test_cache_keeps_the_champion_for_the_time_when_no_stack_runs(versions, tmp_path):
    cache = ModelCache(tmp_path / "state")
    with pytest.raises(NotFoundError, match="dermascan up"):
        cache.kept(CHAMPION)
    assert cache.wanted(versions, CHAMPION).version == 1
    assert cache.wanted(versions, ModelReference("m", "2")).version == 2
    assert cache.kept(CHAMPION).version == 1
    assert cache.kept(ModelReference("m", "2")).version == 2
    promote(versions, "m", 2, Decision("ann", "better"))
    assert cache.wanted(versions, CHAMPION).version == 2
    assert cache.kept(CHAMPION).version == 2


def test_cache_when_a_copy_was_damaged_fetches_a_new_one(versions, tmp_path):
    cache = ModelCache(tmp_path / "state")
    first = cache.wanted(versions, CHAMPION)
    (first.folder / "saved_model.pb").write_bytes(b"changed")
    with pytest.raises(IntegrityError):
        cache.kept(CHAMPION)
    assert cache.wanted(versions, CHAMPION) == first
    assert (first.folder / "saved_model.pb").read_bytes() == b"graph"


def test_manifest_of_a_copy_is_the_one_that_was_published(versions, tmp_path):
    found = fetch_copy(versions, "m", 1, tmp_path / "copy")
    manifest = json.loads((found.folder / MANIFEST).read_bytes())
    assert (manifest["model"], manifest["version"]) == ("m", 1)
