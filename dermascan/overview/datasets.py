"""Datasets: how many images of which class, and what validation found."""

import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel

from dermascan.layout import RAW, DatasetKeys
from dermascan.overview.paging import Page, paged
from dermascan.storage import Store, concurrently
from dermascan.taxonomy import CLASS_NAMES

DATASETS_ON_A_PAGE = 5
# A manifest from before class counts were written is read for them, unless that would take long.
_LARGEST_MANIFEST = 8 * 1024 * 1024
_READERS = 8
_REMEMBERED = 200


class _Pointer(BaseModel):
    """The part of `dermascan.dataset.DatasetPointer` that is shown."""

    fingerprint: str
    manifest_key: str
    images: int
    refused: int
    failed: int


class _Counts(BaseModel):
    classes: dict[str, int]
    without_class: int


class _Outcome(BaseModel):
    success: bool
    severity: str


class _Verdict(BaseModel):
    """The part of `dermascan.validation.ValidationResult` that is shown."""

    success: bool
    suites: str
    expectations: tuple[_Outcome, ...]


@dataclass(frozen=True)
class ClassCount:
    """How many images a class has.

    Attributes:
        code, name: of the class, such as `mel` and `Melanoma`.
        images: how many.
        share: of the images with a class, 0 to 1.
    """

    code: str
    name: str
    images: int
    share: float


@dataclass(frozen=True)
class Balance:
    """How the images of a dataset are spread over the classes."""

    classes: tuple[ClassCount, ...]
    without_class: int


@dataclass(frozen=True)
class Validation:
    """What validation found, at last.

    Attributes:
        success: no critical expectation was broken.
        suites: names the expectations, and so the Data Docs.
        expectations: how many there were.
        critical, warnings: how many of each severity were broken.
        judged: when.
    """

    success: bool
    suites: str
    expectations: int
    critical: int
    warnings: int
    judged: datetime


@dataclass(frozen=True)
class DatasetRow:
    """One dataset.

    Attributes:
        name: its name.
        fingerprint: names its manifest.
        images, refused, failed: how many are in it, in quarantine, and could not be had.
        balance: None if the manifest is too large to be counted for a page.
        validation: None if it was not validated.
    """

    name: str
    fingerprint: str
    images: int
    refused: int
    failed: int
    balance: Balance | None
    validation: Validation | None


class DatasetReader:
    """Reads datasets of one bucket, each immutable object once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._balance = lru_cache(_REMEMBERED)(self._read_balance)
        self._verdict = lru_cache(_REMEMBERED)(self._read_verdict)

    def read(self, page: int = 1) -> Page[DatasetRow]:
        """Return the datasets in the order of their names; `page` counts from 1."""
        names = [prefix.split("/")[-2] for prefix in self._store.folders(RAW)]
        chosen = paged(names, page, DATASETS_ON_A_PAGE)
        found = concurrently(self._row, chosen.items, _READERS)
        return Page(tuple(row for row in found if row), chosen.number, chosen.count)

    def _row(self, name: str) -> DatasetRow | None:
        keys = DatasetKeys(name)
        body = self._store.get_if_present(keys.pointer)
        if body is None:  # images have arrived, and nothing is published yet
            return None
        pointer = _Pointer.model_validate_json(body)
        return DatasetRow(
            name,
            pointer.fingerprint,
            pointer.images,
            pointer.refused,
            pointer.failed,
            self._balance(keys.class_counts(pointer.fingerprint), pointer.manifest_key),
            self._validation(keys.validation(pointer.fingerprint)),
        )

    def _read_balance(self, counts_key: str, manifest_key: str) -> Balance | None:
        body = self._store.get_if_present(counts_key)
        if body is not None:
            counts = _Counts.model_validate_json(body)
            return _balance(counts.classes, counts.without_class)
        manifest = self._store.head(manifest_key)
        if manifest is None or manifest.size > _LARGEST_MANIFEST:
            return None
        source = io.BytesIO(self._store.get(manifest_key))
        column = pq.read_table(source, columns=["lesion_class"])["lesion_class"]
        counted = {
            str(c["values"]): int(str(c["counts"]))
            for c in pc.value_counts(column.drop_null()).to_pylist()
        }
        return _balance(counted, column.null_count)

    def _validation(self, prefix: str) -> Validation | None:
        """Return the latest verdict of those under the suites of different days."""
        verdicts = [
            (changed, found.key)
            for found, changed in self._store.list_dated(prefix)
            if found.key.endswith("/result.json")
        ]
        if not verdicts:
            return None
        judged, key = max(verdicts)
        verdict = self._verdict(key)
        broken = Counter(each.severity for each in verdict.expectations if not each.success)
        return Validation(
            verdict.success,
            verdict.suites,
            len(verdict.expectations),
            broken["critical"],
            broken["warning"],
            judged,
        )

    def _read_verdict(self, key: str) -> _Verdict:
        return _Verdict.model_validate_json(self._store.get(key))


def _balance(counts: Mapping[str, int], without_class: int) -> Balance:
    total = sum(counts.values())
    classes = (
        ClassCount(code, CLASS_NAMES.get(code, code), images, images / total)
        for code, images in counts.items()
        if images
    )
    return Balance(tuple(sorted(classes, key=lambda each: -each.images)), without_class)
