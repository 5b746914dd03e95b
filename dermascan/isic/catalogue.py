"""A folder in the layout that the official ISIC client writes, read into a searchable table.

The layout is `metadata.csv` beside `<isic_id>.jpg` (or `.jpeg`, `.png`), optionally with
`licenses/<type>.txt`, and, as an addition, `collections.json`:
`[{"id": 1, "name": "…", "description": "…", "isic_ids": ["ISIC_0000001", …]}, …]`.

Metadata is held in memory, each distinct value of a column once; images stay on disk.
"""

import csv
import logging
import math
import os
import re
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from isic_metadata import FIELD_REGISTRY
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from dermascan.errors import InputError
from dermascan.isic.query import NUMBER, Kind, Mask, Node, Value, evaluate

logger = logging.getLogger(__name__)

Rows = NDArray[np.int64]

METADATA_FILE = "metadata.csv"
COLLECTIONS_FILE = "collections.json"
LICENSES_FOLDER = "licenses"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
REQUIRED_COLUMNS = ("isic_id", "attribution", "copyright_license")
WHOLE_NUMBERS = frozenset({"age_approx", "acquisition_day", "pixels_x", "pixels_y"})
EXAMPLES = 10

LICENSE_NOTICES = {
    "CC-0": "CC0 1.0 Universal\nhttps://creativecommons.org/publicdomain/zero/1.0/\n",
    "CC-BY": "Creative Commons Attribution 4.0\nhttps://creativecommons.org/licenses/by/4.0/\n",
    "CC-BY-NC": "Creative Commons Attribution-NonCommercial 4.0\n"
    "https://creativecommons.org/licenses/by-nc/4.0/\n",
}

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_BOOLEANS = {"true": True, "false": False}


class Collection(BaseModel):
    """A named set of images."""

    model_config = ConfigDict(frozen=True)

    id: int
    name: str
    description: str = ""
    isic_ids: frozenset[str]


@dataclass(frozen=True)
class ImageFile:
    """An image on disk: its name in the folder and its size in bytes."""

    name: str
    size: int


@dataclass(frozen=True)
class Column:
    """One metadata field, dictionary-encoded.

    Attributes:
        values: the distinct values; the first is None and stands for an empty cell.
        codes: index into `values` of each row, shape (rows,).
    """

    values: tuple[Value | None, ...]
    codes: NDArray[np.int32]

    def value(self, row: int) -> Value | None:
        """Return the value of a row, None where the cell is empty."""
        return self.values[int(self.codes[row])]

    def select(self, accepts: Callable[[Value], bool]) -> Mask:
        """Return a mask, shape (rows,), of the rows that are filled and accepted."""
        accepted = (value is not None and accepts(value) for value in self.values)
        mask: Mask = np.fromiter(accepted, np.bool_, len(self.values))[self.codes]
        return mask


class Catalogue:
    """The images of an archive, in the order of their identifiers, and what is known of them.

    Args:
        images: the file of each row, in the order of `columns["isic_id"]`, which is ascending.
        columns: metadata fields by name.
        collections: the archive's collections by id.
        licenses: text of each licence type.
    """

    def __init__(
        self,
        images: Sequence[ImageFile],
        columns: Mapping[str, Column],
        collections: Mapping[int, Collection],
        licenses: Mapping[str, str],
    ) -> None:
        self.images, self.columns = images, columns
        self.collections, self.licenses = collections, licenses
        self.sizes = np.fromiter((image.size for image in images), np.int64, len(images))
        self.ids = [str(columns["isic_id"].value(row)) for row in range(len(images))]
        self.fields = {name: field_kind(name) for name in columns}
        self._row_of_name = {image.name: row for row, image in enumerate(images)}

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def select(self, field: str, accepts: Callable[[Value], bool]) -> Mask:
        """Return a mask, shape (rows,), of the rows whose field is filled and accepted."""
        return self.columns[field].select(accepts)

    def search(self, query: Node, collections: Sequence[int]) -> Rows:
        """Return the ascending rows that meet a query and are in one of some collections.

        Args:
            query: parsed against `fields`.
            collections: identifiers; none means that no collection is asked for, and one that
                does not exist has no images.
        """
        mask = evaluate(query, self)
        if collections:
            known = [self.collections[i] for i in collections if i in self.collections]
            wanted = frozenset[str]().union(*(collection.isic_ids for collection in known))
            mask &= self.select("isic_id", wanted.__contains__)
        return np.flatnonzero(mask)

    def row_of(self, isic_id: str) -> int | None:
        """Return the row of an image, None when there is none of that identifier."""
        row = bisect_left(self.ids, isic_id)
        return row if row < len(self.ids) and self.ids[row] == isic_id else None

    def row_of_file(self, name: str) -> int | None:
        """Return the row whose image file has this name, None when there is none."""
        return self._row_of_name.get(name)

    def rows_before(self, isic_id: str) -> int:
        """Return how many rows come before an identifier, whether or not it exists."""
        return bisect_left(self.ids, isic_id)

    def rows_through(self, isic_id: str) -> int:
        """Return how many rows come before an identifier or have it."""
        return bisect_right(self.ids, isic_id)


def field_kind(name: str) -> Kind:
    """Tell what a metadata column holds; columns unknown to ISIC hold texts."""
    if name in WHOLE_NUMBERS:
        return Kind.NUMBER
    if name == "public":
        return Kind.BOOLEAN
    search = FIELD_REGISTRY[name].search if name in FIELD_REGISTRY else None
    kinds = {"boolean": Kind.BOOLEAN, "float": Kind.NUMBER, "integer": Kind.NUMBER}
    return kinds.get(search.es_property["type"], Kind.TEXT) if search else Kind.TEXT


def parse_value(name: str, text: str) -> Value | None:
    """Give a cell the type that its column has in the archive's API.

    Returns:
        None for an empty cell; the text itself where it is not of the column's kind.
    """
    if not text:
        return None
    kind = field_kind(name)
    if kind is Kind.BOOLEAN:
        return _BOOLEANS.get(text.lower(), text)
    return _number(name, text) if kind is Kind.NUMBER else text


def _number(name: str, text: str) -> int | float | str:
    if _INTEGER.fullmatch(text):
        return int(text)
    value = float(text) if NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(value):
        return text
    return int(value) if name in WHOLE_NUMBERS and value.is_integer() else value


def read_catalogue(directory: Path) -> Catalogue:
    """Read an archive's folder.

    Rows without an image and images without a row are left out, counted and logged.

    Raises:
        InputError: the folder has no `metadata.csv`, or it, `collections.json` or the images'
            names cannot be understood without a guess.
    """
    files = _image_files(directory)
    encoders = _read_metadata(directory / METADATA_FILE, files)
    ids = list(encoders["isic_id"].texts())
    order = sorted(range(len(ids)), key=ids.__getitem__)
    columns = {name: encoder.column(order) for name, encoder in encoders.items()}
    columns["public"] = Column((None, True), np.ones(len(ids), np.int32))
    _report_odd_cells(columns)
    return Catalogue(
        images=[files[ids[row]] for row in order],
        columns=columns,
        collections=_read_collections(directory / COLLECTIONS_FILE, frozenset(ids)),
        licenses=_read_licenses(directory / LICENSES_FOLDER, columns["copyright_license"]),
    )


def _image_files(directory: Path) -> dict[str, ImageFile]:
    """Find the images of a folder by identifier."""
    if not directory.is_dir():
        raise InputError(f"{directory} is not a folder: name one with {METADATA_FILE} and images")
    files: dict[str, ImageFile] = {}
    repeated = []
    with os.scandir(directory) as entries:
        for entry in entries:
            stem, suffix = os.path.splitext(entry.name)  # noqa: PTH122  # 100,000 Paths are slow
            if suffix.lower() not in IMAGE_SUFFIXES or not entry.is_file():
                continue
            repeated += [stem] if stem in files else []
            files[stem] = ImageFile(entry.name, entry.stat().st_size)
    if repeated:
        raise InputError(f"{directory} has several images each of {_examples(sorted(repeated))}")
    return files


class _Encoder:
    """Collects a column's cells, each distinct text once."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._code_of: dict[str, int] = {"": 0}
        self._codes = array("i")

    def add(self, text: str) -> None:
        self._codes.append(self._code_of.setdefault(text, len(self._code_of)))

    def texts(self) -> Iterator[str]:
        distinct = tuple(self._code_of)
        return (distinct[code] for code in self._codes)

    def column(self, order: Sequence[int]) -> Column:
        values = tuple(parse_value(self._name, text) for text in self._code_of)
        return Column(values, np.array(self._codes, np.int32)[np.array(order, np.int64)])


def _read_metadata(path: Path, files: Mapping[str, ImageFile]) -> dict[str, _Encoder]:
    """Collect the rows that have an image, column by column."""
    rows = _csv_rows(path)
    header = _checked_header(path, next(rows, []))
    encoders = {name: _Encoder(name) for name in header}
    position, seen = header.index("isic_id"), Counter[str]()
    for row in rows:
        seen[row[position]] += 1
        if row[position] in files:
            for encoder, text in zip(encoders.values(), row, strict=True):
                encoder.add(text)
    _report_rows(path, seen, files)
    return encoders


def _csv_rows(path: Path) -> Iterator[list[str]]:
    """Yield the header and the rows of a CSV file, all of one length."""
    if not path.is_file():
        raise InputError(
            f"{path.parent} has no {path.name}: an archive's folder has {path.name} beside "
            "<isic_id>.jpg or .png, as `isic image download` writes them"
        )
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, strict=True)
        width = None
        try:
            for row in reader:
                width = width or len(row)
                if row and len(row) != width:
                    problem = f"{len(row)} cells where the header has {width}"
                    raise InputError(f"{path}, line {reader.line_num}: {problem}")
                if row:
                    yield row
        except csv.Error as error:
            raise InputError(f"{path}, line {reader.line_num}: {error}") from error
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not UTF-8: {error.reason}") from error


def _checked_header(path: Path, header: list[str]) -> list[str]:
    missing = [name for name in REQUIRED_COLUMNS if name not in header]
    if missing:
        raise InputError(f"{path} lacks the columns {', '.join(missing)}")
    repeated = [name for name, count in Counter(header).items() if count > 1 or not name]
    if repeated:
        raise InputError(f"{path} has columns that are repeated or unnamed: {repeated}")
    return header


def _report_rows(path: Path, seen: Counter[str], files: Mapping[str, ImageFile]) -> None:
    repeated = [isic_id for isic_id, count in seen.items() if count > 1]
    if repeated:
        raise InputError(f"{path} has several rows each for {_examples(repeated)}")
    if missing := [isic_id for isic_id in seen if isic_id not in files]:
        logger.warning(
            "%s: %d rows left out, for they have no image: %s",
            path,
            len(missing),
            _examples(missing),
        )
    if unlisted := [image.name for isic_id, image in files.items() if isic_id not in seen]:
        logger.warning(
            "%s: %d images left out, for they have no row: %s",
            path,
            len(unlisted),
            _examples(unlisted),
        )


def _examples(names: Sequence[str]) -> str:
    more = f" and {len(names) - EXAMPLES} more" if len(names) > EXAMPLES else ""
    return ", ".join(name or "(no isic_id)" for name in names[:EXAMPLES]) + more


def _report_odd_cells(columns: Mapping[str, Column]) -> None:
    """Log the cells that are no number or boolean where the column's others are."""
    for name, column in columns.items():
        if field_kind(name) is Kind.TEXT:
            continue
        odd = np.flatnonzero(column.select(lambda value: isinstance(value, str)))
        if odd.size:
            row = int(odd[0])
            logger.warning(
                "%d cells of %s are not %s and are served as they are, such as %r of %s",
                odd.size,
                name,
                field_kind(name).value,
                column.value(row),
                columns["isic_id"].value(row),
            )


def _read_collections(path: Path, ids: frozenset[str]) -> dict[int, Collection]:
    """Read the collections; without a file, one holds every image."""
    if not path.is_file():
        return {1: Collection(id=1, name="All images", isic_ids=ids)}
    try:
        collections = TypeAdapter(list[Collection]).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"{path}: {where} {first['msg']}") from error
    by_id = {collection.id: collection for collection in collections}
    if len(by_id) < len(collections):
        raise InputError(f"{path}: two collections have the same id")
    for collection in collections:
        if unknown := sorted(collection.isic_ids - ids):
            logger.warning(
                "%s: collection %d names %d images that are not served: %s",
                path,
                collection.id,
                len(unknown),
                _examples(unknown),
            )
    return by_id


def _read_licenses(folder: Path, column: Column) -> dict[str, str]:
    """Find the text of every licence that an image has: the folder's own, else a notice."""
    present = (str(value) for value in column.values if value is not None)
    texts = {name: f"{name}: this archive holds no text of the licence.\n" for name in present}
    texts |= LICENSE_NOTICES
    texts |= {path.stem: path.read_text("utf-8", "replace") for path in folder.glob("*.txt")}
    return texts
