"""A server of the stand-in model, as it is by default, and under other limits."""

import uuid

import pytest
from serving.service import GENEROUS, publish, serving

from dermascan.storage import Store


@pytest.fixture(scope="module")
def client(storage_settings, tmp_path_factory):
    store = Store(storage_settings, f"serving-{uuid.uuid4().hex[:12]}")
    store.ensure_bucket()
    publish(store, tmp_path_factory.mktemp("published"), 0)
    with serving(store) as client:
        yield client


@pytest.fixture
def limited(store: Store, tmp_path):
    """Return what serves under other limits."""
    publish(store, tmp_path, 0)

    def limited(**limits):
        return serving(store, GENEROUS.model_copy(update=limits))

    return limited
