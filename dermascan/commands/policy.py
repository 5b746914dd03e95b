"""The command that prints S3 policies."""

from typing import Annotated

import typer

from dermascan.policies import IMAGES_PREFIX, Role, policy_document


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(policy)


def policy(
    role: Role,
    bucket: Annotated[str, typer.Option(help="The pipeline's bucket.")],
    images_prefix: Annotated[
        str, typer.Option(help="Where new images come in, for the role inference.")
    ] = IMAGES_PREFIX,
) -> None:
    """Print the S3 policy of a role: what its work needs, and no more."""
    typer.echo(policy_document(role, bucket, images_prefix))
