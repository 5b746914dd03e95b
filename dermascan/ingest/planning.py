"""The first step: which images a request means, cut into shards."""

import logging
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

from dermascan.errors import InputError
from dermascan.fingerprint import ListFingerprint, fingerprint
from dermascan.ingest.staging import IngestPlan, write_records
from dermascan.isic.client import IsicClient
from dermascan.layout import DatasetKeys
from dermascan.progress import tracked
from dermascan.shards import cut, shard_count
from dermascan.storage import Store

logger = logging.getLogger(__name__)

STEP_VERSION = 1


@dataclass(frozen=True)
class IngestRequest:
    """What somebody asked for: a search in the archive, and a name for its result."""

    dataset: str
    query: str = ""
    collections: str = ""
    limit: int = 0

    def __post_init__(self) -> None:
        DatasetKeys(self.dataset)
        if self.limit < 0:
            raise InputError(f"limit is {self.limit}: use 0 for everything, or a positive number")


def plan(store: Store, client: IsicClient, request: IngestRequest) -> IngestPlan:
    """Resolve a request to a list of images and cut it into shards.

    Raises:
        InputError: the archive does not understand the query, or nothing matches it.
    """
    expected = client.count(request.query, request.collections)
    expected = min(expected, request.limit) if request.limit else expected
    if not expected:
        raise InputError(
            f"no image matches query {request.query!r} in collections "
            f"{request.collections or 'all'!r}: widen the search"
        )
    shards = shard_count(expected)
    with tempfile.TemporaryFile() as spool:
        found, name = _spool_records(client, request, expected, spool)
        ingest_plan = IngestPlan(request.dataset, name, shards, found, max(0, expected - found))
        spool.seek(0)
        _store_shards(store, ingest_plan, spool)
    if ingest_plan.missing:
        logger.warning("the archive counted %d images and listed %d", expected, found)
    logger.info("plan %s: %d images in %d shards", name, found, shards)
    return ingest_plan


def _spool_records(
    client: IsicClient, request: IngestRequest, expected: int, spool: BinaryIO
) -> tuple[int, str]:
    content, found = ListFingerprint(), 0
    for part in (request.dataset, STEP_VERSION):
        content.add(part)
    records = client.search(request.query, request.collections, request.limit or None)
    for record in tracked(records, logger, "records", expected):
        spool.write(record.to_line())
        content.add(fingerprint([record.isic_id, record.size, dict(record.metadata)]))
        found += 1
    return found, content.name()


def _store_shards(store: Store, ingest_plan: IngestPlan, spool: Iterable[bytes]) -> None:
    for shard, lines in enumerate(cut(spool, ingest_plan.images, ingest_plan.shards)):
        write_records(store, ingest_plan, shard, lines)
