"""The command that takes a real archive through the whole pipeline and checks the outcome."""

from pathlib import Path
from typing import Annotated

import typer

from dermascan.commands.shared import ending_with_1, open_stack
from dermascan.commands.trigger import observer, show_outcome

AIRFLOW_PATIENCE_SECONDS = 300.0  # a long training may leave Airflow little of the machine


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(acceptance)


def acceptance(
    context: typer.Context,
    data: Annotated[
        Path, typer.Option(help="Tar or folder as the official client writes it, with diagnoses.")
    ],
    external: Annotated[
        list[Path] | None,
        typer.Option(help="Another such archive, to measure the model on; may be repeated."),
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(
            "--param", "-p", help="name=value for train_model, for a trial; may be repeated."
        ),
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(help="Page to write to. Default: docs/results.md; none with --param."),
    ] = None,
) -> None:
    """Ingest, train, promote and infer on a real archive, and check that all agrees.

    Exit code 1 if a run fails, if the gate refuses promotion, or if batch inference on the test
    images does not give the scores of the evaluation.
    """
    from dermascan.acceptance import run  # noqa: PLC0415  # fast `--help`
    from dermascan.stack.runs import read_params  # noqa: PLC0415  # likewise
    from dermascan.walkthrough import Audience, RunFailedError, Walkthrough  # noqa: PLC0415  # likewise

    plan = run.AcceptancePlan(data, tuple(external or ()), read_params(param or [], {}), results)
    audience = Audience(observer, show_outcome, typer.echo)
    walkthrough = Walkthrough(open_stack(context), audience, AIRFLOW_PATIENCE_SECONDS)
    with ending_with_1(RunFailedError), ending_with_1(run.NotAcceptedError):
        report = run.Acceptance(walkthrough, plan).run()
    typer.echo(f"\n{report.headline}")
    typer.secho(f"accepted: {report.verdict}", fg=typer.colors.GREEN)
    typer.echo(f"what was found: {report.page or report.section}")
