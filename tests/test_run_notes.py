import pytest

from dermascan.errors import GateFailedError, NotFoundError, TransientError
from dermascan.inference.batch import BatchPlan, BatchSummary
from dermascan.run_notes import (
    OUTCOME,
    note_on_dataset,
    note_on_failure,
    note_on_predictions,
    note_on_promotion,
    note_on_rollback,
    with_outcome,
)
from dermascan.validation import ExpectationOutcome, ValidationResult


def test_notes_say_what_a_run_came_to():
    outcome = ExpectationOutcome(
        suite="images", name="n", severity="warning", success=False, observed="o", expected="e",
        why="w", unexpected_count=1, example_ids=(),
    )  # fmt: skip
    result = ValidationResult(
        dataset="isic", manifest="m", suites="s", images=90, success=True,
        expectations=(outcome,), data_docs="d", great_expectations="1",
    )  # fmt: skip
    assert note_on_dataset(result) == (
        "Dataset 'isic' (90 images) is valid: 0 of 1 expectations hold "
        "(broken: 0 critical, 1 warning)."
    )
    assert note_on_promotion("m", 7, "9 test images: AUC 0.900") == (
        "m version 7 met the gate's rules and was made champion. 9 test images: AUC 0.900."
    )
    plan = BatchPlan("7-a", "s3://b/new/", "b", "m", 7, 1, 5)
    assert note_on_predictions(plan, BatchSummary("7-a", "p", 4, 1, 2, 7)) == (
        "m version 7 scored 4 objects under s3://b/new/, 2 of them labelled malignant; "
        "1 were rejected."
    )
    assert note_on_rollback("m", 6, "ann", "false alarms") == (
        "m version 6 is champion, by ann: false alarms."
    )


@pytest.mark.parametrize(
    ("error", "expected", "remedy"),
    [
        (NotFoundError("no champion: train"), "NotFoundError: no champion: train.", "cannot mend"),
        (GateFailedError("a table\nrow\nrow"), "GateFailedError: a table.", "cannot mend"),
        (TransientError("S3 is away."), "TransientError: S3 is away.", "once the cause is gone"),
        (ValueError(), "ValueError.", "clear the task to try again"),
        ("", "no reason was given.", "clear the task to try again"),
    ],
)
def test_note_on_a_failure_says_why_and_what_to_do(error, expected, remedy):
    note = note_on_failure(error)
    assert note.startswith(expected)
    assert remedy in note


def test_note_on_a_failure_with_a_long_reason_stays_short():
    assert len(note_on_failure(ValueError("x" * 10_000))) < 600


def test_an_outcome_stands_below_what_a_person_wrote_and_replaces_an_earlier_one():
    first = with_outcome("Ask Ann.", "It failed.")
    assert first == f"Ask Ann.\n\n{OUTCOME}It failed."
    assert with_outcome(first, "It went well.") == f"Ask Ann.\n\n{OUTCOME}It went well."
    assert with_outcome(first, "") == "Ask Ann."
    assert with_outcome("", "It went well.") == f"{OUTCOME}It went well."
    assert with_outcome(f"{OUTCOME}It failed.", "") == ""


def test_an_outcome_is_shortened_to_what_airflow_keeps_and_a_person_s_words_are_not():
    assert len(with_outcome("Ask Ann.", "x" * 2000)) == 1000
    full = "y" * 980
    assert with_outcome(full, "It failed.") == full
