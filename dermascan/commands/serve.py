"""The command that answers over HTTP."""

import logging
import os
from pathlib import Path
from typing import Annotated

import typer

from dermascan.commands.shared import open_store


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(serve)


def serve(  # noqa: PLR0913  # each is an option of the command
    context: typer.Context,
    *,
    model: Annotated[
        str,
        typer.Option(
            envvar="DERMASCAN_SERVING_MODEL", help="Name of the model whose champion answers."
        ),
    ] = "dermascan",
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 opens it to your network.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8090,
    api_key_file: Annotated[
        Path | None,
        typer.Option(help="File with the key that requests must show; made if it is missing."),
    ] = None,
    behind: Annotated[
        str | None,
        typer.Option(help="Addresses of proxies whose X-Forwarded-For names the client."),
    ] = None,
) -> None:
    """Score images over HTTP with the champion, and serve the page to drop them on.

    Limits are set by DERMASCAN_SERVING_* variables, see docs/api.md.
    """
    from dermascan.serving.guard import load_or_create_key  # noqa: PLC0415  # fast `--help`
    from dermascan.serving.limits import limits_from_environment  # noqa: PLC0415  # likewise
    from dermascan.serving.server import Address, serve  # noqa: PLC0415  # likewise

    limits = limits_from_environment(os.environ)
    key = load_or_create_key(api_key_file) if api_key_file else None
    logging.getLogger("dermascan").setLevel(logging.INFO)
    serve(open_store(context).settings, model, Address(host, port, behind), limits, key)
