"""A few of many, page by page."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Page(Generic[T]):
    """One page of a list.

    Attributes:
        items: what is on it.
        number: of the page, from 1.
        count: of all pages, at least 1.
    """

    items: tuple[T, ...]
    number: int
    count: int


def paged(items: Sequence[T], number: int, size: int) -> Page[T]:
    """Return one page of a sequence; the last one if there are fewer."""
    count = max(1, -(-len(items) // size))
    chosen = min(max(1, number), count)
    return Page(tuple(items[(chosen - 1) * size : chosen * size]), chosen, count)
