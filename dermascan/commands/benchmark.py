"""The command that measures DermaScan beside the tools that do the same work."""

import importlib
import os
import re
import shlex
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from dermascan.commands.shared import open_stack
from dermascan.errors import InputError

CACHE = "benchmarks"
_MEASURES = re.compile(r"^def (trials|tables)\(", re.MULTILINE)


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(benchmark)


def benchmark(  # noqa: PLR0913, PLR0917  # each is an option of the command
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A module of `benchmarks/`, such as `upload`.")],
    data: Annotated[
        Path | None,
        typer.Option(help="Tar or folder of the official client. Default: drawn images."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that count.")] = 5,
    images: Annotated[
        int | None, typer.Option(min=1, help="How many images. Default: see the benchmark.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for NAME.md, .json and .png. Default: .dermascan/benchmarks."),
    ] = None,
) -> None:
    """Measure DermaScan and the alternatives in turn, and write a table and a plot."""
    paths = open_stack(context).paths
    command = shlex.join(["dermascan", *sys.argv[1:]])
    _require(name, paths.project / "benchmarks")
    paths.create()
    sys.path.insert(0, str(paths.project))  # `benchmarks/` is no part of the installed package
    from benchmarks import report, workspace  # noqa: PLC0415  # likewise
    from benchmarks.rounds import compare  # noqa: PLC0415  # likewise
    from benchmarks.tables import TableReport  # noqa: PLC0415  # likewise

    module = importlib.import_module(f"benchmarks.{name}")
    started, load = datetime.now(UTC), os.getloadavg()[0]
    cache = paths.state / CACHE
    cache.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="dermascan-benchmark-") as scratch:
        space = workspace.Workspace(Path(scratch), cache, data, images, _progress)
        what = (name, module.TITLE, module.AIM, command)
        made: report.Report | TableReport
        if hasattr(module, "tables"):
            tables = list(module.tables(space))
            origin = getattr(module, "ORIGIN", space.origin)
            conditions = report.Conditions.since(started, load, origin)
            made = TableReport(*what, tables, conditions)
        else:
            outcomes = [compare(t, rounds, _progress) for t in module.trials(space)]
            conditions = report.Conditions.since(started, load, space.origin)
            made = report.Report(*what, outcomes, conditions)
    typer.echo(made.markdown())
    for path in made.write(out or cache):
        typer.echo(path)


def _require(name: str, folder: Path) -> None:
    files = sorted(folder.glob("*.py"))
    texts = {file.stem: file.read_text(encoding="utf-8") for file in files}
    names = [stem for stem, text in texts.items() if _MEASURES.search(text)]
    if name not in names:
        raise InputError(f"there is no benchmark {name!r}: use one of {', '.join(names)}")


def _progress(line: str) -> None:
    typer.echo(line, err=True)
