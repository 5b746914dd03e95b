"""Commands that show model versions and choose the champion among them."""

import getpass
from typing import TYPE_CHECKING, Annotated

import typer

from dermascan.commands.shared import console, open_store

if TYPE_CHECKING:
    from dermascan.registry import Champion

app = typer.Typer(help="Model versions, the champion among them, and how it came to be.")

Name = Annotated[str, typer.Option(help="Name of the model.")]


@app.command("list")
def list_(context: typer.Context, model: Name = "dermascan") -> None:
    """List the versions, the champion marked."""
    from rich.table import Table  # noqa: PLC0415  # fast `--help`

    from dermascan.registry import champion, list_versions  # noqa: PLC0415  # fast `--help`

    store = open_store(context)
    current = champion(store, model)
    table = Table("version", "champion", box=None, pad_edge=False)
    for version in list_versions(store, model):
        chosen = current is not None and current.version == version
        table.add_row(str(version), f"since {current.since}" if chosen and current else "")
    console().print(table)


@app.command()
def show(
    context: typer.Context, version: str = typer.Argument("champion"), model: Name = "dermascan"
) -> None:
    """Show a version's figures, its files' place and the moves of the champion."""
    from pydantic import ValidationError  # noqa: PLC0415  # likewise

    from dermascan.evaluation import Evaluation  # noqa: PLC0415  # fast `--help`
    from dermascan.experiment import headline  # noqa: PLC0415  # fast `--help`
    from dermascan.layout import ModelKeys  # noqa: PLC0415  # fast `--help`
    from dermascan.registry import ModelReference, history, resolve_version  # noqa: PLC0415  # fast `--help`

    store = open_store(context)
    number = resolve_version(store, ModelReference(model, version))
    prefix = ModelKeys(model).version(number)
    typer.echo(f"{model} version {number}: {store.address(prefix)}")
    key = f"{prefix}evaluation.json"
    try:
        typer.echo(headline(Evaluation.model_validate_json(store.get(key))))
    except ValidationError:
        typer.echo(f"evaluated by another release of DermaScan, see {store.address(key)}")
    for move in history(store, model):
        typer.echo(_line(move))


@app.command()
def promote(
    context: typer.Context,
    version: str,
    model: Name = "dermascan",
    reason: Annotated[str, typer.Option(help="Kept in the history.")] = "promoted by hand",
) -> None:
    """Make a version the champion."""
    from dermascan.registry import Decision, ModelReference, promote, resolve_version  # noqa: PLC0415  # fast `--help`

    store = open_store(context)
    number = resolve_version(store, ModelReference(model, version))
    moved = promote(store, model, number, Decision(getpass.getuser(), reason))
    typer.echo(f"{model} version {number} is champion" + ("" if moved else " already"))


@app.command()
def rollback(
    context: typer.Context,
    to_version: Annotated[str, typer.Argument(help="Default: the one before.")] = "",
    model: Name = "dermascan",
    reason: Annotated[str, typer.Option(help="Kept in the history.")] = "rolled back by hand",
) -> None:
    """Make an earlier version the champion again."""
    from dermascan.registry import Decision, rollback  # noqa: PLC0415  # fast `--help`

    decision = Decision(getpass.getuser(), reason)
    champion = rollback(open_store(context), model, to_version, decision)
    typer.echo(_line(champion))


def _line(move: "Champion") -> str:
    return f"{move.since}  version {move.version}  by {move.by}: {move.reason}"
