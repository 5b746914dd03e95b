from collections import Counter
from random import Random

import pytest
from archives import serving
from isic.misbehaving import JPEG, misbehaving_archive, status

from dermascan.isic import division
from dermascan.isic.client import IsicClient
from dermascan.isic.division import MOST_IN_A_PART, divide
from dermascan.isic.synthetic import write_archive

IMAGES = 60


def beginning(query):
    return query.rpartition("isic_id:")[2].removesuffix("*")


def counter_of(numbers):
    ids = [f"ISIC_{number:07d}" for number in numbers]
    return lambda queries: [sum(i.startswith(beginning(q)) for i in ids) for q in queries]


@pytest.mark.parametrize(("images", "below"), [(900, 10**7), (12_000, 10**7), (12_000, 15_000)])
def test_divide_makes_short_parts_that_hold_every_image_once(images, below):
    numbers = Random(images).sample(range(below), images)
    count = counter_of(numbers)

    parts = divide("", len(numbers), count)

    counts = count(parts) if parts != [""] else [len(numbers)]
    assert sum(counts) == len(numbers)
    assert max(counts) <= MOST_IN_A_PART
    assert len({beginning(part) for part in parts}) == len(parts)


def test_divide_keeps_the_query_and_asks_for_no_more_than_it_must():
    asked = Counter()
    numbers = [*range(24_306, 34_321)]  # where HAM10000 is

    def count(queries):
        asked.update(queries)
        return counter_of(numbers)(queries)

    parts = divide("sex:male OR sex:female", len(numbers), count)

    assert parts[0] == "(sex:male OR sex:female) AND isic_id:ISIC_0024*"
    assert len(parts) == 11
    assert asked.total() == len(asked) == 50


@pytest.mark.parametrize("counts", [None, [300] * 10, [100] * 9 + [99]])
def test_divide_when_numbers_do_not_add_up_leaves_the_query_whole(counts):
    assert divide("sex:male", 2000, lambda _: counts) == ["sex:male"]


def test_divide_when_one_part_does_not_add_up_leaves_that_whole():
    def count(queries):
        first = [1500, 700] + [0] * 8
        return [0] * 10 if any(len(beginning(q)) == 7 for q in queries) else first

    assert divide("", 2200, count) == ["isic_id:ISIC_0*", "isic_id:ISIC_1*"]


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    write_archive(folder, images=IMAGES, seed=3)
    with serving(folder) as url:
        yield url


@pytest.mark.parametrize("query", ["", "sex:male OR sex:female"])
def test_search_in_parts_finds_what_one_search_finds(archive, query, monkeypatch):
    with IsicClient(archive) as client:
        whole = {record.isic_id: record.size for record in client.search(query)}
        monkeypatch.setattr(division, "MOST_IN_A_PART", 7)
        parts = [(record.isic_id, record.size) for record in client.search(query)]

    assert len(whole) > 7
    assert len(parts) == len(whole)
    assert dict(parts) == whole


@pytest.fixture
def stranger():
    """An archive that takes every query for the same."""
    with misbehaving_archive({f"ISIC_{number:07d}": JPEG for number in range(25)}) as server:
        server.page_size = 10
        yield server


def test_search_when_the_archive_ignores_beginnings_goes_page_by_page(stranger, monkeypatch):
    monkeypatch.setattr(division, "MOST_IN_A_PART", 7)

    with IsicClient(stranger.url) as client:
        assert [record.isic_id for record in client.search()] == list(stranger.images)


def test_search_when_the_archive_refuses_beginnings_goes_page_by_page(stranger, monkeypatch):
    monkeypatch.setattr(division, "MOST_IN_A_PART", 7)
    refuse, search = status(400), "/api/v2/images/search/"

    def answer(handler):
        known = "isic_id" not in handler.path
        return stranger._search(handler) if known else refuse(handler)

    stranger.always[search] = answer

    with IsicClient(stranger.url) as client:
        assert [record.isic_id for record in client.search()] == list(stranger.images)
    assert len([each for each in stranger.asked(search) if "isic_id" in each.path]) == 10


def test_search_with_a_limit_is_not_divided(stranger, monkeypatch):
    monkeypatch.setattr(division, "MOST_IN_A_PART", 7)

    with IsicClient(stranger.url) as client:
        assert len(list(client.search(limit=12))) == 12
    assert not stranger.asked("isic_id")
