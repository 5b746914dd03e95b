"""The command that removes what nothing can reach any more."""

from datetime import timedelta
from typing import Annotated

import typer

from dermascan.commands.shared import console, open_store


def add_to(app: typer.Typer) -> None:
    """Add `gc` to the application."""
    app.command("gc")(collect)


def collect(
    context: typer.Context,
    older_than: Annotated[
        int, typer.Option(help="Days; what was changed later is kept, a job may be at work on it.")
    ] = 7,
    delete: Annotated[bool, typer.Option("--delete", help="Delete what is listed.")] = False,
) -> None:
    """List what nothing can reach any more, and delete it if asked to.

    Kept is all that a pointer, the history of a model, a dataset or a published version leads
    to; images, quarantine, predictions, reports and published versions are never touched.
    """
    from rich.table import Table  # noqa: PLC0415  # fast `--help`

    from dermascan import garbage  # noqa: PLC0415  # likewise

    store = open_store(context)
    found = garbage.find_garbage(store, timedelta(days=older_than))
    table = Table("what", "objects", "size", "changed", "why", box=None, pad_edge=False)
    for each in found:
        facts = (str(len(each.keys)), f"{each.size / 1e6:.1f} MB", f"{each.changed:%Y-%m-%d}")
        table.add_row(store.address(each.prefix), *facts, each.why)
    if found:
        console().print(table)
    total = f"{sum(len(each.keys) for each in found)} objects"
    size = f"{sum(each.size for each in found) / 1e6:.1f} MB"
    if not delete:
        typer.echo(f"{total}, {size} may go" + (": add --delete" if found else ""))
        return
    gone = [garbage.delete(store, each) for each in found]
    left = f", {gone.count(False)} groups changed meanwhile and were left" if False in gone else ""
    typer.echo(f"deleted of {total}, {size}: {gone.count(True)} groups{left}")
