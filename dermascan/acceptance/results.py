"""The part of a Markdown page that an acceptance run writes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from dermascan.acceptance.external import ExternalFigures
from dermascan.acceptance.findings import Findings
from dermascan.acceptance.machine import Machine
from dermascan.acceptance.reproduction import TOLERANCE, Reproduction
from dermascan.acceptance.timing import DagTimes
from dermascan.errors import InputError
from dermascan.evaluation import CorruptionFigures, Estimate, Evaluation
from dermascan.gate import Outcome
from dermascan.progress import format_seconds
from dermascan.reporting.page import NOT_DEFINED, decimal, interval
from dermascan.reporting.words import group_title
from dermascan.taxonomy import CLASS_NAMES

BEGIN, END = "<!-- acceptance: begin -->", "<!-- acceptance: end -->"
TEMPLATE = "acceptance.md.j2"
_MIB = 2**20
_OUTCOMES = {Outcome.PASSED: "met", Outcome.FAILED: "not met", Outcome.SHOWN: "shown only"}


@dataclass(frozen=True)
class Results:
    """All that an acceptance run found out.

    Attributes:
        archive: file name of the archive.
        command: that repeats the run.
        params: of `train_model` other than its defaults, `name=value`.
        validation: sentence on the dataset's validation.
        times: of the DAGs.
        external: figures on other archives.
    """

    archive: str
    command: str
    params: tuple[str, ...]
    machine: Machine
    validation: str
    findings: Findings
    reproduction: Reproduction
    times: tuple[DagTimes, ...]
    external: tuple[ExternalFigures, ...]


@dataclass(frozen=True)
class Row:
    """One figure as it is shown."""

    name: str
    value: str
    interval: str = ""


def render(results: Results) -> str:
    """Return the results as Markdown."""
    environment = Environment(  # nosec B701  # noqa: S701  # Markdown, not HTML; `cell` guards the tables
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "cell": _cell,
        "decimal": decimal,
        "duration": format_seconds,
        "estimate": _estimate,
        "lost": _lost,
        "sentence": _sentence,
    }
    environment.globals |= {
        "class_names": CLASS_NAMES,
        "not_defined": NOT_DEFINED,
        "outcomes": _OUTCOMES,
        "tolerance": TOLERANCE,
    }
    source = resources.files("dermascan").joinpath("templates", TEMPLATE).read_text("utf-8")
    evaluation = results.findings.evaluation
    return environment.from_string(source).render(
        results=results,
        rows=list(headline_rows(evaluation)),
        corruptions=corruption_rows(evaluation.robustness.corruptions)
        if evaluation.robustness
        else {},
        **vars(results.findings),
    )


def headline_rows(evaluation: Evaluation) -> Iterator[Row]:
    """Yield the figures that matter most; those that were not measured are left out."""
    yield from _ranking_rows(evaluation)
    yield from _decision_rows(evaluation)
    yield from _class_rows(evaluation)
    yield from _trust_rows(evaluation)


def _ranking_rows(evaluation: Evaluation) -> Iterator[Row]:
    risk = evaluation.malignant
    chance = decimal(risk.prevalence)
    yield _row("malignant against benign, ROC AUC (chance: 0.5)", risk.roc_auc)
    yield _row("partial AUC above 80 % sensitivity (perfect: 0.2, chance: 0.02)", risk.partial_auc)
    yield _row(f"average precision (chance: {chance}, the prevalence)", risk.average_precision)
    yield _row("sensitivity at 80 % specificity", risk.sensitivity_at_80_specificity)
    yield _row("sensitivity at 90 % specificity", risk.sensitivity_at_90_specificity)
    yield _row("sensitivity at 95 % specificity", risk.sensitivity_at_95_specificity)


def _decision_rows(evaluation: Evaluation) -> Iterator[Row]:
    risk = evaluation.malignant
    threshold = f"at the frozen threshold {evaluation.threshold:.3f}"
    majority = decimal(risk.majority_rate)
    yield _row(f"accuracy {threshold} (always the commoner answer: {majority})", risk.accuracy)
    yield _row(f"sensitivity {threshold}", risk.sensitivity)
    yield _row(f"specificity {threshold}", risk.specificity)


def _class_rows(evaluation: Evaluation) -> Iterator[Row]:
    majority = decimal(evaluation.majority_rate)
    yield _row("balanced accuracy, seven classes", evaluation.balanced_accuracy)
    yield _row(f"accuracy, seven classes (always the commonest: {majority})", evaluation.accuracy)
    for figures in evaluation.classes:
        if figures.name == "mel":
            yield _row("melanoma against the rest, ROC AUC", figures.roc_auc)


def _trust_rows(evaluation: Evaluation) -> Iterator[Row]:
    yield _row("Brier score (perfect: 0)", evaluation.malignant.brier)
    yield _row("ECE before calibration", evaluation.uncalibrated.ece)
    yield _row("ECE after calibration", evaluation.calibrated.ece)
    if (robustness := evaluation.robustness) is not None:
        name = f"mean AUC lost to corruptions of strength 3 ({robustness.images_at_3:,} images)"
        yield _row(name, robustness.mean_auc_lost_at_3)
    if (worst := evaluation.worst_slice) is not None:
        where = f"{group_title(worst.group)}: {worst.name}"
        size = f"{worst.images:,} images, {worst.malignant:,} malignant"
        yield _row(f"worst slice, ROC AUC ({where}; {size})", worst.roc_auc)
    if (maps := evaluation.explanation) is not None:
        name = f"class activation maps ({maps.images} images), rank correlation with"
        yield Row(f"{name} a randomised network's (right: 0)", decimal(maps.similarity_randomised))
        yield Row(f"{name} the mirrored image's (right: 1)", decimal(maps.similarity_repeated))
    yield from _cost_rows(evaluation)


def _cost_rows(evaluation: Evaluation) -> Iterator[Row]:
    if (cost := evaluation.efficiency) is not None:
        yield Row(
            f"milliseconds an image, {cost.cores} cores, batches of 32",
            f"{cost.milliseconds_per_image:.1f}",
        )
        yield Row("milliseconds for a single image", f"{cost.milliseconds_single:.1f}")
        yield Row("size of the exported model, MiB", f"{cost.bytes / _MIB:.1f}")


def _row(name: str, estimate: Estimate) -> Row:
    return Row(name, decimal(estimate.value), interval(estimate))


def corruption_rows(
    figures: Sequence[CorruptionFigures],
) -> dict[str, list[CorruptionFigures]]:
    """Return the figures of each corruption by rising strength."""
    ordered = sorted(figures, key=lambda each: (each.name, each.strength))
    return {name: list(group) for name, group in groupby(ordered, key=lambda each: each.name)}


def require_place(path: Path) -> None:
    """Make sure that there is a place for the results in a page, if there is a page.

    Raises:
        InputError: it has not both markers, once each and in order.
    """
    if path.exists():
        replace_section(path.read_text("utf-8"), "", path)


def write_section(path: Path, section: str) -> None:
    """Write the results between the markers of a page, which is made if it is missing.

    Raises:
        InputError: the page has not both markers, once each and in order.
    """
    page = path.read_text("utf-8") if path.exists() else f"{BEGIN}\n{END}\n"
    text = replace_section(page, section, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def replace_section(page: str, section: str, path: Path) -> str:
    """Return a page with all between the markers replaced.

    Args:
        page: the text as it is.
        section: what to put there.
        path: of the page, for the message.

    Raises:
        InputError: the page has not both markers, once each and in order.
    """
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    if page.count(BEGIN) != 1 or page.count(END) != 1 or END in before:
        raise InputError(f"{path} needs one line {BEGIN} and one line {END} after it")
    return f"{before}{BEGIN}\n{section.strip()}\n{END}{after}"


def _cell(text: object) -> str:
    return " ".join(str(text).replace("|", "\\|").split())


def _estimate(estimate: Estimate) -> str:
    ends = interval(estimate)
    return f"{decimal(estimate.value)} ({ends})" if ends else decimal(estimate.value)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _lost(value: float | None) -> str:
    return NOT_DEFINED if value is None else f"{value:+.3f}"
