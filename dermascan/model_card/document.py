"""A document of headings, paragraphs, lists and tables, as HTML and as Markdown."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from dermascan import DISCLAIMER, __version__
from dermascan.reporting.page import ReportContext, render

# What Markdown gives a meaning to anywhere in a line, and what HTML does.
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|~#])")
# What it gives a meaning to at the beginning of a line.
_LEADING = re.compile(r"^(\s*)([-+=]|\d+(?=[.)]))")


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list without an order."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """Pairs of a name and a value."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Table:
    """A table; the first column names the rows.

    Attributes:
        caption: what it shows, read out to those who cannot see it; no two tables share one.
        head: names of the columns.
        rows: each as long as the head.
    """

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


Block = Paragraph | Bullets | Facts | Table


@dataclass(frozen=True)
class Section:
    """A heading and what is under it.

    Attributes:
        anchor: names the section in links; lower-case letters and hyphens.
        title: the heading.
        blocks: in order.
        is_part: whether it belongs to the section before it.
    """

    anchor: str
    title: str
    blocks: tuple[Block, ...]
    is_part: bool = False


@dataclass(frozen=True)
class Card:
    """A model card, before it is rendered."""

    title: str
    subtitle: str
    sections: tuple[Section, ...]


def card_html(card: Card) -> str:
    """Render a card as a complete HTML document that loads nothing."""
    kinds = {Paragraph: "paragraph", Bullets: "bullets", Facts: "facts", Table: "table"}
    return render(
        "model_card.html.j2",
        context=ReportContext(card.title, card.subtitle),
        sections=card.sections,
        kind_of=lambda block: kinds[type(block)],
    )


def card_markdown(card: Card) -> str:
    """Render a card as Markdown (CommonMark with tables); all text is escaped."""
    parts = [f"# {_escape(card.title)}", _escape(card.subtitle), f"> {_escape(DISCLAIMER)}"]
    for section in card.sections:
        parts.append(f"{'###' if section.is_part else '##'} {_escape(section.title)}")
        parts.extend(_block(block) for block in section.blocks)
    parts.append(f"Made by DermaScan {_escape(__version__)}.")
    return "\n\n".join(part for part in parts if part) + "\n"


def _block(block: Block) -> str:
    match block:
        case Paragraph(text):
            return _escape(text)
        case Bullets(items):
            return "\n".join(f"- {_escape(item)}" for item in items)
        case Facts(pairs):
            return "\n".join(f"- **{_escape(name)}:** {_escape(value)}" for name, value in pairs)
        case Table():
            return "\n".join(_table(block))


def _table(table: Table) -> Iterator[str]:
    yield _row(table.head)
    yield _row(("---",) * len(table.head), escape=False)
    for row in table.rows:
        yield _row(row)


def _row(cells: tuple[str, ...], *, escape: bool = True) -> str:
    return f"| {' | '.join(_escape(cell) if escape else cell for cell in cells)} |"


def _escape(text: str) -> str:
    """Take from text every meaning that Markdown or HTML would give it; it stays on one line."""
    line = _SPECIAL.sub(r"\\\1", " ".join(text.replace("&", "&amp;").split()))
    return _LEADING.sub(lambda found: f"{found[1]}{_disarmed(found[2])}", line)


def _disarmed(start: str) -> str:
    """Escape what would begin a list or a heading; a number is escaped behind its digits."""
    return start if start.isdigit() else f"\\{start}"
