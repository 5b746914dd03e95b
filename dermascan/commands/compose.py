"""Commands around `docker-compose.yml`: its secrets, and what its services must find."""

from typing import Annotated, Literal

import typer

from dermascan.commands.shared import Common

app = typer.Typer(help="Secrets and set-up for Docker Compose.", no_args_is_help=True)


@app.command()
def env(
    context: typer.Context,
    store: Annotated[
        Literal["minio", "seaweedfs"], typer.Option(help="Object storage that Compose starts.")
    ] = "minio",
) -> None:
    """Draw the secrets that Compose needs and write them to `.env`, unless that exists."""
    from dermascan.stack.compose import write_environment  # noqa: PLC0415  # fast `--help`
    from dermascan.stack.layout import find_project  # noqa: PLC0415  # fast `--help`

    common: Common = context.obj
    path = write_environment(find_project(common.project), store)
    typer.echo(f"wrote {path}, readable by you only: keep it, it opens what Compose stores")


@app.command()
def prepare() -> None:
    """Make buckets, connections and pool where they are missing; Compose runs this by itself."""
    from dermascan.stack.compose import prepare  # noqa: PLC0415  # fast `--help`

    prepare()
