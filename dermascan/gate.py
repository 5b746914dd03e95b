"""The gate: rules that a model's evaluation must meet before the model may be promoted."""

import math
import operator
import textwrap
from enum import StrEnum
from pathlib import Path
from typing import Literal

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from dermascan.errors import GateFailedError, InputError
from dermascan.evaluation import REQUIRED_COLUMNS, Evaluation, evaluate, figure

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


class FloorRule(_Frozen):
    """A figure that every model must reach; `include/gate.yaml` says what each field means."""

    name: str = Field(min_length=1)
    metric: str
    comparison: Literal["at_least", "at_most", "above", "below"]
    threshold: FiniteFloat
    relative_to: str | None = None
    if_undefined: Literal["fail", "pass"] = "fail"
    why: str = Field(min_length=1)


class NonInferiorityRule(_Frozen):
    """A figure, the higher the better, that must stay within `margin` of the champion's."""

    name: str = Field(min_length=1)
    metric: str
    margin: FiniteFloat = Field(ge=0)
    if_undefined: Literal["fail", "pass"] = "fail"
    why: str = Field(min_length=1)


class GateRules(_Frozen):
    """The rules of one file."""

    rules: tuple[FloorRule, ...] = Field(min_length=1)
    non_inferiority: tuple[NonInferiorityRule, ...] = ()


class Comparability(StrEnum):
    """What a champion's evaluation has in common with the candidate's."""

    SAME_IMAGES = "the same test images"
    SAME_DATASET = "other images of the same dataset"
    OTHER_DATASET = "another dataset"


class Outcome(StrEnum):
    """What a rule came to; what is only shown does not stand in the way of a promotion."""

    PASSED = "passed"
    FAILED = "failed"
    SHOWN = "shown only"


class RuleResult(_Frozen):
    """What one rule needed and what it got.

    Attributes:
        value: the figure, None where it is not defined.
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
        champion: what the champion was evaluated on, None without a champion.
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
        return f"The champion was evaluated on {self.champion.value}{_CONSEQUENCES[self.champion]}."

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
_CONSEQUENCES = {
    Comparability.SAME_IMAGES: "",
    Comparability.SAME_DATASET: ": margins are widened by what chance explains",
    Comparability.OTHER_DATASET: ": the comparison is shown and does not decide",
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
    evaluation: Evaluation,
    champion: Evaluation | None,
    rules: GateRules,
    champion_version: int | None = None,
) -> GateResult:
    """Hold an evaluation against the rules and against the champion's evaluation.

    Args:
        evaluation: of the candidate.
        champion: of the present champion, best of all on the candidate's test images; None
            if there is no champion.
        rules: see `load_rules`.
        champion_version: of the present champion, for the result to say whom it is about.

    Raises:
        InputError: a rule names a figure that no evaluation has.
    """
    floors = tuple(_check_floor(evaluation, rule) for rule in rules.rules)
    if champion is None:
        return GateResult(results=floors)
    common = comparability(evaluation, champion)
    comparisons = (_check_champion(evaluation, champion, r, common) for r in rules.non_inferiority)
    return GateResult(
        results=(*floors, *comparisons), champion=common, champion_version=champion_version
    )


def require(result: GateResult) -> None:
    """Let a model through that met every rule.

    Raises:
        GateFailedError: it did not; the message holds the table.
    """
    if not result.passed:
        raise GateFailedError(f"The model did not earn its promotion.\n{result.table()}")


def comparability(evaluation: Evaluation, champion: Evaluation) -> Comparability:
    """Tell what two evaluations have in common; datasets without a name count as the same."""
    if evaluation.test_set == champion.test_set:
        return Comparability.SAME_IMAGES
    if evaluation.dataset == champion.dataset:
        return Comparability.SAME_DATASET
    return Comparability.OTHER_DATASET


def _check_floor(evaluation: Evaluation, rule: FloorRule) -> RuleResult:
    value = figure(evaluation, rule.metric)
    base = figure(evaluation, rule.relative_to) if rule.relative_to else 0.0
    needed = _needed(rule, base)
    if value is None or base is None:
        return _result(rule, value, needed, _if_undefined(rule))
    met = _COMPARISONS[rule.comparison](value, round(base + rule.threshold, _DECIMALS))
    return _result(rule, value, needed, Outcome.PASSED if met else Outcome.FAILED)


def _needed(rule: FloorRule, base: float | None) -> str:
    words = rule.comparison.replace("_", " ")
    if not rule.relative_to:
        return f"{words} {_number(rule.threshold)}"
    if base is None:
        return f"{words} {rule.relative_to} {rule.threshold:+g}, which is not defined"
    bound = _number(base + rule.threshold)
    return f"{words} {bound} ({rule.relative_to} {_number(base)} {rule.threshold:+g})"


def _check_champion(
    evaluation: Evaluation, champion: Evaluation, rule: NonInferiorityRule, common: Comparability
) -> RuleResult:
    value, reference = figure(evaluation, rule.metric), figure(champion, rule.metric)
    if reference is None:
        return _result(rule, value, "nothing: the champion has no such figure", Outcome.SHOWN)
    allowed = rule.margin
    if common is not Comparability.SAME_IMAGES:
        allowed += _chance(evaluation, champion, rule.metric)
    bound = round(reference - allowed, _DECIMALS)
    needed = f"at least {_number(bound)} (champion {_number(reference)} {-allowed:+.3f})"
    if common is Comparability.OTHER_DATASET:
        return _result(rule, value, needed, Outcome.SHOWN)
    if value is None:
        return _result(rule, value, needed, _if_undefined(rule))
    return _result(rule, value, needed, Outcome.PASSED if value >= bound else Outcome.FAILED)


def _chance(evaluation: Evaluation, champion: Evaluation, metric: str) -> float:
    """Return the half width of the 95 % interval of a difference of independent figures."""
    return math.hypot(_half_width(evaluation, metric), _half_width(champion, metric))


def _half_width(evaluation: Evaluation, metric: str) -> float:
    try:
        low, high = (figure(evaluation, f"{metric}.{end}") for end in ("low", "high"))
    except InputError:  # a figure without an interval
        return 0.0
    return 0.0 if low is None or high is None else (high - low) / 2


def _if_undefined(rule: FloorRule | NonInferiorityRule) -> Outcome:
    return Outcome.PASSED if rule.if_undefined == "pass" else Outcome.FAILED


def _result(
    rule: FloorRule | NonInferiorityRule, value: float | None, needed: str, outcome: Outcome
) -> RuleResult:
    return RuleResult(
        name=rule.name,
        metric=rule.metric,
        outcome=outcome,
        value=value,
        needed=needed,
        got=NOT_DEFINED if value is None else _number(value),
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


def _check_metrics(path: Path, rules: GateRules) -> None:
    nothing = evaluate(pd.DataFrame(columns=list(REQUIRED_COLUMNS)), 0.5, dataset="")
    used = [(rule.name, rule.metric) for rule in rules.rules]
    used += [(rule.name, rule.relative_to) for rule in rules.rules if rule.relative_to]
    used += [(rule.name, rule.metric) for rule in rules.non_inferiority]
    for name, metric in used:
        try:
            figure(nothing, metric)
        except InputError as error:
            raise InputError(f"{path}, rule {name!r}: {error}") from error
