"""What was measured, as a table, as raw figures and as a plot."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.rounds import Outcome, Timing
from dermascan import DISCLAIMER, __version__
from dermascan.acceptance.machine import Machine

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HOW_TO_READ = (
    "Medians, lowest and highest round in brackets. The last column is the median, over the "
    "rounds, of how many times as fast as the row DermaScan was in the same round."
)
_COLOURS = {"ours": "#bf4514", "peer": "#1f5fa8", "limit": "#56657a"}


@dataclass(frozen=True)
class Conditions:
    """What figures depend on besides the code.

    Attributes:
        machine: in words.
        load: processes that wanted a core in the last minute, before and after.
        images: where the images came from.
        started: in UTC.
    """

    machine: str
    load: tuple[float, float]
    images: str
    started: str

    @classmethod
    def since(cls, started: datetime, load: float, images: str) -> "Conditions":
        """Describe a run that ends now."""
        moment = started.astimezone(UTC).isoformat(timespec="seconds")
        return cls(str(Machine.here()), (load, os.getloadavg()[0]), images, moment)

    def sentence(self, command: str) -> str:
        """Say under which conditions a command gave its figures."""
        before, after = self.load
        where = f"{self.started}, {self.images}; {self.machine}"
        return f"`{command}`, {where}; load {before:.1f} before and {after:.1f} after."


@dataclass(frozen=True)
class Report:
    """One benchmark: `command` is what repeats it."""

    name: str
    title: str
    aim: str
    command: str
    outcomes: Sequence[Outcome]
    conditions: Conditions

    def write(self, out: Path) -> list[Path]:
        """Write NAME.md, NAME.json and NAME.png to a folder; return their paths."""
        out.mkdir(parents=True, exist_ok=True)
        paths = [out / f"{self.name}{suffix}" for suffix in (".md", ".json", ".png")]
        paths[0].write_text(self.markdown(), encoding="utf-8")
        raw = {"version": __version__, **asdict(self)}
        paths[1].write_text(json.dumps(raw, indent=1, sort_keys=True), encoding="utf-8")
        _plot(self, paths[2])
        return paths

    def markdown(self) -> str:
        """Return the page of the benchmark."""
        lines = [f"# {self.title}", "", f"Aim: {self.aim}.", ""]
        for outcome in self.outcomes:
            lines += [f"## {outcome.title}", "", *_table(outcome), ""]
        return "\n".join([*lines, *self._notes()])

    def _notes(self) -> list[str]:
        return [
            _HOW_TO_READ,
            "",
            self.conditions.sentence(self.command),
            "",
            f"{DISCLAIMER}\n",
        ]


def _table(outcome: Outcome) -> list[str]:
    head = f"| | {outcome.unit}/s | seconds for {outcome.amount:,} | DermaScan is |"
    rows = [head, "|---|---:|---:|---:|"]
    for timing in outcome.timings:
        rates, seconds = spread(outcome.rates(timing)), spread(timing.seconds)
        lead = "" if timing.role == "ours" else f"{outcome.lead(timing):.2f} x"
        rows.append(f"| {_label(timing)} | {rates} | {seconds} | {lead} |")
    return rows


def spread(values: Sequence[float]) -> str:
    """Return the median with the lowest and the highest value."""
    return f"{_number(median(values))} ({_number(min(values))} to {_number(max(values))})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _label(timing: Timing) -> str:
    named = {"ours": f"**{timing.name}**", "limit": f"*limit:* {timing.name}"}
    return named.get(timing.role, timing.name)


def _plot(report: Report, path: Path) -> None:
    from matplotlib.figure import Figure  # noqa: PLC0415  # fast start

    bars = sum(len(outcome.timings) + 1.5 for outcome in report.outcomes)
    figure = Figure(figsize=(8, 0.9 + 0.36 * bars), layout="constrained")
    heights = [len(outcome.timings) + 1.5 for outcome in report.outcomes]
    axes = figure.subplots(len(report.outcomes), 1, squeeze=False, height_ratios=heights)
    for each, outcome in zip(axes[:, 0], report.outcomes, strict=True):
        _bars(each, outcome)
    figure.suptitle(report.title, fontsize=11)
    figure.savefig(path, dpi=120)


def _bars(axes: "Axes", outcome: Outcome) -> None:
    for row, timing in enumerate(outcome.timings):
        rates = outcome.rates(timing)
        middle = median(rates)
        axes.barh(row, middle, color=_COLOURS[timing.role], height=0.7)
        axes.plot([min(rates), max(rates)], [row, row], color="#15202c", linewidth=1.2)
        axes.annotate(
            f" {_number(middle)}", (max(rates), row), va="center", xytext=(3, 0),
            textcoords="offset points", fontsize=8.5,
        )  # fmt: skip
    names = [f"{t.name} (limit)" if t.role == "limit" else t.name for t in outcome.timings]
    axes.set_yticks(range(len(names)), names, fontsize=8.5)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    axes.set_title(outcome.title, loc="left", fontsize=9.5)
    axes.set_xlabel(f"{outcome.unit}/s", fontsize=8.5)
    axes.tick_params(axis="x", labelsize=8.5)
    axes.spines[["top", "right"]].set_visible(False)
