"""A store that reaches the real S3 server through a fault proxy."""

from collections.abc import Iterator

import pytest
from reliability.fault_proxy import FaultProxy, fault_proxy

from dermascan.settings import StoragePatience
from dermascan.storage import Store

QUICK = StoragePatience(connect_seconds=2, request_seconds=3, retry_seconds=10)


@pytest.fixture
def proxy(store: Store) -> Iterator[FaultProxy]:
    assert store.settings.endpoint_url
    with fault_proxy(store.settings.endpoint_url) as it:
        yield it


@pytest.fixture
def faulty(store: Store, proxy: FaultProxy, monkeypatch) -> Store:
    """The bucket of `store`, seen through the proxy, with little patience and small parts."""
    monkeypatch.setattr("dermascan.storage.PART_BYTES", 64 * 1024)
    monkeypatch.setattr("dermascan.storage.PAGE_KEYS", 2)
    monkeypatch.setattr("dermascan.storage_calls.FIRST_PAUSE_SECONDS", 0.01)
    changes = {"endpoint_url": proxy.url, "patience": QUICK}
    return Store(store.settings.model_copy(update=changes), store.bucket)
