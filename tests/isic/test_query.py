from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dermascan.isic.query import (
    EVERYTHING,
    MAX_LENGTH,
    MAX_NESTING,
    Kind,
    QueryError,
    evaluate,
    parse_query,
)

FIELDS = {
    "isic_id": Kind.TEXT,
    "sex": Kind.TEXT,
    "anatom_site_general": Kind.TEXT,
    "diagnosis_1": Kind.TEXT,
    "diagnosis_3": Kind.TEXT,
    "age_approx": Kind.NUMBER,
    "mel_thick_mm": Kind.NUMBER,
    "hairy": Kind.BOOLEAN,
}
SITES = ["anterior torso", "lateral torso", "torso", "head/neck", "lower extremity"]

Row = dict[str, Any]


class Rows:
    """The simplest table there is."""

    def __init__(self, rows: list[Row]):
        self._rows = rows

    def __len__(self):
        return len(self._rows)

    def select(self, field, accepts):
        values = [row.get(field) for row in self._rows]
        return np.array([value is not None and accepts(value) for value in values], bool)


def found(query: str, rows: list[Row]) -> list[int]:
    return np.flatnonzero(evaluate(parse_query(query, FIELDS), Rows(rows))).tolist()


PEOPLE: list[Row] = [
    {"isic_id": "ISIC_0000000", "sex": "male", "age_approx": 20, "hairy": True},
    {"isic_id": "ISIC_0000001", "sex": "female", "age_approx": 40, "hairy": False},
    {"isic_id": "ISIC_0000002", "sex": "male", "age_approx": 60},
    {"isic_id": "ISIC_0000003", "mel_thick_mm": 0.8, "diagnosis_3": "Melanoma Invasive"},
]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", [0, 1, 2, 3]),
        ("  \n", [0, 1, 2, 3]),
        ("sex:male", [0, 2]),
        ("sex:Male", []),
        ("sex : male", [0, 2]),
        ("isic_id:ISIC_0000001", [1]),
        ('diagnosis_3:"Melanoma Invasive"', [3]),
        ("diagnosis_3:Melanoma*", [3]),
        ('diagnosis_3:"Melanoma I*"', [3]),
        ("sex:*male", [0, 1, 2]),
        ("diagnosis_3:*noma*", [3]),
        ("sex:*", [0, 1, 2]),
        ("NOT sex:*", [3]),
        ("NOT sex:male", [1, 3]),
        ("-sex:male", [1, 3]),
        ("NOT NOT sex:male", [0, 2]),
        ("age_approx:40", [1]),
        ("age_approx:[20 TO 40]", [0, 1]),
        ("age_approx:{20 TO 40]", [1]),
        ("age_approx:[20 TO 40}", [0]),
        ("age_approx:[40 TO *]", [1, 2]),
        ("age_approx:{* TO 40}", [0]),
        ("mel_thick_mm:[0.5 TO 1e0]", [3]),
        ("hairy:true", [0]),
        ("hairy:false", [1]),
        ("hairy:*", [0, 1]),
        ("sex:male AND age_approx:60", [2]),
        ("sex:male age_approx:60", [2]),
        ("sex:male -age_approx:60", [0]),
        ("sex:female OR sex:male AND age_approx:60", [1, 2]),
        ("sex:female OR sex:male age_approx:60", [1, 2]),
        ("(sex:female OR sex:male) AND age_approx:60", [2]),
        ("NOT (sex:female OR hairy:true)", [2, 3]),
        ("NOT sex:female AND hairy:true", [0]),
    ],
)
def test_query_when_understood_selects_exactly_its_rows(query, expected):
    assert found(query, PEOPLE) == expected


@pytest.mark.parametrize(
    ("query", "character", "named"),
    [
        ("sexx:male", 1, "sex"),
        ("sex:male AND diagnosis:nevus", 14, "diagnosis_3"),
        ("zzz:1", 1, "age_approx, anatom_site_general"),
        ("sex", 4, "':'"),
        ("sex:", 5, "a word"),
        ('sex:"male', 5, "quoted text"),
        ('sex:""', 5, "NOT sex:*"),
        ("sex:head/neck", 9, "quotes"),
        ("sex:f*e", 5, "either end"),
        ("sex:[a TO b]", 5, "no ranges"),
        ("sex:male )", 10, "found ')'"),
        ("(sex:male", 10, "')'"),
        ("()", 2, "a condition"),
        ("sex:male AND", 13, "ends here"),
        ("AND sex:male", 1, "a condition"),
        ("sex:male and hairy:true", 10, "AND in capitals"),
        ("NOT", 4, "a condition"),
        ("age_approx:old", 12, "a number"),
        ("age_approx:1_0", 12, "a number"),
        ("age_approx:nan", 12, "a number"),
        ("age_approx:[1 TO x]", 18, "a number"),
        ("age_approx:[1 to 3]", 15, "TO"),
        ("age_approx:[1 TO 3", 19, "']' or '}'"),
        ("age_approx:[[[[]]]]", 13, "a number or *"),
        ("hairy:yes", 7, "true, false"),
        ("sex:male \t xx:1", 12, "no field 'xx'"),
        ("é", 1, "found 'é'"),
    ],
)
def test_query_when_not_understood_says_what_and_where(query, character, named):
    with pytest.raises(
        QueryError, match=f"query not understood at character {character}:"
    ) as error:
        parse_query(query, FIELDS)

    assert named in str(error.value)
    assert error.value.position == character - 1


def test_query_when_too_long_is_refused():
    with pytest.raises(QueryError, match=f"longer than {MAX_LENGTH}"):
        parse_query("sex:male " * MAX_LENGTH, FIELDS)


def test_query_when_nested_to_the_limit_is_understood_and_beyond_it_refused():
    def nested(depth: int) -> str:
        return "NOT (" * depth + "sex:male" + ")" * depth

    assert found(nested(MAX_NESTING), PEOPLE) == [0, 2]
    with pytest.raises(QueryError, match="parentheses within each other"):
        parse_query(nested(MAX_NESTING + 1), FIELDS)


@pytest.mark.parametrize("query", ["NOT " * 900 + "sex:male", "-" * 3000 + "sex:male"])
def test_query_when_negated_very_often_is_understood(query):
    assert found(query, PEOPLE) == [0, 2]


def test_parentheses_when_inside_quotes_do_not_nest():
    assert found(f'NOT sex:"{"(" * 100}"', PEOPLE) == [0, 1, 2, 3]


def test_query_when_blank_is_everything():
    assert parse_query(" ", FIELDS) == EVERYTHING


query_like_text = st.lists(
    st.sampled_from(
        [*FIELDS, *':()[]{}"*- \t', "AND", "OR", "NOT", "TO", "male", "1", ".5", "true", "x"]
    )
).map("".join)


@settings(max_examples=300, deadline=None)
@given(st.text() | query_like_text)
def test_parse_query_when_given_any_text_raises_nothing_but_query_error(text):
    position = 0
    try:
        evaluate(parse_query(text, FIELDS), Rows(PEOPLE))
    except QueryError as error:
        position = error.position

    assert 0 <= position <= len(text)


Predicate = Callable[[Row], bool]
Case = tuple[str, Predicate]


def filled(field: str, test: Callable[[Any], bool]) -> Predicate:
    return lambda row: row.get(field) is not None and test(row[field])


def range_case(low, high, opening, closing) -> Case:
    def inside(value) -> bool:
        above = low is None or (low <= value if opening == "[" else low < value)
        below = high is None or (value <= high if closing == "]" else value < high)
        return above and below

    ends = ["*" if bound is None else str(bound) for bound in (low, high)]
    return f"age_approx:{opening}{' TO '.join(ends)}{closing}", filled("age_approx", inside)


bounds = st.none() | st.integers(0, 90)
conditions: st.SearchStrategy[Case] = st.one_of(
    st.sampled_from(["male", "female"]).map(
        lambda sex: (f"sex:{sex}", filled("sex", lambda value: value == sex))
    ),
    st.booleans().map(
        lambda hairy: (f"hairy:{str(hairy).lower()}", filled("hairy", lambda value: value is hairy))
    ),
    st.integers(0, 90).map(
        lambda age: (f"age_approx:{age}", filled("age_approx", lambda value: value == age))
    ),
    st.sampled_from(list(FIELDS)).map(lambda field: (f"{field}:*", filled(field, lambda _: True))),
    st.sampled_from(SITES).map(
        lambda site: (
            f'anatom_site_general:"{site}"',
            filled("anatom_site_general", lambda value: value == site),
        )
    ),
    st.sampled_from(["torso", " torso", "neck"]).map(
        lambda end: (
            f'anatom_site_general:"*{end}"',
            filled("anatom_site_general", lambda value: value.endswith(end)),
        )
    ),
    st.sampled_from(["anterior", "lower", "t"]).map(
        lambda start: (
            f"anatom_site_general:{start}*",
            filled("anatom_site_general", lambda value: value.startswith(start)),
        )
    ),
    st.builds(range_case, bounds, bounds, st.sampled_from("[{"), st.sampled_from("]}")),
)


def negated(case: Case, sign: str) -> Case:
    return sign + case[0], lambda row: not case[1](row)


def all_of(cases: list[Case], link: str) -> Case:
    return link.join(text for text, _ in cases), lambda row: all(test(row) for _, test in cases)


def any_of(cases: list[Case]) -> Case:
    return " OR ".join(text for text, _ in cases), lambda row: any(test(row) for _, test in cases)


def queries(depth: int) -> st.SearchStrategy[Case]:
    """Write queries without more parentheses than their meaning needs."""
    operand = conditions
    if depth:
        operand |= queries(depth - 1).map(lambda case: (f"({case[0]})", case[1]))
    operand |= st.builds(negated, operand, st.sampled_from(["NOT ", "-"]))
    conjunction = st.builds(
        all_of, st.lists(operand, min_size=1, max_size=3), st.sampled_from([" AND ", " "])
    )
    return st.lists(conjunction, min_size=1, max_size=3).map(any_of)


rows = st.fixed_dictionaries(
    {},
    optional={
        "sex": st.sampled_from(["male", "female"]),
        "hairy": st.booleans(),
        "age_approx": st.integers(0, 90),
        "anatom_site_general": st.sampled_from(SITES),
    },
)


@settings(max_examples=200, deadline=None)
@given(queries(2), st.lists(rows, min_size=1, max_size=20))
def test_evaluate_when_compared_with_a_row_by_row_reading_agrees(case, table):
    query, expected = case

    assert found(query, table) == [i for i, row in enumerate(table) if expected(row)]
