"""The command that scores images where it is called, with or without a running stack."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dermascan.commands.shared import console, open_stack, open_store

if TYPE_CHECKING:
    from dermascan.inference.local import Prediction
    from dermascan.inference.local_model import LocalModel, ModelCache
    from dermascan.registry import ModelReference

NOTHING_SCORED = 1


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(predict)


def predict(  # noqa: PLR0913, PLR0917  # one parameter for each option of the command line
    context: typer.Context,
    images: Annotated[
        list[str], typer.Argument(help="Image files, folders or s3:// addresses.", metavar="IMAGE…")
    ],
    model: Annotated[
        str, typer.Option(help="champion, a version number, a name, or name/version.")
    ] = "champion",
    model_folder: Annotated[
        Path | None,
        typer.Option(help="A local copy, from `dermascan models fetch`. Needs no service."),
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="Write a CSV file.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write a JSON file.")] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Draw the highest risks with heat maps (.png, .jpg, .pdf).")
    ] = None,
) -> None:
    """Score dermoscopic images and show them by risk, highest first.

    Ends with 1 if none could be scored. Research decision support, not a medical device.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's notes on missing GPUs
    from dermascan import DISCLAIMER  # noqa: PLC0415  # fast `--help`
    from dermascan.inference import annotated  # noqa: PLC0415  # likewise
    from dermascan.inference.local import (  # noqa: PLC0415  # likewise
        predict_sources,
        sources,
        write_csv,
        write_json,
    )

    if picture is not None:
        annotated.require_drawable(picture)
    found = sources(images, lambda: open_store(context))
    chosen = _model(context, model, model_folder)
    prediction = predict_sources(found, chosen, annotated.MOST_IMAGES if picture else 0)
    _show(prediction)
    for path, write in ((csv, write_csv), (json, write_json)):
        if path is not None:
            write(prediction, path)
    if picture is not None and prediction.scored:
        annotated.write_picture(prediction, picture)
    typer.echo(DISCLAIMER)
    if not prediction.scored:
        raise typer.Exit(NOTHING_SCORED)


def _model(context: typer.Context, text: str, folder: Path | None) -> "LocalModel":
    from dermascan.errors import TransientError  # noqa: PLC0415  # fast `--help`
    from dermascan.inference.local_model import ModelCache, open_copy  # noqa: PLC0415  # likewise
    from dermascan.registry import ModelReference  # noqa: PLC0415  # likewise

    if folder is not None:
        return open_copy(folder)
    reference = ModelReference.parse(text)
    cache = ModelCache(open_stack(context).paths.state / "models")
    try:
        store = open_store(context)
    except TransientError:
        return _kept(cache, reference)
    return cache.wanted(store, reference)


def _kept(cache: "ModelCache", reference: "ModelReference") -> "LocalModel":
    found = cache.kept(reference)
    typer.echo(f"no stack runs: using the copy of {found} that is kept here", err=True)
    return found


def _show(prediction: "Prediction") -> None:
    from rich.table import Table  # noqa: PLC0415  # fast `--help`
    from rich.text import Text  # noqa: PLC0415  # likewise

    from dermascan.evaluation import CLASS_COLUMNS  # noqa: PLC0415  # likewise

    threshold = prediction.scorer.metadata.threshold
    names = ("risk", "threshold", "likeliest class", "image", "remarks")
    table = Table(*names, box=None, pad_edge=False)
    best = prediction.table[list(CLASS_COLUMNS)].fillna(0).idxmax(axis=1)
    for number, row in enumerate(prediction.table.to_dict("records")):
        if row["status"] == "ok":
            is_above = row["p_malignant"] >= threshold
            likeliest = str(best[number])
            relation = Text("above" if is_above else "below", "bold red" if is_above else "")
            start = f"{row['p_malignant']:.3f}", relation, likeliest.removeprefix("p_")
            remark = str(row["warnings"])
        else:
            start, remark = ("", Text("rejected", "dim"), ""), str(row["reason"])
        table.add_row(*start, Text(_plain(str(row["image_key"]))), Text(_plain(remark)))
    console().print(table)
    rejected = len(prediction.table) - prediction.scored
    typer.echo(
        f"{prediction.model}: {prediction.scored} scored, threshold {threshold:.3f}"
        + (f"; {rejected} rejected" if rejected else "")
    )


def _plain(text: str) -> str:
    """Keep characters that steer terminals, which a file's name may hold, from doing so."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
