import dataclasses

import pytest
from accepted import (
    SENTENCE,
    TRAINING,
    history,
    put_dataset,
    put_promoted,
    put_trained,
    put_verdict,
    summary,
)
from archives import row, write_folder
from scored_tables import scored_table

from dermascan.acceptance.external import ExternalFigures
from dermascan.acceptance.findings import TrainedRun, read_findings
from dermascan.acceptance.machine import Machine
from dermascan.acceptance.reproduction import Reproduction
from dermascan.acceptance.results import (
    BEGIN,
    END,
    Results,
    headline_rows,
    render,
    replace_section,
    require_place,
    write_section,
)
from dermascan.acceptance.timing import DagTimes, TaskTimes
from dermascan.errors import InputError, IntegrityError
from dermascan.evaluation import Estimate, evaluate

HERE = Machine("Some CPU", 2, 24, (), "3.11.7", "2.21.0")
REPRODUCED = Reproduction(24, 24, (), (), (), (), (), 3e-7, "p_nv of ISIC_0000007")
TIMES = DagTimes("train_model", 2, 6000.0, 19.0, (TaskTimes("preprocess", 6, 14.1, 15.9),))


@pytest.fixture
def findings(store, tmp_path):
    folder = write_folder(tmp_path / "images", [row(i) for i in range(24)])
    examples = put_trained(store, folder, put_dataset(store, folder, "made-up"))
    put_verdict(store, folder, "made-up")
    put_promoted(store, folder, "made-up")
    return read_findings(store, TrainedRun("made-up", examples.fingerprint, TRAINING), "made-up")


@pytest.fixture
def results(findings) -> Results:
    return Results(
        archive="made-up.tar",
        command="make acceptance DATA=made-up.tar",
        params=(),
        machine=HERE,
        validation=SENTENCE,
        findings=findings,
        reproduction=REPRODUCED,
        times=(TIMES,),
        external=(),
    )


def tables(text: str) -> list[list[str]]:
    """Return the tables of a Markdown text as their lines."""
    found: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


def row_of(text: str, start: str) -> str:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return line


def test_render_makes_tables_of_equal_rows(results):
    two = [h.model_copy(update={"member": n}) for n in (0, 1) for h in history()]
    training = summary().model_copy(update={"best": (two[1], two[3])})
    external = ExternalFigures("x", 9, 3, 9, 0, 1, 2, Estimate(value=0.7), Estimate(), Estimate())
    findings = dataclasses.replace(results.findings, training=training, history=tuple(two))
    text = render(dataclasses.replace(results, findings=findings, external=(external,)))

    assert len(tables(text)) == 10
    for table in tables(text):
        assert len({line.replace("\\|", "").count("|") for line in table}) == 1, table
        assert len(table) > 2, table
        assert set(table[1]) == {"|", "-"}
    assert "Best epochs: 1, 1" in text


def test_render_shows_what_the_run_found(results):
    text = render(results)

    assert "2 cores of Some CPU, 24 GiB, no GPU, Python 3.11.7, TensorFlow 2.21.0" in text
    assert "largest difference 3e-07 (p_nv of ISIC_0000007); 0.0001 was allowed" in text
    assert "Validation: dataset 'made-up' (24 images) is valid" in text
    assert row_of(text, "mean AUC lost to corruptions of strength 3") == (
        "| mean AUC lost to corruptions of strength 3 (36 images) | 0.030 | 0.010 to 0.050 |"
    )
    assert (
        row_of(text, "size of the exported model") == "| size of the exported model, MiB | 3.0 |  |"
    )
    assert row_of(text, "noise") == "| noise | +0.010 | +0.020 | +0.030 | +0.040 | +0.050 |"
    assert "1 h 01 min for all epochs, 4,000,000 parameters. Best epoch: 1." in text
    assert row_of(text, "`train_model` | 1 h") == "| `train_model` | 1 h 40 min | 19 s | 2 |"
    assert row_of(text, "`train_model` | `pre").endswith("| `preprocess` | 6 | 14.1 to 15.9 |")
    assert "Not the default configuration" not in text
    assert "Other cameras" not in text


def test_render_when_a_figure_is_not_defined_says_so(results):
    assert row_of(render(results), "Dermatofibroma").count("n/a") == 4


def test_headline_rows_leave_out_what_was_not_measured():
    evaluation = evaluate(scored_table(60), 0.4, resamples=20)

    names = " ".join(each.name for each in headline_rows(evaluation))

    assert "corruptions" not in names
    assert "milliseconds" not in names
    assert "activation maps" not in names
    assert "worst slice" not in names


def test_headline_rows_give_each_figure_beside_what_chance_or_habit_gives():
    table = scored_table(300)
    evaluation = evaluate(table, 0.4, resamples=50)

    rows = {each.name: each for each in headline_rows(evaluation)}

    majority = table["lesion_class"].value_counts().max() / 300
    name = f"accuracy, seven classes (always the commonest: {majority:.3f})"
    assert rows[name].value == f"{evaluation.accuracy.value:.3f}"
    low, high = evaluation.accuracy.low, evaluation.accuracy.high
    assert rows[name].interval == f"{low:.3f} to {high:.3f}"


def test_replace_section_keeps_what_is_written_by_hand(tmp_path):
    page = f"# Title\n{BEGIN}\nold\n{END}\nend\n"

    once = replace_section(page, "new\n", tmp_path)

    assert once == f"# Title\n{BEGIN}\nnew\n{END}\nend\n"
    assert replace_section(once, "new\n", tmp_path) == once


@pytest.mark.parametrize(
    "page", ["", BEGIN, END, f"{END}{BEGIN}", f"{BEGIN}{END}{END}", f"{BEGIN}{END}{BEGIN}{END}"]
)
def test_replace_section_when_the_place_is_not_clear_refuses(tmp_path, page):
    with pytest.raises(InputError, match=r"page\.md needs one line"):
        replace_section(page, "new", tmp_path / "page.md")


def test_write_section_when_there_is_no_page_makes_one_that_can_be_written_again(tmp_path):
    path = tmp_path / "docs" / "page.md"

    require_place(path)
    write_section(path, "first")
    write_section(path, "second")

    assert path.read_text() == f"{BEGIN}\nsecond\n{END}\n"


def test_the_projects_page_has_a_place_for_the_results():
    from pathlib import Path  # noqa: PLC0415  # only here

    require_place(Path(__file__).parents[2] / "docs" / "results.md")


@pytest.mark.parametrize(
    "returned", [None, {}, {"training": "x"}, {"examples": "x", "training": 1}]
)
def test_trained_run_when_the_task_returned_something_else_says_so(returned):
    with pytest.raises(IntegrityError, match="should name its results"):
        TrainedRun.of(returned)


def test_read_findings_when_the_dataset_was_published_anew_refuses(store, tmp_path, findings):
    folder = write_folder(tmp_path / "more", [row(i) for i in range(26)])
    put_dataset(store, folder, "made-up")
    run = TrainedRun("made-up", findings.examples.fingerprint, TRAINING)

    with pytest.raises(IntegrityError, match="published anew"):
        read_findings(store, run, "made-up")
