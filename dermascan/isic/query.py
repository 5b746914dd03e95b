"""The archive's query language: text to conditions, and conditions to the rows that meet them.

    sex:female AND age_approx:[40 TO 60] AND NOT diagnosis_3:"Melanoma Invasive"

A condition is `field:value`. A value is a word, a "quoted text", a range `[a TO b]` (`{` and
`}` leave the bound itself out, `*` leaves that end open), or a text with `*` at its beginning,
its end or both; `*` alone means that the field is filled. Conditions combine with `AND` (also
implied between neighbours), `OR`, `NOT` (also `-`) and parentheses; `NOT` binds tightest, `OR`
loosest. A row in which the field is empty meets no condition on it, so it meets its negation.

Source: the public archive's API documentation; `NOT`, open ranges and `*` on both sides are
additions to what it understands.
"""

import difflib
import enum
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import pyparsing as pp
from numpy.typing import NDArray

from dermascan.errors import InputError

MAX_LENGTH = 4000
MAX_NESTING = 12
A_CONDITION = "a condition such as sex:male"

Value: TypeAlias = str | int | float | bool
Mask: TypeAlias = NDArray[np.bool_]

NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_QUOTED = re.compile(r'"[^"]*"?')


class Kind(enum.Enum):
    """What a field holds."""

    TEXT = "a text"
    NUMBER = "a number"
    BOOLEAN = "true or false"


class QueryError(InputError):
    """A query that is not understood.

    Attributes:
        position: index of the first character that is not understood.
    """

    def __init__(self, position: int, problem: str) -> None:
        super().__init__(f"query not understood at character {position + 1}: {problem}")
        self.position = position


@dataclass(frozen=True)
class Present:
    """Accept every value."""

    def accepts(self, value: Value) -> bool:
        """Tell whether `value` passes."""
        del value
        return True


@dataclass(frozen=True)
class Equals:
    """Accept one value."""

    value: Value

    def accepts(self, value: Value) -> bool:
        """Tell whether `value` passes."""
        return value == self.value


@dataclass(frozen=True)
class Pattern:
    """Accept texts that contain `core`, at the ends that are not open."""

    core: str
    open_start: bool
    open_end: bool

    def accepts(self, value: Value) -> bool:
        """Tell whether `value` passes."""
        if not isinstance(value, str):
            return False
        if self.open_start and self.open_end:
            return self.core in value
        return value.endswith(self.core) if self.open_start else value.startswith(self.core)


@dataclass(frozen=True)
class Interval:
    """Accept numbers between two bounds; None is an open end."""

    low: float | None
    high: float | None
    includes_low: bool
    includes_high: bool

    def accepts(self, value: Value) -> bool:
        """Tell whether `value` passes."""
        if isinstance(value, str):
            return False
        above = self.low is None or value > self.low or (self.includes_low and value == self.low)
        below = (
            self.high is None or value < self.high or (self.includes_high and value == self.high)
        )
        return above and below


Test: TypeAlias = Present | Equals | Pattern | Interval


@dataclass(frozen=True)
class Condition:
    """One field whose value must pass a test."""

    field: str
    test: Test


@dataclass(frozen=True)
class Not:
    """The rows that `operand` leaves out."""

    operand: "Node"


@dataclass(frozen=True)
class AllOf:
    """The rows that meet every operand: all rows when there is none."""

    operands: tuple["Node", ...]


@dataclass(frozen=True)
class AnyOf:
    """The rows that meet at least one operand."""

    operands: tuple["Node", ...]


Node: TypeAlias = Condition | Not | AllOf | AnyOf

EVERYTHING = AllOf(())


class Table(Protocol):
    """Rows that can be asked about one field at a time."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def select(self, field: str, accepts: Callable[[Value], bool]) -> Mask:
        """Return a mask, shape (rows,), of the rows whose field is filled and accepted."""


def evaluate(node: Node, table: Table) -> Mask:
    """Return a mask, shape (rows,), of the rows of `table` that meet `node`."""
    match node:
        case Condition(field, test):
            return table.select(field, test.accepts)
        case Not(operand):
            return ~evaluate(operand, table)
        case AllOf(operands):
            return _combined(np.logical_and, True, operands, table)
        case AnyOf(operands):
            return _combined(np.logical_or, False, operands, table)


def _combined(operation: np.ufunc, start: bool, operands: Iterable[Node], table: Table) -> Mask:
    mask = np.full(len(table), start)
    for operand in operands:
        operation(mask, evaluate(operand, table), out=mask)
    return mask


def parse_query(text: str, fields: Mapping[str, Kind]) -> Node:
    """Parse a query.

    Args:
        text: the query; empty or blank means everything.
        fields: the fields that may be asked about, with what each holds.

    Raises:
        QueryError: the text is not a query, names an unknown field, gives a field a value that
            it cannot have, or is longer or more nested than any sensible query.
    """
    if not text.strip():
        return EVERYTHING
    _check_limits(text)
    try:
        (node,) = _grammar(fields).parse_string(text)
    except pp.ParseBaseException as error:
        raise _explained(error) from None
    return node  # type: ignore[no-any-return]  # pyparsing's results are untyped


def _check_limits(text: str) -> None:
    if len(text) > MAX_LENGTH:
        raise QueryError(MAX_LENGTH, f"longer than {MAX_LENGTH} characters")
    depth = 0
    unquoted = _QUOTED.sub(lambda quoted: " " * len(quoted.group()), text)
    for position, character in enumerate(unquoted):
        depth += (character == "(") - (character == ")")
        if depth > MAX_NESTING:
            raise QueryError(position, f"more than {MAX_NESTING} parentheses within each other")


def _explained(error: pp.ParseBaseException) -> QueryError:
    found = error.pstr[error.loc : error.loc + 20]
    seen = f"found {found!r}" if found else "the query ends here"
    wanted = error.msg[:1].lower() + error.msg[1:]
    return QueryError(error.loc, f"{wanted}, {seen}")


def _grammar(fields: Mapping[str, Kind]) -> pp.ParserElement:
    """Build the grammar. A `-` between two parts commits: what follows can be nothing else."""
    expression = pp.Forward()
    group = pp.Suppress("(") - expression - pp.Suppress(pp.Literal(")").set_name("')'"))
    primary = group | _lower_case_operator() | _condition_grammar(fields)
    primary.set_name(A_CONDITION)
    negated = pp.OneOrMore(pp.Keyword("NOT") | pp.Literal("-")) - primary
    operand = (negated.set_parse_action(_negation) | primary).set_name(A_CONDITION)
    conjunction = operand + pp.ZeroOrMore((pp.Suppress(pp.Keyword("AND")) - operand) | operand)
    conjunction.set_parse_action(lambda tokens: _joined(AllOf, tokens.as_list()))
    expression <<= conjunction + pp.ZeroOrMore(pp.Suppress(pp.Keyword("OR")) - conjunction)
    expression.set_parse_action(lambda tokens: _joined(AnyOf, tokens.as_list()))
    ending = pp.StringEnd().set_name("AND, OR or the end (a value with other signs needs quotes)")
    return (expression + ending).parse_with_tabs()


def _joined(combination: type[AllOf] | type[AnyOf], nodes: list[Node]) -> Node:
    return nodes[0] if len(nodes) == 1 else combination(tuple(nodes))


def _negation(tokens: pp.ParseResults) -> Node:
    *signs, node = tokens
    return Not(node) if len(signs) % 2 else node


def _lower_case_operator() -> pp.ParserElement:
    def complain(_text: str, position: int, tokens: pp.ParseResults) -> None:
        raise QueryError(position, f"write {tokens[0].upper()} in capitals")

    word = pp.Regex(r"(?!(?:AND|OR|NOT)\b)(?i:and|or|not)\b(?!\s*:)")
    return word.set_parse_action(complain)


@dataclass(frozen=True)
class _Text:
    """A piece of the query and where it begins."""

    position: int
    text: str


@dataclass(frozen=True)
class _Range:
    """An interval as it is written."""

    opening: str
    low: _Text
    high: _Text
    closing: str


def _condition_grammar(fields: Mapping[str, Kind]) -> pp.ParserElement:
    name = _text(r"(?!(?:AND|OR|NOT)\b)[A-Za-z_][A-Za-z0-9_]*")
    colon = pp.Suppress(pp.Literal(":").set_name("':' after a field's name"))
    word = _text(r"[A-Za-z0-9_*.+-]+")
    quoted = _text(r'"[^"]*"')
    bound = _text(r'[^\s\[\]{}()"]+').set_name("a number or *")
    to = pp.Suppress(pp.Keyword("TO").set_name("TO between the bounds"))
    ending = pp.one_of("] }").set_name("']' or '}'")
    interval = pp.one_of("[ {") - bound - to - bound - ending
    interval.set_parse_action(lambda tokens: _Range(*tokens))
    value = interval | quoted | word
    value.set_name('a word, a "quoted text" or a range [a TO b]')
    condition = name - colon - value
    return condition.set_parse_action(lambda tokens: _condition(tokens[0], tokens[1], fields))


def _text(pattern: str) -> pp.ParserElement:
    return pp.Regex(pattern).set_parse_action(
        lambda _text, position, tokens: _Text(position, tokens[0])
    )


def _condition(name: _Text, value: _Text | _Range, fields: Mapping[str, Kind]) -> Condition:
    kind = fields.get(name.text)
    if kind is None:
        raise QueryError(name.position, _unknown_field(name.text, fields))
    if isinstance(value, _Range):
        return Condition(name.text, _interval(name.text, kind, value))
    if value.text == "*":
        return Condition(name.text, Present())
    tests = {Kind.TEXT: _text_test, Kind.NUMBER: _number_test, Kind.BOOLEAN: _boolean_test}
    return Condition(name.text, tests[kind](name.text, value))


def _unknown_field(name: str, fields: Mapping[str, Kind]) -> str:
    near = difflib.get_close_matches(name, fields, n=5, cutoff=0.5)
    hint = f"the nearest are {', '.join(near)}" if near else f"use {', '.join(sorted(fields))}"
    return f"there is no field {name!r}: {hint}"


def _text_test(field: str, value: _Text) -> Test:
    text = value.text.strip('"')
    if not text:
        raise QueryError(value.position, f"an empty text: for empty {field} use NOT {field}:*")
    core = text[text.startswith("*") : len(text) - text.endswith("*")]
    if "*" in core:
        raise QueryError(value.position, f"a * inside {text!r}: it may stand at either end only")
    if core == text:
        return Equals(text)
    return Pattern(core, open_start=text.startswith("*"), open_end=text.endswith("*"))


def _number_test(field: str, value: _Text) -> Test:
    return Equals(_number(field, value))


def _boolean_test(field: str, value: _Text) -> Test:
    if value.text not in {"true", "false"}:
        raise QueryError(value.position, f"{field} is true, false or *, not {value.text!r}")
    return Equals(value.text == "true")


def _interval(field: str, kind: Kind, value: _Range) -> Interval:
    if kind is not Kind.NUMBER:
        raise QueryError(value.low.position - 1, f"{field} is {kind.value}, so it has no ranges")
    low, high = (
        None if bound.text == "*" else _number(field, bound) for bound in (value.low, value.high)
    )
    return Interval(low, high, value.opening == "[", value.closing == "]")


def _number(field: str, value: _Text) -> float:
    if not NUMBER.fullmatch(value.text):
        raise QueryError(value.position, f"{field} is a number, not {value.text!r}")
    return float(value.text)
