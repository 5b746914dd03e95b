from datetime import UTC, datetime

import pytest

from benchmarks.memory import Peak, peak_table
from benchmarks.overhead import RunNotes, TaskNote, covered, parts_table, ratio_table
from benchmarks.report import Conditions
from benchmarks.tables import Table, TableReport


def test_peak_table_tells_growth_and_bytes_an_image_from_fewest_to_most():
    found = {
        1_000: [Peak("plan", 100 * 1024), Peak("split", 200 * 1024)],
        11_000: [Peak("plan", 100 * 1024), Peak("split", 250 * 1024)],
    }

    table = peak_table(found)

    assert table.head[1:3] == ("1,000 images", "11,000 images")
    assert table.rows == (
        ("plan", "100", "100", "1.00 x", "0"),
        ("split", "200", "250", "1.25 x", "5243"),
    )


def test_covered_counts_seconds_in_which_spans_overlap_once():
    assert covered([(5, 7), (0, 2), (1, 3)]) == pytest.approx(5)


def test_overhead_tables_take_imports_for_no_library_call():
    task = TaskNote(started=10, stopped=20, began=12, ended=19, importing=3)
    beside = TaskNote(started=14, stopped=20, began=15, ended=19, importing=0)
    run = RunNotes("train_model", 16.0, (task, beside))

    (ratios,), (parts,) = ratio_table([run]).rows, parts_table([run]).rows

    assert ratios == ("train_model", "16.0", "10.0", "4.0", "8.0", "4.00 x", "2.00 x")
    assert parts == ("train_model", "2", "3.0", "3.0", "8.0", "6.0")


def test_table_report_writes_a_page_and_raw_figures(tmp_path):
    conditions = Conditions.since(datetime.now(UTC), 1.5, "tiny images")
    table = Table("Peak", ("", "MiB"), (("plan", "109"),), "Of one process.")
    report = TableReport(
        "memory", "Memory", "flat", "dermascan benchmark memory", [table], conditions
    )

    page, raw = report.write(tmp_path / "out")

    text = page.read_text()
    assert "|  | MiB |\n| --- | ---: |\n| plan | 109 |" in text
    assert "load 1.5 before" in text
    assert "Not a medical device" in text
    assert '"plan"' in raw.read_text()
