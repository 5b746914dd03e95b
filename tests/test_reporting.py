import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dermascan import DISCLAIMER
from dermascan.errors import InputError
from dermascan.evaluation import CLASS_COLUMNS, REQUIRED_COLUMNS, evaluate
from dermascan.gate import check, load_rules
from dermascan.reporting import (
    GALLERY_LIMIT,
    REJECTED_LIMIT,
    TABLE_LIMIT,
    THUMBNAIL_BYTES_LIMIT,
    ReportContext,
    evaluation_report,
    gallery_keys,
    predictions_report,
)
from dermascan.taxonomy import LESION_CLASSES

RULES = load_rules(Path(__file__).parents[1] / "include" / "gate.yaml")
CONTEXT = ReportContext("A title", "A subtitle", (("Epochs", "12"),))
HOSTILE = "<script>alert('x')</script>&\"'"
VOID = {"meta", "img", "br", "hr", "input", "link"}


class Page(HTMLParser):
    """Collects what a browser would, and complains about tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.identities: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._note(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self._note(attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data

    def _note(self, attrs):
        names = {"src", "href", "xlink:href", "data", "action"}
        self.addresses += [value for name, value in attrs if name in names]
        self.identities += [value for name, value in attrs if name == "id"]


def scored_table(images: int = 120) -> pd.DataFrame:
    random = np.random.default_rng(0)
    truth = random.integers(7, size=images)
    odds = np.exp(random.normal(0, 1, (images, 7)) + 2 * np.eye(7)[truth])
    table = pd.DataFrame(odds / odds.sum(axis=1, keepdims=True), columns=list(CLASS_COLUMNS))
    table["p_malignant"] = table[["p_mel", "p_bcc", "p_akiec"]].sum(axis=1)
    table["isic_id"] = table["lesion_id"] = [f"ISIC_{i:07d}" for i in range(images)]
    table["lesion_class"] = [LESION_CLASSES[i] for i in truth]
    table["sex"] = random.choice(["female", "male", HOSTILE], images)
    return table


def predictions(scored: int, rejected: int = 0, name: str = "some/place/{}.jpg") -> pd.DataFrame:
    table = scored_table(max(scored, 1))[["isic_id", *CLASS_COLUMNS, "p_malignant"]].head(scored)
    table["image_key"] = [name.format(i) for i in range(scored)]
    table["label"] = np.where(table["p_malignant"] >= 0.3, "malignant", "benign")
    table["status"] = "ok"
    refused = pd.DataFrame({"image_key": [f"bad/{i}" for i in range(rejected)]})
    refused["reason"] = [("empty", "truncated: half of it")[i % 2] for i in range(rejected)]
    refused["status"] = "rejected"
    both = pd.concat([table, refused], ignore_index=True)
    return both.assign(threshold=0.3, model_version=20260101000000, sha256="0" * 64)


@pytest.fixture(scope="module")
def report() -> str:
    table = scored_table()
    evaluation = evaluate(table, 0.3, dataset="made-up", resamples=100)
    return evaluation_report(evaluation, table, check(evaluation, None, RULES), CONTEXT)


def test_evaluation_report_is_a_well_formed_page_that_loads_nothing(report):
    page = Page(report)
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert "script" not in page.tags
    assert not re.search(r"url\((?!#)|@import", report)
    assert len(page.identities) == len(set(page.identities))


def test_evaluation_report_says_what_it_is_not(report):
    assert DISCLAIMER in Page(report).text


def test_evaluation_report_shows_figures_rules_and_provenance():
    table = scored_table()
    evaluation = evaluate(table, 0.3, resamples=100)
    gate = check(evaluation, None, RULES)
    text = Page(evaluation_report(evaluation, table, gate, CONTEXT)).text
    auc = evaluation.malignant.roc_auc
    for shown in (f"{auc.value:.3f}", f"{auc.low:.3f} to {auc.high:.3f}", "Epochs", "12"):
        assert shown in text
    for result in gate.results:
        assert result.name in text
        assert result.why in text


def test_evaluation_report_draws_four_charts_in_the_colours_of_the_page(report):
    assert Page(report).tags.count("svg") == 4
    assert not re.search(r"#0[1-6]0[1-6]0[1-6]", report)
    assert "prefers-color-scheme: dark" in report


def test_evaluation_report_is_the_same_again(report):
    table = scored_table()
    evaluation = evaluate(table, 0.3, dataset="made-up", resamples=100)
    again = evaluation_report(evaluation, table, check(evaluation, None, RULES), CONTEXT)
    assert again == report


def test_evaluation_report_escapes_metadata(report):
    assert "<script" not in report
    assert HOSTILE in Page(report).text


def test_evaluation_report_of_no_image_says_not_defined():
    nothing = pd.DataFrame(columns=list(REQUIRED_COLUMNS))
    text = Page(evaluation_report(evaluate(nothing, 0.3), nothing, None, CONTEXT)).text
    assert text.count("Not defined on this test set.") == 4
    assert "Gate" not in text


def test_evaluation_report_of_benign_images_only_draws_what_is_defined():
    benign = scored_table().query("lesion_class == 'nv'")
    page = Page(evaluation_report(evaluate(benign, 0.3, resamples=9), benign, None, CONTEXT))
    assert page.text.count("Not defined on this test set.") == 2
    assert page.tags.count("svg") == 2


def test_evaluation_report_with_the_scores_of_other_images_is_refused():
    table = scored_table()
    with pytest.raises(InputError, match="other images"):
        evaluation_report(evaluate(table, 0.3, resamples=2), table.iloc[1:], None, CONTEXT)


def test_predictions_report_is_a_well_formed_page_that_loads_nothing():
    text = predictions_report(predictions(10, 3), {"some/place/0.jpg": b"jpeg"}, CONTEXT)
    page = Page(text)
    assert "data:image/jpeg;base64,anBlZw==" in page.addresses
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert DISCLAIMER in page.text
    assert "20260101000000" in page.text


def test_predictions_report_counts_labels_and_reasons():
    table = predictions(50, 5)
    page = re.sub(r"\s+", " ", Page(predictions_report(table, {}, CONTEXT)).text)
    malignant = int((table["label"] == "malignant").sum())
    assert f"At or above the threshold{malignant}" in page
    assert f"Below the threshold{50 - malignant}" in page
    assert "Rejected5" in page
    assert re.search(r"empty ?3.*truncated ?2", page)
    assert "truncated: half of it" in page


def test_predictions_report_sorts_by_risk():
    table = predictions(30)
    text = Page(predictions_report(table, {}, CONTEXT)).text
    keys = table.sort_values("p_malignant", ascending=False)["image_key"]
    places = [text.index(f"{key}") for key in keys]
    assert places == sorted(places)
    assert gallery_keys(table) == keys.tolist()


def test_predictions_report_escapes_keys_and_reasons():
    table = predictions(2, 2, name=HOSTILE + "{}")
    table["reason"] = table["reason"].where(table["status"] == "ok", HOSTILE)
    text = predictions_report(table, {}, CONTEXT)
    assert "<script" not in text
    assert HOSTILE in Page(text).text


def test_predictions_report_of_many_images_stays_small_and_says_what_it_leaves_out():
    table = predictions(TABLE_LIMIT + 500, REJECTED_LIMIT + 100, name="k" * 900 + "/{}" * 1)
    thumbnails = dict.fromkeys(table["image_key"], b"x" * 50_000)
    text = predictions_report(table, thumbnails, CONTEXT)
    page = Page(text)
    assert len(text) < 2 * THUMBNAIL_BYTES_LIMIT
    assert page.tags.count("img") == THUMBNAIL_BYTES_LIMIT // 50_000
    assert f"The {GALLERY_LIMIT} highest risks of 2,500 scored images" in page.text
    assert "The 2,000 highest risks of 2,500" in page.text
    assert f"The first {REJECTED_LIMIT} of 600" in page.text


def test_predictions_report_without_a_scored_image_says_so():
    text = Page(predictions_report(predictions(0, 3), {}, CONTEXT)).text
    assert "No image was scored." in text
    assert "Highest risk first" not in text


def test_gallery_keys_are_capped():
    assert len(gallery_keys(predictions(GALLERY_LIMIT + 1, 4))) == GALLERY_LIMIT
