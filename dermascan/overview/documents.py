"""Which objects people may open from a page, and as what.

A request names a kind of document and what it is about, never a key. Whatever is not one of these
documents cannot be read this way.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from dermascan.errors import InputError, NotFoundError
from dermascan.layout import DatasetKeys, ModelKeys, TrainingKeys, predictions
from dermascan.storage import Folder, Store

K = TypeVar("K")

HTML, TEXT = "text/html; charset=utf-8", "text/plain; charset=utf-8"
_READ_BY_PEOPLE = {"report.html": HTML, "card.html": HTML, "card.md": TEXT}
_PREDICTIONS = {
    "report.html": HTML,
    "predictions.csv": "text/csv; charset=utf-8",
    "predictions.parquet": "application/vnd.apache.parquet",
}
_NAME = r"[a-z0-9][a-z0-9._-]{0,62}"
_HEX = re.compile(r"[0-9a-f]{8,64}")
_DATA_DOCS = re.compile(r"index\.html|(validations|expectations)/[a-z0-9_-]{1,100}\.html")
# The prefixes of single things that a task made, with the listing of what is directly in them.
_PLACES = tuple(
    re.compile(pattern)
    for pattern in (
        rf"raw/{_NAME}/((images|manifests|licenses)/)?",
        rf"quarantine/{_NAME}/",
        rf"staging/{_NAME}/([0-9a-z_-]{{1,64}}/)?",
        rf"processed/{_NAME}/([0-9a-f]{{8,64}}/((train|val|test)/)?)?",
        r"training/[0-9a-f]{8,64}/([A-Za-z0-9_-]{1,64}/){0,3}",
        rf"models/{_NAME}/(\d{{1,20}}/([a-z0-9_-]{{1,64}}/)?)?",
        rf"predictions/{_NAME}/",
        rf"reports/validation/{_NAME}/([0-9a-f]{{8,64}}/){{0,2}}",
    )
)
LISTED = 500
STAGING = "staging/"


@dataclass(frozen=True)
class Document:
    """An object that may be opened.

    Attributes:
        key: of the object.
        media_type: as what.
    """

    key: str
    media_type: str


@dataclass(frozen=True)
class Place:
    """What lies directly under the prefix of something that a task made.

    Attributes:
        address: `s3://` address of the prefix.
        prefix: the prefix.
        folder: what is there, at most `LISTED` of it.
    """

    address: str
    prefix: str
    folder: Folder


def data_docs(dataset: str, manifest: str, suites: str, page: str) -> Document:
    """Return a page of the Data Docs of a manifest under one version of the suites.

    Raises:
        NotFoundError: there can be no such page.
    """
    if not (_HEX.fullmatch(manifest) and _HEX.fullmatch(suites) and _DATA_DOCS.fullmatch(page)):
        raise _unknown(page)
    prefix = _keys(DatasetKeys, dataset).validation(manifest)
    return Document(f"{prefix}{suites}/data_docs/{page}", HTML)


def version_document(model: str, version: int, name: str) -> Document:
    """Return a document that was published with a version.

    Raises:
        NotFoundError: there can be no such document.
    """
    prefix = _keys(ModelKeys, model).version(version)
    return Document(prefix + name, _media_type(_READ_BY_PEOPLE, name))


def candidate_document(training: str, model: str, name: str) -> Document:
    """Return a document that the gate left of a training run as a candidate for a model.

    Raises:
        NotFoundError: there can be no such document.
    """
    _keys(ModelKeys, model)
    if not _HEX.fullmatch(training):
        raise _unknown(training)
    media_type = _media_type(_READ_BY_PEOPLE, name)
    documents = TrainingKeys(training).candidacy(model).documents
    return Document(next(key for key in documents if key.endswith(f"/{name}")), media_type)


def prediction_document(run: str, name: str) -> Document:
    """Return a result of a batch-inference run.

    Raises:
        NotFoundError: there can be no such result.
    """
    media_type = _media_type(_PREDICTIONS, name)
    return Document(_keys(predictions, run) + name, media_type)


def read_place(store: Store, prefix: str) -> Place:
    """List what lies directly under a prefix of something that a task makes.

    Raises:
        NotFoundError: it is no such prefix, or there is nothing; under `staging/` that is how it
            should be once a run has ended.
    """
    if not any(pattern.fullmatch(prefix) for pattern in _PLACES):
        raise _unknown(prefix)
    folder = store.folder(prefix, LISTED)
    empty = not folder.objects and not folder.folders
    if empty and not prefix.startswith(STAGING):
        raise NotFoundError(f"nothing is under {store.address(prefix)}")
    return Place(store.address(prefix), prefix, folder)


def _keys(make: Callable[[str], K], name: str) -> K:
    try:
        return make(name)
    except InputError as error:
        raise _unknown(name) from error


def _media_type(known: dict[str, str], name: str) -> str:
    if name not in known:
        raise _unknown(name)
    return known[name]


def _unknown(name: str) -> NotFoundError:
    return NotFoundError(f"{name!r} is nothing that can be opened here")
