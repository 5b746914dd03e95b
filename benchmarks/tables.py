"""Findings that are no race: tables of figures, with no contenders and no rates."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.report import Conditions
from dermascan import DISCLAIMER, __version__


@dataclass(frozen=True)
class Table:
    """Figures as people read them.

    Attributes:
        title: what they are of.
        head: names of the columns; the first column is text, the others are figures.
        rows: one text for each column.
        note: what must be known to read them.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str

    def markdown(self) -> list[str]:
        """Return the lines of the table with its title and note."""
        rule = ("---", *("---:" for _ in self.head[1:]))
        lines = [f"| {' | '.join(row)} |" for row in (self.head, rule, *self.rows)]
        return [f"## {self.title}", "", *lines, "", self.note, ""]


@dataclass(frozen=True)
class TableReport:
    """One benchmark of tables: `command` is what repeats it."""

    name: str
    title: str
    aim: str
    command: str
    tables: Sequence[Table]
    conditions: Conditions

    def write(self, out: Path) -> list[Path]:
        """Write NAME.md and NAME.json to a folder; return their paths."""
        out.mkdir(parents=True, exist_ok=True)
        paths = [out / f"{self.name}{suffix}" for suffix in (".md", ".json")]
        paths[0].write_text(self.markdown(), encoding="utf-8")
        raw = {"version": __version__, **asdict(self)}
        paths[1].write_text(json.dumps(raw, indent=1, sort_keys=True), encoding="utf-8")
        return paths

    def markdown(self) -> str:
        """Return the page of the benchmark."""
        lines = [f"# {self.title}", "", f"Aim: {self.aim}.", ""]
        for table in self.tables:
            lines += table.markdown()
        return "\n".join([*lines, self.conditions.sentence(self.command), "", f"{DISCLAIMER}\n"])
