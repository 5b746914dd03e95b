import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermascan.errors import PermanentError
from dermascan.isic.records import ImageRecord, PackedRecords, parse_image, parse_page

URL = "http://archive.test/api/v2/images/search/"

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()


def image(**changes):
    plain = {
        "isic_id": "ISIC_0000001",
        "copyright_license": "CC-BY",
        "attribution": "A clinic",
        "files": {"full": {"url": "https://files.test/a.JPG?sign=x.png", "size": 10}},
        "metadata": {"acquisition": {"pixels_x": 4}, "clinical": {"sex": "male"}},
        "a_field_of_tomorrow": 1,
    }
    return json.dumps(plain | changes).encode()


def test_parse_image_flattens_the_metadata_and_ignores_unknown_fields():
    record = parse_image(image(), URL)

    assert record == ImageRecord(
        isic_id="ISIC_0000001",
        url="https://files.test/a.JPG?sign=x.png",
        size=10,
        extension="jpg",
        copyright_license="CC-BY",
        attribution="A clinic",
        metadata={"pixels_x": 4, "sex": "male"},
    )


@pytest.mark.parametrize(
    ("path", "extension"),
    [("a.jpeg", "jpeg"), ("a.png", "png"), ("a", "jpg"), ("a.exe", "jpg"), ("a.d/b", "jpg")],
)
def test_parse_image_takes_the_extension_from_the_urls_path(path, extension):
    files = {"full": {"url": f"https://files.test/{path}?response=x.tiff", "size": 1}}

    assert parse_image(image(files=files), URL).extension == extension


def test_parse_image_when_a_value_is_no_scalar_keeps_it_as_json():
    metadata = {"clinical": {"sites": ["a", {"b": 1}], "mass": float("nan")}, "note": "flat"}

    record = parse_image(image(metadata=metadata), URL)

    assert record.metadata == {"sites": '["a", {"b": 1}]', "mass": None, "note": "flat"}


@pytest.mark.parametrize("url", ["http://[::1", "//", "", "\x00"])
def test_parse_image_when_the_file_url_is_nonsense_leaves_it_to_the_download(url):
    record = parse_image(image(files={"full": {"url": url, "size": 1}}), URL)

    assert record.extension == "jpg"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"files": {"full": {"url": "https://files.test/a.jpg"}}}, "files.full.size"),
        ({"files": {"full": {"url": "https://files.test/a.jpg", "size": -1}}}, "files.full.size"),
        ({"isic_id": ""}, "isic_id"),
        ({"copyright_license": None}, "copyright_license"),
        ({"metadata": []}, "metadata"),
    ],
)
def test_parse_page_when_an_image_is_malformed_names_the_url_and_the_field(changes, field):
    body = b'{"count": 1, "next": null, "results": [' + image(**changes) + b"]}"

    with pytest.raises(PermanentError, match=rf"{URL}.*results\.0\.{field}"):
        parse_page(body, URL)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"count": 1}', b'{"results": 5}'])
def test_parse_page_when_it_is_no_page_says_so(body):
    with pytest.raises(PermanentError, match="not what an ISIC archive answers"):
        parse_page(body, URL)


@given(st.dictionaries(st.text(), scalars), st.text(), st.integers(0, 2**50))
def test_packed_records_are_the_same_each_time_they_are_gone_through(metadata, text, size):
    records = [
        ImageRecord(text, text, size, "png", text, text, metadata),
        ImageRecord("ISIC_0000001", text, 0, "jpg", "", text, {}),
    ]

    packed = PackedRecords.of(records)

    assert len(packed) == 2
    assert [list(packed), list(packed)] == [records, records]
