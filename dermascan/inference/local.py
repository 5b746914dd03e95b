"""A model over files that people name, with results as a table, CSV, JSON and a picture."""

import json
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from dermascan import DISCLAIMER
from dermascan.errors import InputError
from dermascan.evaluation import CLASS_COLUMNS
from dermascan.imaging import Preprocessing
from dermascan.inference.pictures import Pictures
from dermascan.inference.scoring import (
    PREDICTIONS_SCHEMA,
    QUALITY_SCHEMA,
    Examined,
    Scoring,
    examine,
)
from dermascan.model.loading import load_fastest
from dermascan.storage import S3Address, Store
from dermascan.taxonomy import LESION_CLASSES

if TYPE_CHECKING:
    from dermascan.inference.local_model import LocalModel
    from dermascan.model.scorer import Scorer

S3_SCHEME = "s3://"


@dataclass(frozen=True)
class Source:
    """One image to score: what it is called, its size in bytes, and how to read it."""

    key: str
    size: int
    read: Callable[[], bytes]


def sources(names: Sequence[str], store: Callable[[], Store]) -> list[Source]:
    """Find the images that people name; of a folder all files but hidden ones.

    Args:
        names: files, folders and `s3://` addresses.
        store: is asked for object storage if an address is among them.

    Raises:
        InputError: there is no such file, or nothing in a folder or under an address.
    """
    found = [source for name in names for source in _found(name, store)]
    return list({source.key: source for source in found}.values())


def _found(name: str, store: Callable[[], Store]) -> list[Source]:
    if name.startswith(S3_SCHEME):
        found = list(_objects(name, store()))
    elif (path := Path(name)).is_dir():
        found = [_file(each) for each in _visible(path)]
    elif path.is_file():
        found = [_file(path)]
    else:
        raise InputError(f"there is no file or folder {name}")
    if not found:
        raise InputError(f"nothing is in {name}")
    return found


def _visible(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden:
            yield path


def _file(path: Path) -> Source:
    return Source(str(path), path.stat().st_size, path.read_bytes)


def _objects(name: str, store: Store) -> Iterator[Source]:
    address = S3Address.parse(name, store.bucket)
    bucket = store.in_bucket(address.bucket)
    for found in bucket.list(address.prefix):
        yield Source(bucket.address(found.key), found.size, partial(bucket.get, found.key))


@dataclass(frozen=True, eq=False)
class Prediction:
    """What became of the images.

    Attributes:
        table: one row an image, highest risk first and the rejected last, with the columns of
            `PREDICTIONS_SCHEMA` and `QUALITY_SCHEMA`.
        pictures: of the highest risks.
        scorer: what they were scored with.
        model: where it comes from.
    """

    table: pd.DataFrame
    pictures: Pictures
    scorer: "Scorer"
    model: "LocalModel"

    @property
    def scored(self) -> int:
        """Return how many images were scored."""
        return int((self.table["status"] == "ok").sum())


def predict_sources(found: Iterable[Source], model: "LocalModel", pictured: int = 0) -> Prediction:
    """Score images with a local model, by the same functions as batch inference.

    Args:
        found: the images.
        model: the model.
        pictured: how many of the highest risks to keep for a picture.
    """
    scorer, pictures = load_fastest(model.folder), Pictures(pictured)
    scoring = Scoring(scorer, model.version, pictures=pictures)
    examined = (_examined(source, scorer.metadata.preprocessing) for source in found)
    table = pd.concat(scoring.tables(examined), ignore_index=True)
    ordered = table.sort_values(["p_malignant", "image_key"], ascending=[False, True])
    return Prediction(ordered.reset_index(drop=True), pictures, scorer, model)


def _examined(source: Source, preprocessing: Preprocessing) -> Examined:
    most = preprocessing.limits.max_bytes
    if source.size > most:
        detail = f"too_large: {source.size} bytes, at most {most} are read"
        return Examined(source.key, reason=detail)
    try:
        data = source.read()
    except OSError as error:
        return Examined(source.key, reason=f"unreadable: {error.strerror}")
    return examine(source.key, data, preprocessing)


def write_csv(prediction: Prediction, path: Path) -> None:
    """Write the columns of the predictions of batch inference, and the quality warnings."""
    columns = [*PREDICTIONS_SCHEMA.names, "warnings"]
    prediction.table[columns].to_csv(path, index=False)


def write_json(prediction: Prediction, path: Path) -> None:
    """Write what the HTTP API answers, without explanations."""
    metadata = prediction.scorer.metadata
    document = {
        "model": {
            "name": prediction.model.name or None,
            "version": prediction.model.version,
            "classes": list(metadata.classes),
        },
        "threshold": metadata.threshold,
        "disclaimer": DISCLAIMER,
        "results": [_result(row) for row in prediction.table.to_dict("records")],
    }
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")


def _result(row: Mapping[Hashable, Any]) -> dict[str, object]:
    result = {"filename": row["image_key"], "status": row["status"]}
    names = ("sha256", "reason", "p_malignant", "label")
    result |= {name: None if pd.isna(row[name]) else row[name] for name in names}
    if row["status"] != "ok":
        return result | {"probabilities": None, "quality": None}
    by_class = zip(LESION_CLASSES, CLASS_COLUMNS, strict=True)
    quality = {name: row[name] for name in QUALITY_SCHEMA.names[1:]}
    sides = {side: int(row[side]) for side in ("width", "height")}
    return result | {
        "probabilities": {name: row[column] for name, column in by_class},
        "quality": quality | sides | {"warnings": row["warnings"].split()},
    }
