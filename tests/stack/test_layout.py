import pytest

from dermascan.errors import InputError
from dermascan.stack.layout import StackPaths, find_project, write_private


def test_create_when_new_makes_a_folder_for_its_owner_only(tmp_path):
    paths = StackPaths.of_project(tmp_path)

    paths.create()
    paths.create()

    assert paths.state.stat().st_mode & 0o777 == 0o700
    assert paths.logs.is_dir()


def test_create_when_the_folder_was_open_to_others_closes_it(tmp_path):
    paths = StackPaths.of_project(tmp_path)
    paths.state.mkdir(mode=0o755)

    paths.create()

    assert paths.state.stat().st_mode & 0o777 == 0o700


def test_write_private_when_it_replaces_a_public_file_is_private(tmp_path):
    path = tmp_path / "secret"
    path.write_text("old")
    path.chmod(0o644)

    write_private(path, "new")

    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_find_project_when_named_prefers_that_to_the_environment(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    environment = {"DERMASCAN_PROJECT": str(tmp_path / "b")}

    assert find_project(tmp_path / "a", environment) == tmp_path / "a"
    assert find_project(None, environment) == tmp_path / "b"


def test_find_project_when_inside_one_finds_its_top(tmp_path, monkeypatch):
    inside = tmp_path / "notebooks" / "deep"
    inside.mkdir(parents=True)
    (tmp_path / "dags").mkdir()
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(inside)

    assert find_project(None, {}) == tmp_path


def test_find_project_when_the_named_folder_is_missing_says_so(tmp_path):
    with pytest.raises(InputError, match=r"no project folder .*missing"):
        find_project(tmp_path / "missing", {})
