"""The archive's metadata of an image, checked with `isic-metadata` and given its class.

Nothing is guessed and no image is lost: a value that is not valid becomes None, with an
error that names field and value.
"""

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from dermascan.dataset import DIAGNOSIS_COLUMNS
from dermascan.isic.records import ImageRecord, Scalar
from dermascan.taxonomy import Taxonomy

if TYPE_CHECKING:
    from isic_metadata.metadata import MetadataRow
    from pydantic_core import ErrorDetails

OLDEST = 120
OLDEST_GROUP = 85  # ISIC gives no age above it, so that nobody is recognised by it
_AGE = re.compile(r"([0-9]{1,3})(?:\.0*)?|85\+")
_HIERARCHIES = ("diagnosis", "anatom_site")
_LONGEST_SHOWN = 100

# isic-metadata 6 no longer has this field; the values are those of isic-metadata 4.
ANATOM_SITES_GENERAL = frozenset(
    {
        "head/neck",
        "upper extremity",
        "lower extremity",
        "anterior torso",
        "posterior torso",
        "palms/soles",
        "lateral torso",
        "oral/genital",
    }
)


class ParsedMetadata(BaseModel):
    """The ISIC columns of a manifest row, each None where the archive has no valid value.

    Attributes:
        diagnosis_1: outermost level of the diagnosis; the others refine it.
        age_approx: years; 85 means 85 or more.
        lesion_class: of `dermascan.taxonomy`, None when no class covers the diagnosis.
        errors: what was not valid, one sentence each.
    """

    model_config = ConfigDict(frozen=True)

    patient_id: str | None = None
    lesion_id: str | None = None
    diagnosis_1: str | None = None
    diagnosis_2: str | None = None
    diagnosis_3: str | None = None
    diagnosis_4: str | None = None
    diagnosis_5: str | None = None
    diagnosis_confirm_type: str | None = None
    image_type: str | None = None
    age_approx: int | None = None
    sex: str | None = None
    anatom_site_general: str | None = None
    fitzpatrick_skin_type: str | None = None
    lesion_class: str | None = None
    errors: tuple[str, ...] = ()


def parse_metadata(record: ImageRecord, taxonomy: Taxonomy | None = None) -> ParsedMetadata:
    """Validate what the archive says of an image.

    Args:
        record: the image as the archive lists it.
        taxonomy: decides the class; the default one if None.

    Returns:
        The valid values, and an error for each value that was not.
    """
    errors: list[str] = []
    values = _joined(_present(record.metadata))
    aged = _age_checked(values, errors)
    site = _site_checked(values, errors)
    row = _validated(values, errors)
    levels = [getattr(row, column) for column in DIAGNOSIS_COLUMNS]
    return ParsedMetadata(
        **dict(zip(DIAGNOSIS_COLUMNS, levels, strict=True)),
        patient_id=row.patient_id,
        lesion_id=row.lesion_id,
        diagnosis_confirm_type=_text(row.diagnosis_confirm_type),
        image_type=_text(row.image_type),
        age_approx=row.age if aged else None,
        sex=row.sex,
        anatom_site_general=_text(getattr(row, "anatom_site_general", site)),
        fitzpatrick_skin_type=_text(row.fitzpatrick_skin_type),
        lesion_class=(taxonomy or Taxonomy()).lesion_class(levels),
        errors=tuple(errors),
    )


def _present(metadata: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Leave out what says nothing: null, blank text, not-a-number."""
    return {
        field: value
        for field, value in metadata.items()
        if not (
            value is None
            or (isinstance(value, str) and not value.strip())
            or (isinstance(value, float) and not math.isfinite(value))
        )
    }


def _joined(values: dict[str, Scalar]) -> dict[str, Scalar]:
    """Write each hierarchy as one path of its levels, outermost first, colons between."""
    for name in _HIERARCHIES:
        levels = [str(values.pop(f"{name}_{level}", "")).strip() for level in range(1, 6)]
        path = str(values.get(name, ":".join(levels).rstrip(":")))
        if path:
            values[name] = path
    return values


def _age_checked(values: dict[str, Scalar], errors: list[str]) -> bool:
    """Move `age_approx`, the archive's public name, to `age`; tell whether there is one."""
    if "age_approx" not in values:
        return False
    value = values.pop("age_approx")
    digits = None if isinstance(value, bool) else _AGE.fullmatch(str(value).strip())
    if digits is None or int(digits[1] or OLDEST_GROUP) > OLDEST:
        errors.append(f"age_approx {_shown(value)} is not an age of 0 to {OLDEST} years")
        return False
    values["age"] = int(digits[1] or OLDEST_GROUP)
    return True


def _site_checked(values: dict[str, Scalar], errors: list[str]) -> str | None:
    value = values.pop("anatom_site_general", None)
    if value is None:
        return None
    site = str(value).strip().lower()
    if site not in ANATOM_SITES_GENERAL:
        errors.append(f"anatom_site_general {_shown(value)} is not valid")
        return None
    values["anatom_site_general"] = site
    return site


def _validated(values: dict[str, Scalar], errors: list[str]) -> "MetadataRow":
    """Take invalid fields out of `values`, noting each, until the rest is a valid row."""
    from isic_metadata.metadata import (  # noqa: PLC0415  # builds large models, 0.1 s
        MetadataRow,
    )

    for field in values.keys() - (MetadataRow.model_fields.keys() - {"unstructured"}):
        del values[field]
    while True:
        try:
            return MetadataRow.model_validate(dict(values))
        except ValidationError as error:
            faults = [_fault(detail, values) for detail in error.errors(include_url=False)]
        errors.extend(sentence for _, sentence in faults)
        found = {field for fields, _ in faults for field in fields} & values.keys()
        for field in found or set(values):  # a fault of the row as a whole takes all of it
            del values[field]


def _fault(detail: "ErrorDetails", values: Mapping[str, Scalar]) -> tuple[tuple[str, ...], str]:
    """Return the fields that an error is about, and a sentence that names them."""
    if detail["type"] in {"incompatible_fields", "missing_field"}:
        first, second = detail["ctx"]["field1"], detail["ctx"]["field2"]
        said = f"{first} {_shown(values.get(first))}"
        if second not in values:
            return (first,), f"{said} is not valid without {second}"
        return (first, second), f"{said} contradicts {second} {_shown(values[second])}"
    field = str(detail["loc"][0]) if detail["loc"] else "row"
    return (field,), f"{field} {_shown(values.get(field))} is not valid"


def _shown(value: Scalar) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def _text(value: object) -> str | None:
    return None if value is None else str(getattr(value, "value", value))
