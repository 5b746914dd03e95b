"""An acceptance run through the command line; only what needs the stack is made up."""

import tarfile
import uuid
from pathlib import Path

import pytest
from accepted import TRAINING, VERSION, MadeUpSession, MadeUpWalkthrough, scored
from archives import isic_id, picture, row, write_folder
from typer.testing import CliRunner

import dermascan.walkthrough
from dermascan.acceptance.results import BEGIN, END
from dermascan.cli import app
from dermascan.layout import DatasetKeys, TrainingKeys
from dermascan.scores import read_scores, write_scores

IMAGES = 24


def pack(folder: Path, path: Path) -> Path:
    with tarfile.open(path, "w") as tar:
        tar.add(folder, folder.name)
    return path


@pytest.fixture
def data(tmp_path) -> Path:
    """Return an archive of a name that no other test has, for the inbox is shared by all."""
    folder = write_folder(tmp_path / "source" / "inside", [row(i) for i in range(IMAGES)])
    return pack(folder, tmp_path / f"made-up-{uuid.uuid4().hex[:8]}.tar")


@pytest.fixture
def other(tmp_path) -> Path:
    """Return another archive: four images of its own and one of the first archive."""
    numbers = [104, 105, 106, 107, 7]
    files = {f"{isic_id(i)}.jpg": picture(i) for i in numbers}
    folder = write_folder(tmp_path / "other" / "inside", [row(i) for i in numbers], files)
    return pack(folder, tmp_path / f"other-{uuid.uuid4().hex[:8]}.tar")


@pytest.fixture
def page(tmp_path) -> Path:
    (tmp_path / "project" / "dags").mkdir(parents=True)
    (tmp_path / "project" / "docs").mkdir()
    path = tmp_path / "project" / "docs" / "results.md"
    path.write_text(f"# By hand\n\n{BEGIN}\nold figures\n{END}\n\nalso by hand\n")
    return path


@pytest.fixture
def sessions(store, tmp_path, monkeypatch) -> list[MadeUpSession]:
    """Make up every session; the list may be given one to begin with."""
    made: list[MadeUpSession] = []

    def walkthrough(stack, audience, patience):
        session = made[-1] if made else MadeUpSession(store, audience)
        session._audience = audience
        made.append(session)
        return MadeUpWalkthrough(tmp_path / "project", session, audience)

    monkeypatch.setattr(dermascan.walkthrough, "Walkthrough", walkthrough)
    return made


@pytest.fixture
def accept(tmp_path, page, sessions):
    project = str(tmp_path / "project")

    def run(*arguments):
        words = ["--project", project, "acceptance", *map(str, arguments)]
        return CliRunner().invoke(app, words)

    return run


def test_acceptance_when_all_agrees_says_so_and_replaces_its_part_of_the_page(
    accept, data, page, sessions
):
    result = accept("--data", data)

    assert result.exit_code == 0, result.output
    assert f"{IMAGES} of {IMAGES} test images scored, none rejected" in result.output
    text = page.read_text()
    assert text.startswith(f"# By hand\n\n{BEGIN}\n")
    assert text.endswith(f"\n{END}\n\nalso by hand\n")
    assert "old figures" not in text
    assert f"make acceptance DATA={data.name}\n" in text
    assert "Other cameras" not in text


def test_acceptance_trains_with_default_params_and_infers_with_the_very_version(
    accept, data, sessions
):
    accept("--data", data)

    name = data.stem
    ingest, train, infer = sessions[0].confs
    assert ingest == ("ingest_isic", {"dataset": name, "start_training": False})
    assert train == ("train_model", {"dataset": name, "model": name})
    assert infer[1]["model"] == f"{name}/{VERSION}"
    assert infer[1]["prefix"].startswith("s3://acceptance-inbox/")


def test_acceptance_copies_the_test_images_unchanged_and_nothing_else(
    accept, data, store, sessions, tmp_path
):
    accept("--data", data)

    _, conf = sessions[0].confs[-1]
    inbox = store.in_bucket("acceptance-inbox")
    prefix = conf["prefix"].removeprefix("s3://acceptance-inbox/")
    copies = {found.key.removeprefix(prefix): inbox.get(found.key) for found in inbox.list(prefix)}
    assert copies == {f.name: f.read_bytes() for f in (tmp_path / "source/inside").glob("*.jpg")}


def test_acceptance_when_run_again_finds_everything_done(accept, data, page, store, sessions):
    accept("--data", data)
    before = page.read_text(), {found.key for found in store.list("")}
    result = accept("--data", data)

    assert result.exit_code == 0, result.output
    assert (page.read_text(), {found.key for found in store.list("")}) == before


def test_acceptance_when_a_score_differs_ends_with_1_and_leaves_the_page_alone(
    accept, data, page, store, sessions
):
    accept("--data", data)
    before = page.read_text()
    session = sessions[0]
    put = session._train_model

    def plant(run, conf):
        failed = put(run, conf)
        key = TrainingKeys(TRAINING).scores
        table = read_scores(store, key)
        table.loc[5, "p_nv"] += 2e-4
        write_scores(store, key, table)
        return failed

    session._train_model = plant
    result = accept("--data", data)

    assert result.exit_code == 1
    assert f"p_nv of {isic_id(5)} differs by 0.0002" in result.stderr
    assert page.read_text() == before


def test_acceptance_when_an_original_was_changed_in_the_bucket_ends_with_an_error(
    accept, data, store, sessions
):
    accept("--data", data)
    session = sessions[0]
    put = session._train_model

    def tamper(run, conf):
        store.put(DatasetKeys(data.stem).image(isic_id(3), "jpg"), picture(99))
        return put(run, conf)

    session._train_model = tamper
    result = accept("--data", data)

    assert result.exit_code == 2
    assert "does not match its SHA-256" in result.stderr


def test_acceptance_when_the_gate_refuses_shows_its_table_and_ends_with_1(
    accept, data, page, store, sessions
):
    sessions.append(MadeUpSession(store, None, passes=False))
    result = accept("--data", data)

    assert result.exit_code == 1
    assert "FAIL  enough | images" in result.output
    assert "error: the gate refused promotion" in result.stderr
    assert f"training/{TRAINING}/candidate/{data.stem}/report.html" in result.stderr
    assert "old figures" in page.read_text()


def test_acceptance_when_a_run_fails_ends_as_the_demo_does(accept, data, sessions, store):
    session = MadeUpSession(store, None)
    session._ingest_isic = lambda *_: ("validate",)
    sessions.append(session)
    result = accept("--data", data)

    assert result.exit_code == 1
    assert "its last words" in result.output
    assert "error: ingest_isic failed: the stack's logs are in logs" in result.stderr


def test_acceptance_when_given_another_archive_measures_on_it(accept, data, other, page):
    result = accept("--data", data, "--external", other)

    assert result.exit_code == 0, result.output
    text = page.read_text()
    assert "### Other cameras" in text
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {other.stem} |")]
    assert line.startswith(f"| {other.stem} | 4 | 2 |")
    assert "1 seen in training or testing, 0 undecided diagnoses, 0 rejected" in line
    assert f"make acceptance DATA={data.name} EXTERNAL={other.name}\n" in text


def test_acceptance_when_it_is_a_trial_leaves_the_page_alone_and_says_what_was_other(
    accept, data, page, sessions
):
    result = accept("--data", data, "-p", "epochs=1", "-p", "image_size=48x64")

    assert result.exit_code == 0, result.output
    assert sessions[0].confs[1][1]["epochs"] == 1
    assert sessions[0].confs[1][1]["image_size"] == "48x64"
    assert "old figures" in page.read_text()
    (section,) = page.parents[1].glob("state/acceptance/*/results.md")
    assert "**Not the default configuration:** epochs=1, image_size=48x64." in section.read_text()
    assert f"--data {data.name} --param epochs=1 --param image_size=48x64" in section.read_text()


@pytest.mark.parametrize("text", ["no markers\n", f"{END}\n{BEGIN}\n", f"{BEGIN}{BEGIN}{END}"])
def test_acceptance_when_the_page_has_no_place_for_it_refuses_before_any_work(
    accept, data, page, sessions, text
):
    page.write_text(text)

    result = accept("--data", data)

    assert result.exit_code == 2
    assert BEGIN in result.stderr
    assert sessions[0].confs == []


def test_acceptance_when_the_archive_is_hostile_refuses_it_before_anything_starts(
    accept, tmp_path, sessions
):
    path = tmp_path / "evil.tar"
    with tarfile.open(path, "w") as tar:
        tar.addfile(tarfile.TarInfo("../../evil"))

    result = accept("--data", path)

    assert result.exit_code == 2
    assert "cannot be unpacked" in result.stderr
    assert sessions[0].confs == []


def test_acceptance_when_two_archives_share_a_name_refuses_them(accept, data, sessions):
    result = accept("--data", data, "--external", data)

    assert result.exit_code == 2
    assert "same name" in result.stderr


def test_made_up_scores_know_something_so_that_agreement_means_something(tmp_path):
    folder = write_folder(tmp_path / "a", [row(i) for i in range(IMAGES)])

    assert scored(folder, "a")["p_malignant"].nunique() == IMAGES
