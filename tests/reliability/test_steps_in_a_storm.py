"""Whole steps of the pipeline while every few requests go wrong, on both sides."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from archives import row, serving, write_folder
from reliability import fault_proxy as faults
from reliability.fault_proxy import Exchange, FaultProxy, fault_proxy
from reliability.standins import StandInScorer

import dermascan.inference.index
from dermascan.fingerprint import sha256_hex
from dermascan.inference.batch import (
    BatchSummary,
    resolve,
    score_objects,
    summarise,
    write_predictions,
)
from dermascan.ingest.downloading import download
from dermascan.ingest.planning import IngestRequest, plan
from dermascan.ingest.publishing import publish_manifest
from dermascan.ingest.uploading import upload
from dermascan.isic.client import IsicClient
from dermascan.isic.retry import RetryPolicy
from dermascan.registry import ModelReference, publish_version
from dermascan.storage import Store

EVERY = 3  # every third request goes wrong
RETRY = RetryPolicy(attempts=8, base_seconds=0.02, cap_seconds=0.05, retry_after_cap_seconds=0.05)
VERSION = 20260101000000


def flipped_unless_listing(exchange: Exchange) -> None:
    """Change a bit of the answer, except in listings, which S3 sends without a checksum."""
    listing = "list-type=" in exchange.request.path
    (faults.untouched if listing else faults.flipped_answer)(exchange)


STORM = (
    faults.reset_before_request,
    faults.lost_answer,
    faults.status(503, "SlowDown"),
    flipped_unless_listing,
    faults.flipped_request,
    faults.error_after_effect,
    faults.reset_in_body,
    faults.truncated_answer,
    faults.truncated_request,
    faults.latency(0.05),
    faults.status(429, "TooManyRequests", retry_after=1),
)


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[FaultProxy]:
    folder = write_folder(tmp_path / "archive", [row(i) for i in range(8)])
    with serving(folder) as url, fault_proxy(url) as proxy:
        yield proxy


def content(store: Store) -> dict[str, str]:
    return {found.key: sha256_hex(store.get(found.key)) for found in store.list("")}


def ingest(store: Store, archive: FaultProxy) -> None:
    with IsicClient(archive.url, retry=RETRY) as client:
        planned = plan(store, client, IngestRequest("small"))
        for shard in range(planned.shards):
            download(store, client, planned, shard)
            upload(store, planned, shard)
        publish_manifest(store, client, planned)


def infer(store: Store, folder: Path) -> BatchSummary:
    planned = resolve(store, "raw/small/images/", ModelReference("tiny", str(VERSION)))
    objects = list(store.list("raw/small/images/"))
    rows = score_objects(store, objects, StandInScorer(), VERSION)
    write_predictions(folder / "scores", rows)
    store.put_file(planned.staged("scores", 0, ".parquet"), folder / "scores")
    return summarise(store, planned)


def publish(store: Store, folder: Path) -> None:
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "saved_model.pb").write_bytes(b"never loaded" * 1000)
    publish_version(store, "tiny", VERSION, folder / "model")


def all_steps(store: Store, archive: FaultProxy, folder: Path) -> BatchSummary:
    ingest(store, archive)
    publish(store, folder)
    return infer(store, folder)


@pytest.fixture(autouse=True)
def standing_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(2026, 1, 1, tzinfo=tz)

    monkeypatch.setattr(dermascan.inference.index, "datetime", Clock)


def test_steps_when_every_third_request_goes_wrong_leave_the_same_objects(
    store: Store, faulty: Store, proxy: FaultProxy, archive: FaultProxy, tmp_path: Path
):
    expected = all_steps(store, archive, tmp_path), content(store)
    store.delete(list(expected[1]))
    proxy.storm(STORM, EVERY)
    archive.storm([fault for fault in STORM if fault is not faults.flipped_request], EVERY)

    found = all_steps(faulty, archive, tmp_path)

    assert (found, content(store)) == expected
    assert proxy.struck >= 2 * len(STORM)
    assert archive.struck > 3
