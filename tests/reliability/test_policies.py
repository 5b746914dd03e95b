"""The shipped policies on a real server: each role can do its work and nothing else."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from archives import row, serving, write_folder
from reliability.standins import StandInScorer
from roles import BUCKET

from dermascan.errors import InputError
from dermascan.incoming import IncomingWatcher, acknowledge, pending_claims
from dermascan.inference.batch import resolve, score_objects, summarise, write_predictions
from dermascan.ingest.downloading import download
from dermascan.ingest.planning import IngestRequest, plan
from dermascan.ingest.publishing import publish_manifest
from dermascan.ingest.uploading import upload
from dermascan.isic.client import IsicClient
from dermascan.layout import (
    DatasetKeys,
    IncomingKeys,
    ModelKeys,
    TrainingKeys,
    prediction_staging,
    predictions,
)
from dermascan.learning.checkpoints import Checkpoints, TrainingState
from dermascan.policies import POLICIES, ROLES, policy_document
from dermascan.registry import (
    Decision,
    ModelReference,
    claim_version,
    fetch_version,
    promote,
    publish_version,
    require_champion,
)
from dermascan.settings import StorageSettings
from dermascan.storage import Store

DATASET, MODEL, TRAINING = DatasetKeys("ham"), ModelKeys("skin"), TrainingKeys("f" * 24)
KEYS = {
    "image": DATASET.image("ISIC_0000001", "jpg"),
    "manifest": DATASET.manifest("f" * 24),
    "dataset pointer": DATASET.pointer,
    "refused": DATASET.refused("0" * 64),
    "ingest staging": DATASET.plan("one") + "records/part-00000.jsonl",
    "validation": DATASET.validation("f" * 24) + "result.json",
    "split ledger": DATASET.split_ledger,
    "examples": DATASET.processed("f" * 24) + "train/part-00000.tfrecord.gz",
    "training": TRAINING.done,
    "checkpoint": f"{TRAINING.prefix}checkpoints/epoch-0001.npz",
    "version": MODEL.manifest(20260101000000),
    "champion": MODEL.champion,
    "history": MODEL.history_entry(1),
    "inference staging": prediction_staging("one") + "scores/part-00000.parquet",
    "predictions": predictions("one") + "predictions.parquet",
    "new image": "incoming/ISIC_0000002.jpg",
    "folder to start": IncomingKeys.claim("f" * 24),
    "folder started": IncomingKeys.start("f" * 24),
    "something else": "notes/private.txt",
}
ALL = "read write delete"
RIGHTS = {
    "ingest": {
        **dict.fromkeys(
            ("image", "manifest", "dataset pointer", "refused", "validation"), "read write"
        ),
        "ingest staging": ALL,
    },
    "training": {
        **dict.fromkeys(("image", "manifest", "dataset pointer", "validation"), "read"),
        **dict.fromkeys(
            ("split ledger", "examples", "training", "version", "champion", "history"), "read write"
        ),
        "checkpoint": ALL,
    },
    "inference": {
        **dict.fromkeys(("version", "champion", "history", "new image"), "read"),
        **dict.fromkeys(("predictions", "folder started"), "read write"),
        **dict.fromkeys(("inference staging", "folder to start"), ALL),
    },
    "serving": dict.fromkeys(("version", "champion", "history"), "read"),
}


@pytest.fixture
def owner(storage_settings: StorageSettings) -> Iterator[Store]:
    store = Store(storage_settings.impatient(), BUCKET)
    store.ensure_bucket()
    yield store
    store.delete([found.key for found in store.list("")])


def as_role(owner: Store, role: str) -> Store:
    return Store(owner.settings.model_copy(update={"access_key_id": role}), BUCKET)


def may(store: Store, key: str) -> str:
    attempts = {
        "read": lambda: store.get(key),
        "write": lambda: store.put(key, b"changed"),
        "delete": lambda: store.delete([key]),
    }
    allowed = []
    for right, attempt in attempts.items():
        try:
            attempt()
        except InputError as error:
            assert "access denied" in str(error)  # noqa: PT017  # one of many attempts
        else:
            allowed.append(right)
    return " ".join(allowed)


@pytest.mark.parametrize("role", ROLES)
def test_role_has_the_rights_of_its_work_on_each_kind_of_object_and_no_other(
    role: str, owner: Store
):
    for key in KEYS.values():
        owner.put(key, b"data")
    store = as_role(owner, role)

    found = {name: may(store, key) for name, key in KEYS.items()}

    assert {name: rights for name, rights in found.items() if rights} == RIGHTS[role]


@pytest.mark.parametrize("role", ROLES)
def test_role_when_it_looks_for_what_is_not_there_is_told_so_and_not_that_it_may_not(
    role: str, owner: Store
):
    assert not as_role(owner, role).exists(MODEL.champion if role != "ingest" else DATASET.pointer)
    with pytest.raises(InputError, match="access denied"):
        as_role(owner, role).in_bucket("another").get("x")


def test_each_role_with_its_own_rights_does_its_work(owner: Store, tmp_path: Path):
    ingesting, training, inferring, serving_ = (as_role(owner, role) for role in ROLES)
    images = write_folder(tmp_path / "archive", [row(i) for i in range(4)])
    with serving(images) as url, IsicClient(url) as client:
        planned = plan(ingesting, client, IngestRequest("ham"))
        download(ingesting, client, planned, 0)
        upload(ingesting, planned, 0)
        assert publish_manifest(ingesting, client, planned).images == 4

    checkpoints = Checkpoints(training, f"{TRAINING.prefix}checkpoints/", "owner")
    for epoch in range(4):  # from the third on, the oldest is deleted
        checkpoints.save(epoch, TrainingState([np.zeros(1)], [], []), {}, best=epoch)
    assert checkpoints.latest() == (3, {})
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "saved_model.pb").write_bytes(b"never loaded")
    version = claim_version(training, "skin", "f" * 24, datetime(2026, 1, 1, tzinfo=UTC))
    publish_version(training, "skin", version, tmp_path / "model")
    promote(training, "skin", version, Decision("test", "because"))

    for image in images.glob("*.jpg"):
        owner.put(f"incoming/{image.name}", image.read_bytes())
    batch = resolve(inferring, "incoming/", ModelReference("skin", "champion"))
    fetch_version(inferring, "skin", version, tmp_path)
    rows = score_objects(inferring, list(inferring.list("incoming/")), StandInScorer(), version)
    write_predictions(tmp_path / "scores", rows)
    inferring.put_file(batch.staged("scores", 0, ".parquet"), tmp_path / "scores")
    assert summarise(inferring, batch).scored == 4

    for name in ("1.jpg", "_READY"):
        owner.put(f"incoming/folder/{name}", b"data")
    assert IncomingWatcher(quiet_seconds=60).poll(inferring)
    acknowledge(inferring, pending_claims(inferring))

    assert require_champion(serving_, "skin").version == version
    (tmp_path / "served").mkdir()
    fetch_version(serving_, "skin", version, tmp_path / "served")


def test_policy_document_is_json_without_placeholders_for_every_role_and_file():
    assert {path.stem for path in POLICIES.glob("*.json")} == set(ROLES)
    for role in ROLES:
        text = policy_document(role, "my-bucket", "new images/")
        assert json.loads(text)["Version"] == "2012-10-17"
        assert "BUCKET_NAME" not in text
        assert "IMAGES_PREFIX" not in text


@pytest.mark.parametrize(("bucket", "prefix"), [("", "x/"), ("a/b", "x/"), ("a", ""), ("a", "*")])
def test_policy_document_when_a_name_would_open_the_bucket_refuses(bucket: str, prefix: str):
    with pytest.raises(InputError):
        policy_document("inference", bucket, prefix)
