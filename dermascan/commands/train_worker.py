"""The command by which another host takes part in a training."""

import logging
from typing import Annotated

import typer

from dermascan.commands.shared import ending_with_1, open_store
from dermascan.errors import TransientError


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("train-worker")(train_worker)


def train_worker(
    context: typer.Context,
    training: Annotated[
        str, typer.Argument(help="Fingerprint, as the log of the task `train` and MLflow show it.")
    ],
) -> None:
    """Take part in a training on several hosts, as TF_CONFIG says.

    Ends when the training is done. Ends with code 1 when another host is gone: start the command
    anew on all hosts, and the training goes on after its last epoch.
    """
    from dermascan.learning.joining import join  # noqa: PLC0415  # fast `--help`

    logging.getLogger("dermascan").setLevel(logging.INFO)
    with ending_with_1(TransientError):
        summary = join(open_store(context), training)
    typer.echo(f"trained: {summary.model_prefix}")
