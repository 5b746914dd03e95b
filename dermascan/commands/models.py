"""Commands that show model versions and choose the champion among them."""

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dermascan.commands.shared import console, open_store, tracking_uri

if TYPE_CHECKING:
    from dermascan.registry import Champion
    from dermascan.storage import Store

app = typer.Typer(help="Model versions, the champion among them, and how it came to be.")

Name = Annotated[str, typer.Option(help="Name of the model.")]
Reason = Annotated[str, typer.Option(help="Kept in the history.")]


@app.command("list")
def list_(context: typer.Context, model: Name = "dermascan") -> None:
    """List the versions with their size and figures, the champion marked."""
    from rich.table import Table  # noqa: PLC0415  # fast `--help`

    from dermascan.registry import history  # noqa: PLC0415  # likewise
    from dermascan.versions import list_versions  # noqa: PLC0415  # likewise

    store = open_store(context)
    latest = {move.version: move for move in history(store, model)}
    present = max(latest.values(), key=lambda move: move.move, default=None)
    table = Table("version", "files", "AUC", "champion", box=None, pad_edge=False)
    for version in list_versions(store, model):
        move = latest.get(version)
        state = f"{'since' if move == present else 'was, from'} {move.since}" if move else ""
        table.add_row(str(version), *_contents(store, model, version), state)
    console().print(table)
    if present is None:
        typer.echo(f"{model} has no champion yet")


def _contents(store: "Store", model: str, version: int) -> tuple[str, str]:
    """Return the size of a version and its ROC AUC, or what is wrong with it."""
    import json  # noqa: PLC0415  # fast `--help`

    from dermascan.errors import IntegrityError, NotFoundError  # noqa: PLC0415  # likewise
    from dermascan.versions import read_file, version_files  # noqa: PLC0415  # likewise

    try:
        size = sum(file.size for file in version_files(store, model, version))
        evaluation = json.loads(read_file(store, model, version, "evaluation.json"))
        auc = evaluation["malignant"]["roc_auc"]["value"]
    except IntegrityError:
        return "DAMAGED", ""
    except (NotFoundError, KeyError, TypeError):
        return f"{size / 1e6:.1f} MB", ""
    return f"{size / 1e6:.1f} MB", "" if auc is None else f"{auc:.3f}"


@app.command()
def show(
    context: typer.Context, version: str = typer.Argument("champion"), model: Name = "dermascan"
) -> None:
    """Compare a version with its manifest; show its figures and the moves of the champion."""
    from dermascan.layout import ModelKeys  # noqa: PLC0415  # fast `--help`
    from dermascan.registry import ModelReference, history, resolve_version  # noqa: PLC0415  # fast `--help`
    from dermascan.versions import require_intact, version_files  # noqa: PLC0415  # likewise

    store = open_store(context)
    number = resolve_version(store, ModelReference(model, version))
    require_intact(store, model, number)
    files = version_files(store, model, number)
    prefix = ModelKeys(model).version(number)
    typer.echo(f"{model} version {number}: {store.address(prefix)}")
    size = sum(file.size for file in files) / 1e6
    typer.echo(f"{len(files)} files, {size:.1f} MB, all as the manifest lists them")
    if any(file.path == "evaluation.json" for file in files):
        typer.echo(_figures(store, model, number))
    for move in history(store, model):
        typer.echo(_line(move))


def _figures(store: "Store", model: str, version: int) -> str:
    from pydantic import ValidationError  # noqa: PLC0415  # fast `--help`

    from dermascan.assessment.measurement import headline  # noqa: PLC0415  # likewise
    from dermascan.evaluation import Evaluation  # noqa: PLC0415  # likewise
    from dermascan.versions import read_file  # noqa: PLC0415  # likewise

    body = read_file(store, model, version, "evaluation.json")
    try:
        return headline(Evaluation.model_validate_json(body))
    except ValidationError:
        return "evaluated by another release of DermaScan, see its evaluation.json"


@app.command()
def fetch(
    context: typer.Context,
    version: Annotated[str, typer.Argument(help="champion or a version number.")],
    folder: Annotated[Path, typer.Argument(help="Where to; must not exist, or be empty.")],
    model: Name = "dermascan",
) -> None:
    """Copy a version to a folder, for `dermascan predict --model-folder` on any machine."""
    from dermascan.inference.local_model import fetch_copy  # noqa: PLC0415  # fast `--help`
    from dermascan.registry import ModelReference, resolve_version  # noqa: PLC0415  # likewise

    store = open_store(context)
    number = resolve_version(store, ModelReference(model, version))
    found = fetch_copy(store, model, number, folder)
    typer.echo(f"{found} is in {folder}, each file as the manifest lists it")


@app.command()
def promote(
    context: typer.Context, version: str, model: Name = "dermascan", reason: Reason = "by hand"
) -> None:
    """Make a version the champion, after it was read back and, if it never was, proven."""
    from dermascan.experiment import promote_by_hand  # noqa: PLC0415  # fast `--help`
    from dermascan.registry import Decision, ModelReference, resolve_version  # noqa: PLC0415  # likewise

    store = open_store(context)
    number = resolve_version(store, ModelReference(model, version))
    moved = promote_by_hand(store, model, number, Decision(getpass.getuser(), reason))
    typer.echo(f"{model} version {number} is champion" + ("" if moved else " already"))
    _mirror(context, store, model)


@app.command()
def rollback(
    context: typer.Context,
    to_version: Annotated[str, typer.Argument(help="Default: the one before.")] = "",
    model: Name = "dermascan",
    reason: Reason = "rolled back by hand",
) -> None:
    """Make an earlier champion champion again."""
    from dermascan.registry import Decision, rollback  # noqa: PLC0415  # fast `--help`

    store = open_store(context)
    decision = Decision(getpass.getuser(), reason)
    typer.echo(_line(rollback(store, model, to_version, decision)))
    _mirror(context, store, model)


def _mirror(context: typer.Context, store: "Store", model: str) -> None:
    from dermascan.model_mirror import mirror_champion  # noqa: PLC0415  # fast `--help`

    if uri := tracking_uri(context):
        mirror_champion(store, model, uri)


def _line(move: "Champion") -> str:
    return f"{move.since}  version {move.version}  by {move.by}: {move.reason}"
