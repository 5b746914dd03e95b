import pytest

from dermascan.errors import InputError
from dermascan.model_card import load_reporting_items

FILE = """
guidelines:
  - name: A
    title: b
    source: c
    items:
      - {number: 1, topic: t, %s}
"""


def test_items_are_read(tmp_path):
    path = tmp_path / "items.yaml"
    path.write_text(FILE % "status: partly, where: [card.details], note: the rest")
    (item,) = load_reporting_items(path).guidelines[0].items
    assert (item.number, item.where, item.note) == ("1", ("card.details",), "the rest")


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ("status: answered", "not where"),
        ("status: authors", "does not say why"),
        ("status: perhaps", "status"),
        ("status: answered, where: [elsewhere.x]", "where"),
        ("status: answered, where: [card.x], more: 1", "more"),
    ],
)
def test_items_that_claim_too_much_are_refused(tmp_path, fields, complaint):
    path = tmp_path / "items.yaml"
    path.write_text(FILE % fields)
    with pytest.raises(InputError, match=complaint):
        load_reporting_items(path)


@pytest.mark.parametrize("content", ["guidelines: []", "[1, 2", "just text"])
def test_files_that_are_no_mapping_of_items_are_refused_by_name(tmp_path, content):
    path = tmp_path / "items.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=r"items\.yaml"):
        load_reporting_items(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        load_reporting_items(tmp_path / "nowhere")
