"""A long search as several short ones, whose pages can be asked for at the same time.

Where a page of results begins is said in the page before it, so the pages of one search come one
after the other. The query language knows how identifiers begin, and an identifier is `ISIC_` with
seven digits: by these, a search is cut until its parts are short.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

MOST_IN_A_PART = 1000  # images, ten pages of the public archive
IDENTIFIER_DIGITS = 7

# Told queries; returns how many images each finds, or None if one of them is not understood.
Count = Callable[[Sequence[str]], Sequence[int] | None]


@dataclass(frozen=True)
class _Part:
    digits: str
    images: int
    divisible: bool = True

    @property
    def is_long(self) -> bool:
        return (
            self.divisible and self.images > MOST_IN_A_PART and len(self.digits) < IDENTIFIER_DIGITS
        )

    @property
    def digits_inside(self) -> list[str]:
        return [self.digits + digit for digit in "0123456789"]

    def divided(self, counts: Sequence[int] | None) -> "list[_Part]":
        """Return the parts inside that have images, or the part as it is if they are not all."""
        if counts is None or sum(counts) != self.images:
            return [replace(self, divisible=False)]
        inside = zip(self.digits_inside, counts, strict=True)
        return [_Part(digits, images) for digits, images in inside if images]


def divide(query: str, images: int, count: Count) -> list[str]:
    """Return queries that together find what one finds, each image once.

    A query is only divided where the numbers of the parts add up, so an archive that does not
    understand the condition on identifiers, or has other ones, gets the query as it was.

    Args:
        query: in the archive's query language, "" for all.
        images: that it finds.
        count: asks the archive; is told all queries of a round at once.
    """
    parts = [_Part("", images)]
    while long := [part for part in parts if part.is_long]:
        inside = [_narrowed(query, digits) for part in long for digits in part.digits_inside]
        counts = count(inside)
        divided = {
            part: part.divided(None if counts is None else counts[10 * i : 10 * (i + 1)])
            for i, part in enumerate(long)
        }
        parts = [piece for part in parts for piece in divided.get(part, [part])]
    return [_narrowed(query, part.digits) if part.digits else query for part in parts]


def _narrowed(query: str, digits: str) -> str:
    condition = f"isic_id:ISIC_{digits}*"
    return f"({query}) AND {condition}" if query.strip() else condition
