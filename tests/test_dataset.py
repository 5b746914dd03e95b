import io
from itertools import combinations

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from dermascan.dataset import number_values, read_columns


def parquet(rows_of_a_group: int = 3, **columns: list[object]) -> pq.ParquetFile:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, row_group_size=rows_of_a_group)
    return pq.ParquetFile(sink)


def texts(values: list[str | None]) -> pa.Array:
    return pa.array(values, pa.string())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.none(), st.sampled_from(["", "a", "b", "é"]), st.text(max_size=3))))
def test_number_values_when_values_are_equal_gives_one_number_and_to_others_another(
    values: list[str | None],
):
    numbers = number_values(parquet(name=texts(values)), "name").tolist()

    assert [number == -1 for number in numbers] == [value is None for value in values]
    for a, b in combinations(range(len(values)), 2):
        assert (numbers[a] == numbers[b]) == (values[a] == values[b])


def test_number_values_counts_from_zero():
    numbers = number_values(parquet(name=texts(["x", None, "y", "x", "z"])), "name")

    assert set(numbers.tolist()) == {-1, 0, 1, 2}


def test_read_columns_when_row_groups_differ_in_nulls_reads_as_from_one():
    columns = {"age": [1, 2, 3, None, 5], "name": texts([None, None, None, "a", "b"])}
    names = ["name", "age"]

    parts, whole = (read_columns(parquet(rows, **columns), names) for rows in (3, 5))

    assert list(parts.columns) == names
    pd.testing.assert_frame_equal(parts, whole)


def test_read_columns_when_there_are_no_rows_or_columns_keeps_the_other():
    nothing = parquet(name=texts([]))
    some = parquet(name=texts(["a", "b"]))

    assert read_columns(nothing, ["name"]).shape == (0, 1)
    assert read_columns(some, []).shape == (2, 0)
