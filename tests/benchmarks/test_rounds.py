import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.report import Conditions, Report, spread
from benchmarks.rounds import Contender, Outcome, Timing, Trial, compare
from dermascan.cli import app


def contenders(log: list[str], **seconds: list[float]) -> tuple[Contender, ...]:
    def run(name: str) -> float:
        log.append(name)
        return seconds[name][log.count(name) - 1]

    return tuple(
        Contender(name, "ours" if name == "a" else "peer", lambda name=name: run(name))
        for name in seconds
    )


def test_compare_leaves_out_the_warm_up_and_begins_each_round_with_another():
    log: list[str] = []
    trial = Trial("t", 6, "images", contenders(log, a=[9.0, 1, 2, 3], b=[9.0, 2, 2, 2]))

    outcome = compare(trial, 3, lambda _: None)

    assert log == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert [timing.seconds for timing in outcome.timings] == [(1, 2, 3), (2, 2, 2)]
    assert outcome.rates(outcome.timings[0]) == [6, 3, 2]


def test_lead_compares_within_rounds_so_that_a_slow_round_of_both_does_not_count():
    ours, other = Timing("a", "ours", (1.0, 10.0, 1.0)), Timing("b", "peer", (2.0, 20.0, 2.0))

    assert Outcome("t", 1, "images", (ours, other)).lead(other) == pytest.approx(2)


def test_spread_when_numbers_are_large_has_no_fractions():
    assert spread([1234.5, 0.5, 2.25]) == "2.25 (0.5 to 1,234)"


def test_report_writes_table_raw_figures_and_plot(tmp_path: Path):
    timings = (Timing("Own", "ours", (1.0, 2.0)), Timing("Other", "peer", (3.0, 6.0)))
    conditions = Conditions("a machine", (0.5, 1.5), "drawn images", "2026-01-01T00:00:00+00:00")
    outcome = Outcome("Small", 12, "images", timings)
    report = Report("name", "Title", "first", "dermascan benchmark name", [outcome], conditions)

    page, raw, plot = report.write(tmp_path / "out")

    text = page.read_text()
    assert "| **Own** | 9 (6 to 12) | 1.5 (1 to 2) |  |" in text
    assert "| Other | 3 (2 to 4) | 4.5 (3 to 6) | 3.00 x |" in text
    assert "load 0.5 before and 1.5 after" in text
    assert "Not a medical device" in text
    assert json.loads(raw.read_text())["outcomes"][0]["timings"][1]["seconds"] == [3.0, 6.0]
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_benchmark_when_there_is_none_of_that_name_names_those_there_are():
    run = CliRunner().invoke(app, ["benchmark", "rounds"])

    assert run.exit_code == 2
    assert "upload" in run.stderr
