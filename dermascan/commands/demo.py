"""The command that shows the whole pipeline on drawn images."""

import typer

from dermascan import DISCLAIMER
from dermascan.commands.shared import open_stack
from dermascan.commands.trigger import observer, show_outcome


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(demo)


def demo(context: typer.Context) -> None:
    """Run everything on drawn images: archive, ingest, training, promotion, inference."""
    from dermascan.demo import Demo, DemoFailedError  # noqa: PLC0415  # fast `--help`

    stack = open_stack(context)
    try:
        reports = Demo(stack, observer, show_outcome, typer.echo).run()
    except DemoFailedError as error:
        typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
        raise typer.Exit(1) from error
    typer.secho("\nWhere everything is", bold=True)
    for report in reports:
        typer.echo(f"  {report.title}\n    {report.path}")
    typer.echo(f"  runs, tasks and logs: `make up`, then {stack.airflow_url}")
    typer.echo(f"  sign in as admin, the password is in {stack.paths.airflow_passwords}")
    typer.echo(f"  training figures: {stack.mlflow_url}")
    typer.echo(f"  objects: {stack.s3_url}, bucket dermascan; `dermascan models list`")
    typer.echo(f"\n{DISCLAIMER}")
