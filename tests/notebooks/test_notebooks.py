"""The notebooks: what is committed, and that it can be made again."""

import base64
import importlib
import re
import shutil
import struct
from pathlib import Path

import nbformat
import psutil
import pytest

PROJECT = Path(__file__).parents[2]
FOLDER = PROJECT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
NAMES = [path.stem for path in NOTEBOOKS]
BYTES_AT_MOST = 400_000
CELL_SECONDS = 240
TRACES = re.compile(r"/(tmp|home|root|Users|var|work|opt|mnt)/|[A-Z]:\\\\|20\d\d-\d\d-\d\dT")


@pytest.fixture(scope="module")
def copied(tmp_path_factory) -> Path:
    """Return a copy of the notebooks' folder, beside the rules that they read."""
    project = tmp_path_factory.mktemp("project")
    (project / "include").symlink_to(PROJECT / "include")
    shutil.copytree(FOLDER, project / "notebooks")
    return project / "notebooks"


@pytest.fixture(scope="module")
def state(tmp_path_factory) -> Path:
    """Return where a notebook finds the work of those before it."""
    return tmp_path_factory.mktemp("state")


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("execute")


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(notebook: nbformat.NotebookNode) -> list[str]:
    found = []
    for cell in code_cells(notebook):
        for output in cell.outputs:
            pictures = {name for name in output.get("data", {}) if name == "image/png"}
            data = {k: v for k, v in output.get("data", {}).items() if k not in pictures}
            found += [output.get("text", ""), *map(str, data.values())]
    return found


def test_there_are_the_four_notebooks():
    assert NAMES == [
        "01_exploration",
        "02_preprocessing",
        "03_training",
        "04_evaluation_and_inference",
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_committed_outputs_are_of_the_code_beside_them(path: Path, program):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert notebook.metadata["dermascan"]["sources"] == program.sources_digest(notebook), (
        "changed since it was executed: run make notebooks"
    )
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [out for cell in cells for out in cell.outputs if out.output_type == "error"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_committed_outputs_are_small_and_name_no_machine_and_no_time(path: Path):
    notebook = nbformat.read(path, as_version=4)
    assert path.stat().st_size < BYTES_AT_MOST
    assert not [text for text in texts(notebook) if TRACES.search(text)]
    assert set(notebook.metadata) == {"kernelspec", "language_info", "dermascan"}
    assert all(cell.metadata == {} for cell in notebook.cells)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_every_notebook_explains_and_says_what_it_is_not(path: Path):
    notebook = nbformat.read(path, as_version=4)
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert "Not a medical device" in prose
    assert len(prose.split()) > 250
    pictures = {kind for cell in code_cells(notebook) for kind in kinds(cell)}
    assert pictures & {"image/png", "image/svg+xml"}


def kinds(cell: nbformat.NotebookNode) -> set[str]:
    return {kind for output in cell.outputs for kind in output.get("data", {})}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", NAMES)
def test_notebook_when_executed_anew_ends_without_error(name: str, copied, state, program):
    executed = program.execute(copied / f"{name}.ipynb", state, CELL_SECONDS)
    committed = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    assert [kinds(cell) for cell in code_cells(executed)] == [
        kinds(cell) for cell in code_cells(committed)
    ]
    assert not [text for text in texts(executed) if TRACES.search(text)]
    assert not [each for each in psutil.process_iter(["cmdline"]) if belongs(each, state)]


def belongs(process: psutil.Process, folder: Path) -> bool:
    return any(str(folder) in part for part in process.info["cmdline"] or ())


def test_pictures_are_reduced_to_few_colours(program):
    for path in NOTEBOOKS:
        for cell in code_cells(nbformat.read(path, as_version=4)):
            for output in cell.outputs:
                if picture := output.get("data", {}).get("image/png"):
                    header = base64.b64decode(picture)[:29]
                    palette = 3
                    assert struct.unpack(">B", header[25:26]) == (palette,)


def test_open_bench_when_the_folder_is_in_use_says_so(state, program, monkeypatch, tmp_path):
    workbench = importlib.import_module("workbench")
    monkeypatch.setenv(workbench.STATE_VARIABLE, str(tmp_path))
    first = workbench._state_folder()
    assert first == tmp_path
    with pytest.raises(workbench.InputError, match="another notebook"):
        workbench._state_folder()
