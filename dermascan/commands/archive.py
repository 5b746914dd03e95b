"""Commands around an archive of one's own: serve a folder, or draw a synthetic one."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Serve a folder of images as an ISIC archive, or draw a synthetic one.",
    no_args_is_help=True,
)


@app.command()
def serve(
    folder: Annotated[Path, typer.Argument(help="metadata.csv beside <isic_id>.jpg.")],
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 opens it to your network.")
    ] = "127.0.0.1",
) -> None:
    """Answer on /api/v2/ as the ISIC archive does, from a folder that its client wrote."""
    from dermascan.isic import archive  # noqa: PLC0415  # fast `--help`

    archive.serve(folder, host=host, port=port)


@app.command()
def synth(
    folder: Annotated[Path, typer.Argument(help="Folder to write; made if it is missing.")],
    images: Annotated[int, typer.Option(min=1, help="How many images to draw.")] = 600,
    seed: Annotated[int, typer.Option(help="The same seed draws the same images.")] = 0,
) -> None:
    """Draw dermoscopy-like images of lesions, plainly marked as synthetic."""
    from dermascan.isic import synthetic  # noqa: PLC0415  # fast `--help`

    synthetic.write_archive(folder, images, seed)
    typer.echo(f"{images} synthetic images in {folder}")
