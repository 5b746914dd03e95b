"""From the bytes of images to what the model is given, and to rows of predictions."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dermascan.drift.features import Reference
from dermascan.fingerprint import sha256_hex
from dermascan.imaging import ImageRefusedError, Preprocessing, decode_for, prepare_decoded
from dermascan.inference.pictures import Pictures
from dermascan.quality import ImageFacts, measure, quality_warnings
from dermascan.taxonomy import CLASS_COLUMNS

if TYPE_CHECKING:
    from dermascan.model.scorer import Scorer

BATCH = 32
TABLES_HELD = 16
ISIC_ID = re.compile(r"ISIC_\d{7}(?!\d)")

PREDICTIONS_SCHEMA = pa.schema(
    [
        ("image_key", pa.string()),
        ("isic_id", pa.string()),
        ("sha256", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("p_malignant", pa.float64()),
        ("label", pa.string()),
        ("threshold", pa.float64()),
        *((name, pa.float64()) for name in CLASS_COLUMNS),
        ("model_version", pa.int64()),
    ]
)
# What is measured of each image that was decoded; `warnings` are codes with a space between them.
QUALITY_SCHEMA = pa.schema(
    [
        ("image_key", pa.string()),
        ("format", pa.string()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("sharpness", pa.float64()),
        ("brightness", pa.float64()),
        ("clipped_fraction", pa.float64()),
        ("warnings", pa.string()),
    ]
)
FEATURES = pa.field("features", pa.list_(pa.float32()))
# What is known of an image once it is scored.
SCORED_SCHEMA = pa.schema([*PREDICTIONS_SCHEMA, *list(QUALITY_SCHEMA)[1:], FEATURES])
# With all that the report needs to know of the images.
EXTENDED_SCHEMA = pa.schema([*SCORED_SCHEMA, ("picture", pa.binary()), ("overlay", pa.binary())])


@dataclass(frozen=True, eq=False)
class Examined:
    """One image on its way to the model.

    Attributes:
        key: names it.
        sha256: of its bytes, empty if they were not read.
        image: uint8 RGB, prepared for the model; None if it was rejected.
        facts: what was measured of it; None if it was rejected.
        reason: `code: detail` if it was rejected.
    """

    key: str
    sha256: str = ""
    image: NDArray[np.uint8] | None = None
    facts: ImageFacts | None = None
    reason: str | None = None


def examine(key: str, data: bytes, preprocessing: Preprocessing) -> Examined:
    """Decode, measure and prepare an image, or say why it is rejected.

    Args:
        key: names it.
        data: its bytes.
        preprocessing: of the model.
    """
    digest = sha256_hex(data)
    try:
        decoded = decode_for(data, preprocessing)
    except ImageRefusedError as error:
        return Examined(key, digest, reason=f"{error.reason}: {error.detail}")
    facts = measure(data, decoded.pixels, (decoded.height, decoded.width))
    return Examined(key, digest, prepare_decoded(decoded, preprocessing), facts)


@dataclass(frozen=True, eq=False)
class Scoring:
    """What images are scored with.

    Attributes:
        scorer: the loaded model.
        version: its version, None if it has none.
        reference: to describe images for `dermascan.drift`; None to leave that out.
        pictures: keeps the images of highest risk; None to keep none.
    """

    scorer: "Scorer"
    version: int | None
    reference: Reference | None = None
    pictures: Pictures | None = None

    def tables(self, examined: Iterable[Examined]) -> Iterator[pd.DataFrame]:
        """Yield tables with the columns of `SCORED_SCHEMA`, in order."""
        images = iter(examined)
        while batch := list(islice(images, BATCH)):
            yield self._table(batch)

    def _table(self, batch: list[Examined]) -> pd.DataFrame:
        table = pd.DataFrame([_described(each) for each in batch])
        table["threshold"] = self.scorer.metadata.threshold
        table["model_version"] = self.version
        table[FEATURES.name] = pd.Series([None] * len(batch), dtype=object)
        accepted = [i for i, each in enumerate(batch) if each.image is not None]
        if accepted:
            images = np.stack([image for each in batch if (image := each.image) is not None])
            self._fill(table, accepted, images)
        return table.reindex(columns=SCORED_SCHEMA.names)

    def _fill(
        self, table: pd.DataFrame, accepted: Sequence[int], images: NDArray[np.uint8]
    ) -> None:
        scores = self.scorer.score(images)
        rows = table.index[list(accepted)]
        table.loc[rows, "p_malignant"] = scores.p_malignant
        for column, name in enumerate(CLASS_COLUMNS):
            table.loc[rows, name] = scores.probabilities[:, column]
        is_malignant = scores.p_malignant >= self.scorer.metadata.threshold
        table.loc[rows, "label"] = np.where(is_malignant, "malignant", "benign")
        if self.reference is not None:
            features = self.reference.features(images, scores.embedding)
            table[FEATURES.name] = pd.Series(list(features), index=rows, dtype=object)
        if self.pictures is not None:
            keys = [str(key) for key in table.loc[rows, "image_key"]]
            classes = scores.probabilities.argmax(axis=1)
            self.pictures.offer(keys, scores.p_malignant, classes, images)


def _described(examined: Examined) -> dict[str, object]:
    facts = examined.facts
    row: dict[str, object] = {
        "image_key": examined.key,
        "isic_id": isic_id_of(examined.key),
        "sha256": examined.sha256 or None,
        "status": "rejected" if examined.image is None else "ok",
        "reason": examined.reason,
    }
    if facts is None:
        return row
    codes = " ".join(warning.code for warning in quality_warnings(facts))
    return row | asdict(facts) | {"warnings": codes}


def isic_id_of(key: str) -> str | None:
    """Return the ISIC identifier that an object's name begins with, None if it has none."""
    found = ISIC_ID.match(key.rsplit("/", 1)[-1])
    return found.group() if found else None


def write_predictions(
    path: Path, tables: Iterable[pd.DataFrame], schema: pa.Schema = PREDICTIONS_SCHEMA
) -> None:
    """Write tables of predictions as one Parquet file, holding `TABLES_HELD` of them at a time."""
    encoded = (pa.Table.from_pandas(table, schema=schema, preserve_index=False) for table in tables)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while held := list(islice(encoded, TABLES_HELD)):
            writer.write_table(pa.concat_tables(held))
