"""Execute the notebooks in place, and keep of the outcome what is the same on every machine."""

import base64
import hashlib
import io
import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image
from workbench import STATE_VARIABLE

HERE = Path(__file__).resolve().parent
CELL_SECONDS = 600
COLOURS = 96  # of a picture that is kept
SHUTDOWN_SECONDS = 60.0  # a notebook stops the S3 server that it started
# What TensorFlow says of the machine, and charts drawn without a screen.
ENVIRONMENT = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
}
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


def notebooks(folder: Path = HERE) -> list[Path]:
    """Return the notebooks of a folder in the order of their numbers."""
    return sorted(folder.glob("[0-9]*.ipynb"))


def sources_digest(notebook: nbformat.NotebookNode) -> str:
    """Name the code of a notebook, to tell whether its outputs belong to it."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(code).encode()).hexdigest()


def execute(path: Path, state: Path, seconds: int = CELL_SECONDS) -> nbformat.NotebookNode:
    """Execute a notebook from the folder that it is in.

    Args:
        path: the notebook; left as it is.
        state: where notebooks that are executed one after the other keep their work.
        seconds: that a cell may take.

    Returns:
        The notebook with its outputs, and no trace of when and where it was executed.

    Raises:
        CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    os.environ.update(ENVIRONMENT | {STATE_VARIABLE: str(state)})
    resources = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(notebook, timeout=seconds, kernel_name="python3", resources=resources)
    client.create_kernel_manager().shutdown_wait_time = SHUTDOWN_SECONDS
    client.execute()
    return _without_traces(notebook)


def _without_traces(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
            for data in (each.data for each in cell.outputs if "image/png" in each.get("data", {})):
                data["image/png"] = _smaller(data["image/png"])
    executed = {"sources": sources_digest(notebook)}
    language = {"name": "python"}
    notebook.metadata = {"kernelspec": KERNEL, "language_info": language, "dermascan": executed}
    return notebook


def _smaller(png: str) -> str:
    """Reduce a picture to few colours, since it is kept with the code."""
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    small = io.BytesIO()
    image.quantize(COLOURS).save(small, "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def main() -> None:
    """Execute all notebooks in place, or those that are named."""
    named = [Path(name).resolve() for name in sys.argv[1:]]
    with tempfile.TemporaryDirectory(prefix="dermascan-notebooks-") as state:
        for path in named or notebooks():
            nbformat.write(execute(path, Path(state)), path)
            print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")  # noqa: T201  # a program


if __name__ == "__main__":
    main()
