"""The command that compares training settings."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from dermascan.commands.shared import open_stack, open_store


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(ablate)


def ablate(
    context: typer.Context,
    plan: Annotated[Path, typer.Argument(help="YAML file, see `benchmarks/ablations/`.")],
    dataset: Annotated[str, typer.Option(help="Name of a validated dataset.")],
) -> None:
    """Train variants with several seeds, and show how good they are on validation images.

    The table is shown anew after every training. Trainings that are done are not done again.
    """
    from dermascan import ablation  # noqa: PLC0415  # fast `--help`

    logging.getLogger("dermascan").setLevel(logging.INFO)
    store = open_store(context)
    suites = open_stack(context).paths.project / "include" / "expectations"
    runs: list[ablation.AblationRun] = []
    for run in ablation.run(store, dataset, ablation.AblationPlan.read(plan), suites):
        runs.append(run)
        typer.echo(f"\n{ablation.table(runs)}")
