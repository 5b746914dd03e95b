"""The latest batch-inference runs, from their list."""

import re
from dataclasses import dataclass
from functools import lru_cache

from dermascan.errors import NotFoundError
from dermascan.inference.index import PredictionEntry
from dermascan.layout import LATEST_PREDICTIONS, predictions
from dermascan.storage import Store, concurrently

RUNS_ON_A_PAGE = 4
_READERS = 8
_REMEMBERED = 100
_CURSOR = re.compile(r"\d{10}-[a-z0-9][a-z0-9._-]{0,62}")


@dataclass(frozen=True)
class RunPage:
    """Some finished runs, the latest first.

    Attributes:
        runs: what there is of each.
        older: what to ask for the runs before these with, None if there are none.
    """

    runs: tuple[PredictionEntry, ...]
    older: str | None


class PredictionReader:
    """Reads the list of runs of one bucket, each entry once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._entry = lru_cache(_REMEMBERED)(self._read_entry)

    def read(self, older_than: str = "") -> RunPage:
        """Return the latest runs.

        Args:
            older_than: from a page before this one; empty, or anything else, for the first.
        """
        start = f"{LATEST_PREDICTIONS}{older_than}.json" if _CURSOR.fullmatch(older_than) else ""
        found = self._store.folder(LATEST_PREDICTIONS, RUNS_ON_A_PAGE + 1, start).objects
        keys = [each.key for each in found[:RUNS_ON_A_PAGE]]
        entries = concurrently(self._complete_entry, keys, _READERS)
        last = keys[-1].removeprefix(LATEST_PREDICTIONS).removesuffix(".json") if keys else ""
        more = len(found) > RUNS_ON_A_PAGE
        return RunPage(tuple(entry for entry in entries if entry), last if more else None)

    def _complete_entry(self, key: str) -> PredictionEntry | None:
        try:
            return self._entry(key)
        except NotFoundError:  # the run was killed, or is just ending; so it is not remembered
            return None

    def _read_entry(self, key: str) -> PredictionEntry:
        entry = PredictionEntry.model_validate_json(self._store.get(key))
        self._store.get(f"{predictions(entry.run)}_SUCCESS")
        return entry
