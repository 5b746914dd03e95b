"""The command line: one thin function for each command, in `dermascan.commands`."""

from pathlib import Path
from typing import Annotated

import typer

from dermascan.commands import (
    ablate,
    acceptance,
    archive,
    benchmark,
    compose,
    demo,
    gc,
    models,
    policy,
    predict,
    serve,
    shared,
    stack,
    train_worker,
    trigger,
)

app = typer.Typer(
    cls=shared.ErrorReportingGroup,
    help="From the ISIC archive to predictions on new images.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def main(
    context: typer.Context,
    project: Annotated[
        Path | None,
        typer.Option(help="Project folder (else DERMASCAN_PROJECT, or found from here)."),
    ] = None,
    *,
    debug: Annotated[
        bool, typer.Option("--debug", envvar="DERMASCAN_DEBUG", help="Show details of errors.")
    ] = False,
) -> None:
    """From the ISIC archive to predictions on new images."""
    context.obj = shared.Common(project, debug)
    shared.set_up_logging(debug=debug)


stack.add_to(app)
trigger.add_to(app)
train_worker.add_to(app)
demo.add_to(app)
ablate.add_to(app)
acceptance.add_to(app)
benchmark.add_to(app)
gc.add_to(app)
policy.add_to(app)
serve.add_to(app)
predict.add_to(app)
app.add_typer(archive.app, name="archive")
app.add_typer(compose.app, name="compose")
app.add_typer(models.app, name="models")
