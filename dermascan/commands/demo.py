"""The command that shows the whole pipeline on drawn images."""

import typer

from dermascan import DISCLAIMER
from dermascan.commands.shared import ending_with_1, open_stack
from dermascan.commands.trigger import observer, show_outcome


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(demo)


def demo(context: typer.Context) -> None:
    """Run everything on drawn images: archive, ingest, training, promotion, inference."""
    from dermascan.demo import NAME, Demo  # noqa: PLC0415  # fast `--help`
    from dermascan.walkthrough import Audience, RunFailedError, Walkthrough  # noqa: PLC0415  # likewise

    stack = open_stack(context)
    with ending_with_1(RunFailedError):
        reports = Demo(Walkthrough(stack, Audience(observer, show_outcome, typer.echo))).run()
    typer.secho("\nWhere everything is", bold=True)
    for report in reports:
        typer.echo(f"  {report.title}\n    {report.path}")
    typer.echo(f"  to look around: `DERMASCAN_SERVING_MODEL={NAME} make up`, later `make down`")
    typer.echo(f"  runs, tasks and logs: {stack.airflow_url}")
    typer.echo(f"  sign in as admin, the password is in {stack.paths.airflow_passwords}")
    typer.echo(f"  drop an image on: {stack.serving_url}, which model {NAME} then scores")
    typer.echo(f"  training figures: {stack.mlflow_url}")
    typer.echo(f"  objects: {stack.s3_url}, bucket dermascan; `dermascan models list`")
    typer.echo(f"\n{DISCLAIMER}")
