"""The corpus through the steps that people run: ingest, preprocessing, batch inference.

A program of its own, as `hostile.examine`: it reads a `Journey` from standard input and writes an
`Arrival` to standard output. The model is a stand-in that keeps what it is shown.

    python -m hostile.journey < journey.json
"""

import hashlib
import json
import resource
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from archives import serving
from pydantic import SecretStr

from dermascan.dataset import DatasetPointer, read_manifest, read_refusals
from dermascan.inference.batch import score_objects
from dermascan.ingest.downloading import download
from dermascan.ingest.planning import IngestRequest, plan
from dermascan.ingest.publishing import publish_manifest
from dermascan.ingest.uploading import upload
from dermascan.isic.client import IsicClient
from dermascan.model.savedmodel import Scores
from dermascan.preprocess import ImageRow, preprocess_shard
from dermascan.records import read_records
from dermascan.settings import StorageSettings
from dermascan.storage import Store
from hostile.examine import PREPROCESSING

RECORDS = "processed/part-00000.tfrecord.gz"


@dataclass(frozen=True)
class Journey:
    """What is asked for.

    Attributes:
        storage: settings of the object storage, the secret in clear.
        secret: of the object storage.
        archive: folder of an archive; nothing may fail to arrive.
        prefix: of the objects that are scored.
    """

    storage: dict[str, str]
    secret: str
    archive: str
    prefix: str


@dataclass(frozen=True)
class Arrival:
    """What became of everything.

    Attributes:
        refused: reason of ingest by identifier.
        recorded: SHA-256 of the prepared array in the training record, by SHA-256 of the file.
        rejected: reason of batch inference by key.
        scored: SHA-256 of the array that the model saw, by key.
        peak_mb: most memory that the process ever held.
    """

    refused: dict[str, str]
    recorded: dict[str, str]
    rejected: dict[str, str]
    scored: dict[str, str]
    peak_mb: float


class KeepingScorer:
    """Stands in for a loaded model and keeps the arrays' SHA-256."""

    metadata = SimpleNamespace(preprocessing=PREPROCESSING, threshold=0.5)

    def __init__(self) -> None:
        self.seen: list[str] = []

    def score(self, images: np.ndarray) -> Scores:
        """Return one score for all."""
        self.seen.extend(digest(image) for image in images)
        shares = np.full((len(images), 7), 1 / 7, np.float32)
        return Scores(shares, shares[:, 0], np.zeros((len(images), 2), np.float32))


def digest(image: np.ndarray) -> str:
    """Return the SHA-256 of an array's bytes."""
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()


def _ingest(store: Store, archive: Path) -> DatasetPointer:
    with serving(archive) as url, IsicClient(url) as client:
        planned = plan(store, client, IngestRequest("hostile"))
        for shard in range(planned.shards):
            download(store, client, planned, shard)
            upload(store, planned, shard)
        return publish_manifest(store, client, planned, max_failed_share=0.0)


def _record(store: Store, pointer: DatasetPointer) -> dict[str, str]:
    columns = ["isic_id", "key", "sha256", "lesion_id", "lesion_class"]
    table = read_manifest(store, pointer)[columns]
    rows = [ImageRow(*values) for values in table.itertuples(index=False)]
    preprocess_shard(store, rows, PREPROCESSING, RECORDS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records"
        store.get_file(RECORDS, path)
        return {record.sha256: digest(record.image) for record in read_records(path)}


def _score(store: Store, prefix: str) -> tuple[dict[str, str], dict[str, str]]:
    scorer, rejected, keys = KeepingScorer(), {}, []
    for table in score_objects(store, list(store.list(prefix)), scorer, 1):
        for row in table.itertuples():
            if row.status == "ok":
                keys.append(row.image_key)
            else:
                rejected[row.image_key] = row.reason
    return rejected, dict(zip(keys, scorer.seen, strict=True))


def main() -> None:
    """Go the whole way."""
    journey = Journey(**json.load(sys.stdin))
    settings = StorageSettings(**journey.storage, secret_access_key=SecretStr(journey.secret))
    store = Store(settings)
    pointer = _ingest(store, Path(journey.archive))
    refused = {entry.isic_id: entry.reason for entry in read_refusals(store, pointer)}
    recorded = _record(store, pointer)
    rejected, scored = _score(store, journey.prefix)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    sys.stdout.write(json.dumps(asdict(Arrival(refused, recorded, rejected, scored, peak))))


if __name__ == "__main__":
    main()
