"""The gate: rules that a model's evaluation must meet before the model may be promoted."""

import operator
import textwrap
from enum import StrEnum
from itertools import product
from pathlib import Path
from typing import Literal

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from dermascan.errors import GateFailedError, InputError
from dermascan.evaluation import (
    REQUIRED_COLUMNS,
    Comparison,
    CorruptionFigures,
    Estimate,
    Evaluation,
    Robustness,
    evaluate,
    figure,
)
from dermascan.evaluation.corruption import CORRUPTIONS, STRENGTHS

NOT_DEFINED = "not defined on this test set"

_COMPARISONS = {
    "at_least": operator.ge,
    "at_most": operator.le,
    "above": operator.gt,
    "below": operator.lt,
}
# Figures carry six decimals; sums and differences of them are exact to that.
_DECIMALS = 6
_TABLE_WIDTH = 100


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Condition(_Frozen):
    """What a test set must have for a rule to bind, such as enough malignant images."""

    metric: str
    at_least: FiniteFloat


class FloorRule(_Frozen):
    """A figure that every model must reach; `include/gate.yaml` says what each field means."""

    name: str = Field(min_length=1)
    metric: str
    comparison: Literal["at_least", "at_most", "above", "below"]
    threshold: FiniteFloat
    relative_to: str | None = None
    absolute: bool = False
    when: Condition | None = None
    if_undefined: Literal["fail", "pass"] = "fail"
    why: str = Field(min_length=1)


class NonInferiorityRule(_Frozen):
    """A figure of which the champion's must be matched up to `margin`.

    Where `proof_when` holds, a loss must be shown to be below the margin; elsewhere it is enough
    that no loss is shown that may exceed it. `include/gate.yaml` says why.
    """

    name: str = Field(min_length=1)
    metric: Literal[
        "malignant.roc_auc",
        "malignant.sensitivity_at_90_specificity",
        "balanced_accuracy",
        "classes.mel.roc_auc",
    ]
    margin: FiniteFloat = Field(ge=0)
    proof_when: Condition | None = None
    if_undefined: Literal["fail", "pass"] = "fail"
    why: str = Field(min_length=1)


class GateRules(_Frozen):
    """The rules of one file."""

    rules: tuple[FloorRule, ...] = Field(min_length=1)
    non_inferiority: tuple[NonInferiorityRule, ...] = ()


class Comparability(StrEnum):
    """What a comparison of the candidate with the champion is worth.

    `SAME_DATASET` is only read, in verdicts from before the champion was scored on the
    candidate's test images.
    """

    SAME_IMAGES = "the same test images"
    SAME_DATASET = "other images of the same dataset"
    OTHER_DATASET = "another dataset"
    OTHER_CLASSES = "other malignant classes"


class ChampionComparison(_Frozen):
    """Candidate and champion on the candidate's test images, both scored there.

    Attributes:
        version: of the champion.
        comparability: `SAME_IMAGES` if the comparison may decide.
        malignant: of malignant against benign lesions.
        melanoma: of melanoma against the rest, by `p_mel`.
    """

    version: int
    comparability: Comparability
    malignant: Comparison
    melanoma: Comparison

    @property
    def decides(self) -> bool:
        """Tell whether the comparison may stop a promotion."""
        return self.comparability is Comparability.SAME_IMAGES

    @property
    def note(self) -> str:
        """Return what the comparison is worth, in a sentence."""
        return _COMPARISON_NOTES[self.comparability]

    def difference(self, rule: NonInferiorityRule) -> Estimate:
        """Return the candidate's figure minus the champion's."""
        return {
            "malignant.roc_auc": self.malignant.difference,
            "malignant.sensitivity_at_90_specificity": (
                self.malignant.sensitivity_at_90_specificity_difference
            ),
            "balanced_accuracy": self.malignant.balanced_accuracy_difference,
            "classes.mel.roc_auc": self.melanoma.difference,
        }[rule.metric]


class Outcome(StrEnum):
    """What a rule came to; what is only shown does not stand in the way of a promotion."""

    PASSED = "passed"
    FAILED = "failed"
    SHOWN = "shown only"


class RuleResult(_Frozen):
    """What one rule needed and what it got.

    Attributes:
        value: the figure, or its difference from the champion's; None where it is not defined.
        needed, got, why: for people to read.
    """

    name: str
    metric: str
    outcome: Outcome
    value: float | None
    needed: str
    got: str
    why: str

    @property
    def passed(self) -> bool:
        """Tell whether the rule does not stand in the way of a promotion."""
        return self.outcome is not Outcome.FAILED


class GateResult(_Frozen):
    """The outcome of every rule, in the order of the file; survives a JSON round trip.

    Attributes:
        champion: what the comparison with the champion is worth, None without a champion.
        champion_version: the champion that the model was judged against, None without one.
    """

    results: tuple[RuleResult, ...]
    champion: Comparability | None = None
    champion_version: int | None = None

    @property
    def passed(self) -> bool:
        """Tell whether the model may be promoted."""
        return all(result.passed for result in self.results)

    @property
    def comparison_note(self) -> str:
        """Return what the comparison with the champion is worth, in a sentence."""
        if self.champion is None:
            return "There is no champion yet: the floors alone decide."
        return _COMPARISON_NOTES[self.champion]

    def table(self) -> str:
        """Return a plain-text table for logs, failed rules explained below it."""
        rows = [(_MARKS[r.outcome], r.name, r.needed, r.got) for r in self.results]
        lines = _aligned([("", "rule", "needed", "got"), *rows])
        return "\n".join([*lines, self.comparison_note, *self._explanations()])

    def _explanations(self) -> list[str]:
        failed = [result for result in self.results if not result.passed]
        if not failed:
            return ["All rules are met."]
        heading = f"{len(failed)} of {len(self.results)} rules are not met:"
        reasons = [f"- {result.name} ({result.metric}): {result.why}" for result in failed]
        return [heading, *(textwrap.fill(r, _TABLE_WIDTH, subsequent_indent="  ") for r in reasons)]


_MARKS = {Outcome.PASSED: "pass", Outcome.FAILED: "FAIL", Outcome.SHOWN: "info"}
_COMPARISON_NOTES = {
    Comparability.SAME_IMAGES: "The champion was scored on the same test images.",
    Comparability.SAME_DATASET: "The champion was evaluated on other images of the same dataset.",
    Comparability.OTHER_DATASET: (
        "The champion was made for another dataset, and some of these test images may have been "
        "among its training images: the comparison is shown and does not decide."
    ),
    Comparability.OTHER_CLASSES: (
        "The champion calls other classes malignant: the comparison is shown and does not decide."
    ),
}


def load_rules(path: Path) -> GateRules:
    """Read and check a file of rules, such as `include/gate.yaml`.

    Raises:
        InputError: the file cannot be read, or is not as `include/gate.yaml` describes, or a
            rule names a figure that no evaluation has; the message names file and rule.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read as YAML: {error}") from error
    try:
        rules = GateRules.model_validate(content)
    except ValidationError as error:
        raise InputError(_malformed(path, content, error)) from error
    _check_metrics(path, rules)
    return rules


def check(
    evaluation: Evaluation, champion: ChampionComparison | None, rules: GateRules
) -> GateResult:
    """Hold an evaluation against the rules, and the candidate against the champion.

    Args:
        evaluation: of the candidate.
        champion: the comparison with the present champion, None if there is no champion.
        rules: see `load_rules`.

    Raises:
        InputError: a rule names a figure that no evaluation has.
    """
    floors = tuple(_check_floor(evaluation, rule) for rule in rules.rules)
    if champion is None:
        return GateResult(results=floors)
    comparisons = (_check_champion(evaluation, champion, rule) for rule in rules.non_inferiority)
    return GateResult(
        results=(*floors, *comparisons),
        champion=champion.comparability,
        champion_version=champion.version,
    )


def require(result: GateResult) -> None:
    """Let a model through that met every rule.

    Raises:
        GateFailedError: it did not; the message holds the table.
    """
    if not result.passed:
        unmet = ", ".join(each.name for each in result.results if not each.passed)
        raise GateFailedError(
            f"The model did not earn its promotion, for rules that are not met: {unmet}.\n"
            f"{result.table()}"
        )


def _check_floor(evaluation: Evaluation, rule: FloorRule) -> RuleResult:
    value = figure(evaluation, rule.metric)
    base = figure(evaluation, rule.relative_to) if rule.relative_to else 0.0
    needed, got = _needed(rule, base), _got(value)
    judged = abs(value) if rule.absolute and value is not None else value
    if rule.when and not _holds(evaluation, rule.when):
        condition = f"{rule.when.metric} is at least {_number(rule.when.at_least)}"
        return _result(rule, value, f"{needed}, where {condition}", got, Outcome.SHOWN)
    if judged is None or base is None:
        return _result(rule, value, needed, got, _if_undefined(rule))
    met = _COMPARISONS[rule.comparison](judged, round(base + rule.threshold, _DECIMALS))
    return _result(rule, value, needed, got, _outcome(met))


def _holds(evaluation: Evaluation, condition: Condition) -> bool:
    value = figure(evaluation, condition.metric)
    return value is not None and value >= condition.at_least


def _needed(rule: FloorRule, base: float | None) -> str:
    words = ("absolute value " if rule.absolute else "") + rule.comparison.replace("_", " ")
    if not rule.relative_to:
        return f"{words} {_number(rule.threshold)}"
    if base is None:
        return f"{words} {rule.relative_to} {rule.threshold:+g}, which is not defined"
    bound = _number(base + rule.threshold)
    return f"{words} {bound} ({rule.relative_to} {_number(base)} {rule.threshold:+g})"


def _check_champion(
    evaluation: Evaluation, champion: ChampionComparison, rule: NonInferiorityRule
) -> RuleResult:
    difference = champion.difference(rule)
    must_prove = rule.proof_when is None or _holds(evaluation, rule.proof_when)
    needed = _needed_against_champion(rule, must_prove=must_prove)
    got = _got_against_champion(difference)
    if not champion.decides:
        return _result(rule, difference.value, needed, got, Outcome.SHOWN)
    if difference.value is None:
        return _result(rule, None, needed, got, _if_undefined(rule))
    met = _is_matched(difference, rule.margin, must_prove=must_prove)
    return _result(rule, difference.value, needed, got, _outcome(met))


def _needed_against_champion(rule: NonInferiorityRule, *, must_prove: bool) -> str:
    if must_prove or rule.proof_when is None:
        return f"loss shown to be at most {rule.margin:g}"
    limit = f"{rule.proof_when.metric} below {_number(rule.proof_when.at_least)}"
    return f"no loss shown that may exceed {rule.margin:g} ({limit})"


def _is_matched(difference: Estimate, margin: float, *, must_prove: bool) -> bool:
    """Tell whether a loss is at most the margin or, without `must_prove`, whether none is shown.

    A difference without an interval, such as that of a model from itself, stands for both ends.
    """
    low = difference.value if difference.low is None else difference.low
    high = difference.value if difference.high is None else difference.high
    if low is None or high is None:
        return False
    return low >= -margin or (high >= 0 and not must_prove)


def _got(value: float | None) -> str:
    return NOT_DEFINED if value is None else _number(value)


def _got_against_champion(difference: Estimate) -> str:
    if difference.value is None:
        return NOT_DEFINED
    if difference.low is None or difference.high is None:
        return f"{difference.value:+.4f}"
    return f"{difference.value:+.4f} ({difference.low:+.4f} to {difference.high:+.4f})"


def _outcome(met: bool) -> Outcome:
    return Outcome.PASSED if met else Outcome.FAILED


def _if_undefined(rule: FloorRule | NonInferiorityRule) -> Outcome:
    return _outcome(rule.if_undefined == "pass")


def _result(
    rule: FloorRule | NonInferiorityRule,
    value: float | None,
    needed: str,
    got: str,
    outcome: Outcome,
) -> RuleResult:
    return RuleResult(
        name=rule.name,
        metric=rule.metric,
        outcome=outcome,
        value=value,
        needed=needed,
        got=got,
        why=rule.why,
    )


def _number(value: float) -> str:
    """Render a share with four decimals and a count with none."""
    is_count = value == int(value) and value not in {-1, 1}
    return f"{value:.0f}" if is_count else f"{value:.4f}"


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def _malformed(path: Path, content: object, error: ValidationError) -> str:
    problems = [
        f"{_place(content, problem['loc'])}: {problem['msg']}" for problem in error.errors()
    ]
    return f"{path} is not a file of gate rules: {'; '.join(problems)}"


def _place(content: object, location: tuple[int | str, ...]) -> str:
    """Name the rule that a validation error is about, by its name if it has one."""
    if isinstance(content, dict) and len(location) > 1 and isinstance(location[1], int):
        entry = content[location[0]][location[1]]
        name = entry.get("name") if isinstance(entry, dict) else None
        rule = f"rule {name!r}" if name else f"rule {location[1] + 1} of {location[0]}"
        return " ".join([rule, *map(str, location[2:])])
    return ".".join(map(str, location)) or "the whole file"


def _evaluation_of_nothing() -> Evaluation:
    """Return an evaluation that has every figure, none of them defined."""
    empty = evaluate(pd.DataFrame(columns=list(REQUIRED_COLUMNS)), 0.5, dataset="")
    corruptions = tuple(
        CorruptionFigures(name=name, strength=strength, roc_auc=Estimate(), auc_lost=None)
        for name, strength in product(CORRUPTIONS, STRENGTHS)
    )
    robustness = Robustness(
        images=0,
        corruptions=corruptions,
        images_at_3=0,
        malignant_at_3=0,
        mean_auc_lost_at_3=Estimate(),
    )
    return empty.model_copy(update={"robustness": robustness})


def _check_metrics(path: Path, rules: GateRules) -> None:
    nothing = _evaluation_of_nothing()
    used = [(rule.name, rule.metric) for rule in rules.rules]
    used += [(rule.name, rule.relative_to) for rule in rules.rules if rule.relative_to]
    used += [(rule.name, rule.when.metric) for rule in rules.rules if rule.when]
    used += [(r.name, r.proof_when.metric) for r in rules.non_inferiority if r.proof_when]
    for name, metric in used:
        try:
            figure(nothing, metric)
        except InputError as error:
            raise InputError(f"{path}, rule {name!r}: {error}") from error
