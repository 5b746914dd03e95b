"""What the ISIC archive's API says of images, checked where it enters."""

import gzip
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, TypeVar
from urllib.parse import urljoin

from pydantic import BaseModel, Field, JsonValue, NonNegativeInt, ValidationError

from dermascan.errors import PermanentError
from dermascan.fingerprint import Plain, canonical_json

Scalar = str | int | float | bool | None

WHERE_TO_SET = "DERMASCAN_ISIC_URL or the isic_archive connection"

_COMPRESSION_LEVEL = 1
_EXTENSIONS = frozenset({"jpg", "jpeg", "png"})


@dataclass(frozen=True)
class ImageRecord:
    """One image as the archive lists it.

    Attributes:
        isic_id: such as `ISIC_0024306`; as it came, so check it before it goes into a key.
        url: where the file is; a signed URL expires.
        size: promised bytes of the file.
        extension: `jpg`, `jpeg` or `png`, `jpg` when the URL does not say.
        copyright_license: such as `CC-BY-NC`.
        attribution: whom to name, "" when nobody.
        metadata: the archive's acquisition and clinical fields in one flat mapping.
    """

    isic_id: str
    url: str
    size: int
    extension: str
    copyright_license: str
    attribution: str
    metadata: Mapping[str, Scalar]

    def to_plain(self) -> dict[str, Plain]:
        """Return the record as a JSON-ready mapping."""
        return {
            "isic_id": self.isic_id,
            "url": self.url,
            "size": self.size,
            "extension": self.extension,
            "copyright_license": self.copyright_license,
            "attribution": self.attribution,
            "metadata": dict(self.metadata),
        }

    def to_line(self) -> bytes:
        """Encode as one JSON line."""
        return canonical_json(self.to_plain()) + b"\n"

    @classmethod
    def from_plain(cls, value: Mapping[str, Plain]) -> "ImageRecord":
        """Return the record that `to_plain` made a mapping of."""
        return cls(**value)  # type: ignore[arg-type]  # JSON written by to_plain()


@dataclass(frozen=True)
class PackedRecords:
    """Records that take little memory until they are gone through, which can be done repeatedly.

    Attributes:
        packed: a record in JSON a line, as a gzip file; equal records give equal bytes.
    """

    packed: bytes

    @classmethod
    def of(cls, records: Iterable[ImageRecord]) -> "PackedRecords":
        """Pack records, one in memory at a time."""
        return cls.of_lines(record.to_line() for record in records)

    @classmethod
    def of_lines(cls, lines: Iterable[bytes]) -> "PackedRecords":
        """Pack the lines of records, one in memory at a time."""
        packed = io.BytesIO()
        with gzip.GzipFile("", "wb", _COMPRESSION_LEVEL, packed, mtime=0) as file:
            file.writelines(lines)
        return cls(packed.getvalue())

    def __iter__(self) -> Iterator[ImageRecord]:
        """Yield the records in order."""
        return (ImageRecord.from_plain(json.loads(line)) for line in self._lines())

    def __len__(self) -> int:
        """Count the records."""
        return sum(1 for _ in self._lines())

    def _lines(self) -> Iterator[bytes]:
        return iter(gzip.open(io.BytesIO(self.packed)))


@dataclass(frozen=True)
class Page:
    """A page of search results.

    Attributes:
        images: in the archive's order.
        count: images on all pages together; the archive says so on the first page only.
        next_parameters: query string of the next page's URL, None on the last page.
    """

    images: tuple[ImageRecord, ...]
    count: int | None
    next_parameters: str | None


def parse_page(body: bytes, url: str) -> Page:
    """Read a page of search results.

    Raises:
        PermanentError: it is not one; the message names `url` and the first wrong field.
    """
    page = _parsed(_Page, body, url)
    # Only the query of `next` is used: behind a proxy its host may be a wrong one.
    next_parameters = page.next.partition("?")[2] if page.next else None
    images = tuple(_record(image, url) for image in page.results)
    return Page(images, page.count, next_parameters)


def parse_image(body: bytes, url: str) -> ImageRecord:
    """Read what the archive says of a single image.

    Raises:
        PermanentError: it is not that; the message names `url` and the first wrong field.
    """
    return _record(_parsed(_Image, body, url), url)


class _File(BaseModel):
    url: str
    size: NonNegativeInt


class _Files(BaseModel):
    full: _File


class _Image(BaseModel):
    isic_id: Annotated[str, Field(min_length=1)]
    copyright_license: str
    attribution: str | None = None
    files: _Files
    metadata: dict[str, JsonValue] = Field(default_factory=dict)


class _Page(BaseModel):
    results: list[_Image]
    count: NonNegativeInt | None = None
    next: str | None = None


_Model = TypeVar("_Model", bound=BaseModel)


def _parsed(model: type[_Model], body: bytes, url: str) -> _Model:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(step) for step in first["loc"]) or "the answer as a whole"
        raise PermanentError(
            f"{url}: {field}: {first['msg']}: this is not what an ISIC archive answers, "
            f"check {WHERE_TO_SET}"
        ) from error


def _record(image: _Image, page_url: str) -> ImageRecord:
    url = _absolute(image.files.full.url, page_url)
    return ImageRecord(
        isic_id=image.isic_id,
        url=url,
        size=image.files.full.size,
        extension=_extension(url),
        copyright_license=image.copyright_license,
        attribution=image.attribution or "",
        metadata=_flat(image.metadata),
    )


def _absolute(url: str, page_url: str) -> str:
    try:
        return urljoin(page_url, url)
    except ValueError:  # such as an unclosed IPv6 address; the download will say so
        return url


def _flat(groups: Mapping[str, JsonValue]) -> dict[str, Scalar]:
    """Merge the groups `acquisition` and `clinical`; a value that is no scalar stays as JSON."""
    flat: dict[str, Scalar] = {}
    for name, value in groups.items():
        fields = value if isinstance(value, dict) else {name: value}
        flat.update({field: _scalar(content) for field, content in fields.items()})
    return flat


def _scalar(value: JsonValue) -> Scalar:
    if isinstance(value, list | dict):
        return json.dumps(value, sort_keys=True)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _extension(url: str) -> str:
    path = url.partition("?")[0].partition("#")[0]
    suffix = PurePosixPath(path).suffix.lower().lstrip(".")
    return suffix if suffix in _EXTENSIONS else "jpg"
