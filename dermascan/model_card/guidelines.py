"""Which item of a reporting guideline is answered where, and which nobody but authors can."""

from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from dermascan.errors import InputError

Status = Literal["answered", "partly", "authors", "not applicable"]
Place = Annotated[str, StringConstraints(pattern=r"^(card|report)\.[a-z-]+$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Item(_Frozen):
    """One item of a guideline.

    Attributes:
        number: in the guideline, such as "12a".
        topic: what it asks for, not in the guideline's words.
        status: whether the card or the report answers it, in part, or only authors can.
        where: `card.<anchor>` or `report.<anchor>`.
        note: what the answer leaves open, or why there is none.
    """

    number: Annotated[str, BeforeValidator(str)]
    topic: str = Field(min_length=1)
    status: Status
    where: tuple[Place, ...] = ()
    note: str = ""

    @model_validator(mode="after")
    def _is_honest(self) -> Self:
        if self.status in {"answered", "partly"} and not self.where:
            raise ValueError(f"item {self.number} is said to be answered, but not where")
        if self.status != "answered" and not self.note:
            raise ValueError(f"item {self.number} is not answered, and the note does not say why")
        return self


class Guideline(_Frozen):
    """A reporting guideline and its items, in its own order."""

    name: str
    title: str
    source: str
    items: tuple[Item, ...] = Field(min_length=1)


class ReportingItems(_Frozen):
    """The guidelines of one file."""

    guidelines: tuple[Guideline, ...] = Field(min_length=1)


def load_reporting_items(path: Path) -> ReportingItems:
    """Read the mapping of guideline items, such as `include/reporting_items.yaml`.

    Raises:
        InputError: the file cannot be read or does not have the form of `ReportingItems`.
    """
    try:
        return ReportingItems.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read as YAML: {error}") from error
    except ValidationError as error:
        raise InputError(f"{path} does not map reporting items: {error}") from error
