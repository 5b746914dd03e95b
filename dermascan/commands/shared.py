"""What all commands share: the project, errors as one line, output for people and pipes."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from dermascan.errors import DermaScanError

if TYPE_CHECKING:
    from rich.console import Console

    from dermascan.stack.embedded import EmbeddedStack
    from dermascan.storage import Store

USAGE_ERROR = 2
INTERRUPTED = 130


@dataclass(frozen=True)
class Common:
    """The options that stand before the command."""

    project: Path | None
    debug: bool


class ErrorReportingGroup(TyperGroup):
    """Shows an error that the library raises on purpose as one line, without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; end with code 2 and `error: ...` if it raises such an error."""
        try:
            return super().invoke(ctx)
        except DermaScanError as error:
            if isinstance(ctx.obj, Common) and ctx.obj.debug:
                raise
            typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
            raise typer.Exit(USAGE_ERROR) from error


@contextmanager
def ending_with_1(kind: type[DermaScanError]) -> Iterator[None]:
    """Show an error that says that the work failed, not that it was asked for wrongly."""
    try:
        yield
    except kind as error:
        typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
        raise typer.Exit(1) from error


def set_up_logging(*, debug: bool) -> None:
    """Send the library's log to standard error."""
    level = logging.DEBUG if debug else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")


def open_stack(context: typer.Context) -> "EmbeddedStack":
    """Return the embedded stack of the project that the user means."""
    from dermascan.stack.embedded import EmbeddedStack  # noqa: PLC0415  # fast `--help`
    from dermascan.stack.layout import StackPaths, find_project  # noqa: PLC0415  # fast `--help`

    common: Common = context.obj
    return EmbeddedStack(StackPaths.of_project(find_project(common.project)), tell=typer.echo)


def open_store(context: typer.Context) -> "Store":
    """Return the bucket of the environment if it names one, else of the embedded stack.

    `DERMASCAN_BUCKET` and the usual `AWS_*` variables name any S3 server.
    """
    from dermascan.settings import settings_from_environment  # noqa: PLC0415  # fast `--help`
    from dermascan.storage import Store  # noqa: PLC0415  # fast `--help`

    if "DERMASCAN_BUCKET" in os.environ:
        return Store(settings_from_environment().storage)
    stack = open_stack(context)
    stack.require_running()
    return Store(stack.storage_settings())


def tracking_uri(context: typer.Context) -> str | None:
    """Return the MLflow server that goes with `open_store`, None if there is none."""
    from dermascan.settings import settings_from_environment  # noqa: PLC0415  # fast `--help`

    if "DERMASCAN_BUCKET" in os.environ:
        return settings_from_environment().mlflow_tracking_uri
    return open_stack(context).mlflow_url


def console() -> "Console":
    """Return where tables go: as wide as the terminal, or wide enough when there is none."""
    from rich.console import Console  # noqa: PLC0415  # fast `--help`

    usual = Console()
    return usual if usual.is_terminal else Console(width=1000)
