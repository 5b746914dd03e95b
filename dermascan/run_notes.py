"""What became of a run, in a sentence or two that people read above its graph."""

from typing import TYPE_CHECKING

from dermascan.errors import DermaScanError, PermanentError

if TYPE_CHECKING:
    from dermascan.inference.batch import BatchPlan, BatchSummary
    from dermascan.validation import ValidationResult

OUTCOME = "**Outcome:** "
NOTE_KEY = "dermascan_note"  # under which tasks leave a sentence for the note
_LONGEST = 1000  # characters that Airflow keeps of a note
_LONGEST_REASON = 400
_LEAST = 40  # less of an outcome says nothing


def note_on_dataset(result: "ValidationResult") -> str:
    """Say what an ingest published."""
    text = result.summary()
    return f"{text[0].upper()}{text[1:]}."


def note_on_promotion(model: str, version: int, figures: str) -> str:
    """Say what a training became, with the figures in one line."""
    return f"{model} version {version} met the gate's rules and was made champion. {figures}."


def note_on_predictions(plan: "BatchPlan", summary: "BatchSummary") -> str:
    """Say what a batch inference found."""
    return (
        f"{plan.model} version {plan.version} scored {summary.scored} objects under {plan.prefix}, "
        f"{summary.malignant} of them labelled malignant; {summary.rejected} were rejected."
    )


def note_on_rollback(model: str, version: int, by: str, reason: str) -> str:
    """Say which version is champion again."""
    return f"{model} version {version} is champion, by {by}: {reason}."


def note_on_failure(error: BaseException | str) -> str:
    """Say why a task failed, and what to do.

    Args:
        error: what ended it; the library's own errors say what to do, so the rest is left to
            the log.
    """
    lines = str(error).strip().splitlines()
    reason = lines[0][:_LONGEST_REASON] if lines else ""
    kind = "" if isinstance(error, str) else type(error).__name__
    said = f"{kind}: {reason}" if kind and reason else kind or reason or "no reason was given"
    return f"{said.rstrip('.')}. {_remedy(error)}"


def _remedy(error: BaseException | str) -> str:
    if isinstance(error, PermanentError):
        return "Trying again cannot mend this: the task's log says more."
    if isinstance(error, DermaScanError):
        return "It was tried several times: once the cause is gone, clear the task."
    return "The task's log says more; clear the task to try again."


def with_outcome(note: str, outcome: str) -> str:
    """Return a run's note with an outcome below what a person wrote, which is never shortened.

    Args:
        note: as it is, with the outcome of an earlier try or not.
        outcome: what became of the run; empty takes an earlier one away.
    """
    theirs = note.partition(OUTCOME)[0].rstrip()
    start = f"{theirs}\n\n{OUTCOME}" if theirs else OUTCOME
    room = _LONGEST - len(start)
    if not outcome or room < _LEAST:
        return theirs
    return start + (outcome if len(outcome) <= room else f"{outcome[: room - 1]}…")
