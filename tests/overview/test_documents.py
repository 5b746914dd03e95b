import re

import pytest

from dermascan.errors import NotFoundError
from dermascan.overview.documents import (
    candidate_document,
    data_docs,
    prediction_document,
    read_place,
    version_document,
)

HEX = "a" * 24
HOSTILE = ("../../models/x/champion.json", "..", "", "/etc/passwd", "a/../b", "%2e%2e", "a\nb", "Ä")


def test_documents_have_the_keys_that_tasks_gave_them():
    docs = data_docs("isic", HEX, "0" * 12, "validations/images.html")
    assert docs.key == (
        f"reports/validation/isic/{HEX}/{'0' * 12}/data_docs/validations/images.html"
    )
    assert version_document("dermascan", 7, "card.html").key == "models/dermascan/7/card.html"
    report = candidate_document(HEX, "dermascan", "report.html")
    assert report.key == f"training/{HEX}/candidate/dermascan/report.html"
    assert prediction_document("7-abc", "report.html").key == "predictions/7-abc/report.html"


def test_what_is_not_a_page_is_never_sent_as_one():
    assert version_document("dermascan", 7, "card.md").media_type.startswith("text/plain")
    assert prediction_document("7-abc", "predictions.csv").media_type.startswith("text/csv")


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize(
    "ask",
    [
        lambda name: data_docs(name, HEX, "0" * 12, "index.html"),
        lambda name: data_docs("isic", name, "0" * 12, "index.html"),
        lambda name: data_docs("isic", HEX, name, "index.html"),
        lambda name: data_docs("isic", HEX, "0" * 12, name),
        lambda name: version_document(name, 7, "report.html"),
        lambda name: version_document("dermascan", 7, name),
        lambda name: candidate_document(name, "dermascan", "report.html"),
        lambda name: candidate_document(HEX, name, "report.html"),
        lambda name: candidate_document(HEX, "dermascan", name),
        lambda name: prediction_document(name, "report.html"),
        lambda name: prediction_document("7-abc", name),
    ],
)
def test_no_name_leads_to_another_object(ask, name):
    with pytest.raises(NotFoundError):
        ask(name)


def test_other_files_of_a_version_or_a_run_cannot_be_opened():
    for name in ("saved_model.pb", "MANIFEST.json", "_SUCCESS", "metadata.json"):
        with pytest.raises(NotFoundError):
            version_document("dermascan", 7, name)
        with pytest.raises(NotFoundError):
            prediction_document("run", name)


def test_a_place_lists_what_is_directly_in_it(store):
    store.put("models/dermascan/7/report.html", b"12345")
    store.put("models/dermascan/7/variables/data", b"1")
    store.put("models/dermascan/8/report.html", b"1")

    place = read_place(store, "models/dermascan/7/")

    assert place.address == f"s3://{store.bucket}/models/dermascan/7/"
    assert [(each.key, each.size) for each in place.folder.objects] == [
        ("models/dermascan/7/report.html", 5)
    ]
    assert place.folder.folders == ("models/dermascan/7/variables/",)
    assert place.folder.complete


def test_a_place_with_many_objects_says_that_there_are_more(store, monkeypatch):
    monkeypatch.setattr("dermascan.overview.documents.LISTED", 2)
    for number in range(3):
        store.put(f"raw/isic/images/{number}.jpg", b"1")
    place = read_place(store, "raw/isic/images/")
    assert len(place.folder.objects) == 2
    assert not place.folder.complete


@pytest.mark.parametrize(
    "prefix", ["", "/", "raw/", "models/", "incoming/", "stack/", "raw/../models/", "models/x"]
)
def test_a_place_that_no_task_made_is_not_listed(store, prefix):
    store.put("incoming/patient/a.jpg", b"1")
    with pytest.raises(NotFoundError, match=re.escape(repr(prefix))):
        read_place(store, prefix)


def test_a_place_with_nothing_in_it_is_not_there_unless_it_was_cleared(store):
    with pytest.raises(NotFoundError):
        read_place(store, "predictions/run/")
    assert read_place(store, "staging/predictions/run/").folder.objects == ()
