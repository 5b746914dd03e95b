"""What became of a run, in a sentence or two that people read above its graph."""

from dermascan.errors import DermaScanError, PermanentError
from dermascan.inference import BatchPlan, BatchSummary
from dermascan.validation import ValidationResult

_LONGEST_REASON = 400  # characters; Airflow keeps 1,000 of a note


def note_on_dataset(result: ValidationResult) -> str:
    """Say what an ingest published."""
    text = result.summary()
    return f"{text[0].upper()}{text[1:]}."


def note_on_promotion(model: str, version: int, figures: str) -> str:
    """Say what a training became, with the figures in one line."""
    return f"{model} version {version} met the gate's rules and was made champion. {figures}."


def note_on_predictions(plan: BatchPlan, summary: BatchSummary) -> str:
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
