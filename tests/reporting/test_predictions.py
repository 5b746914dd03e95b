import re
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from pages import HOSTILE, Page, active_parts
from scored_tables import scored_table

from dermascan import DISCLAIMER
from dermascan.drift.comparison import AspectDrift, Drift, Shift
from dermascan.evaluation import CLASS_COLUMNS
from dermascan.inference.digest import REJECTED_LIMIT, TABLE_LIMIT, BatchDigest
from dermascan.inference.pictures import Picture
from dermascan.layout import image_anchor
from dermascan.reporting import (
    GALLERY_LIMIT,
    PICTURE_BYTES_LIMIT,
    BatchReport,
    ModelExcerpt,
    ReportContext,
    predictions_report,
)

CONTEXT = ReportContext("A title", "A subtitle", (("Run", "12"),))
MEBIBYTE = 1024 * 1024


def predictions(scored: int, rejected: int = 0, name: str = "some/place/{}.jpg") -> pd.DataFrame:
    table = scored_table(max(scored, 1))[["isic_id", *CLASS_COLUMNS, "p_malignant"]].head(scored)
    table["image_key"] = [name.format(i) for i in range(scored)]
    table["label"] = np.where(table["p_malignant"] >= 0.3, "malignant", "benign")
    table["status"] = "ok"
    table["warnings"] = [("", "blurred", "dark small")[i % 3] for i in range(scored)]
    refused = pd.DataFrame({"image_key": [f"bad/{i}" for i in range(rejected)]})
    refused["reason"] = [("empty", "truncated: half of it")[i % 2] for i in range(rejected)]
    refused["status"] = "rejected"
    both = pd.concat([table, refused], ignore_index=True)
    return both.assign(threshold=0.3, model_version=20260101000000, sha256="0" * 64)


def report_on(table: pd.DataFrame, **parts: object) -> str:
    return predictions_report(BatchReport(BatchDigest.of(table), CONTEXT, **parts))


def drift(verdict: str, images: int = 500) -> Drift:
    sharpness = AspectDrift("sharpness", 0.21, 0.001, verdict, (Shift("sharpness", -1.4),))
    colour = AspectDrift("colour", -0.001, 0.7, "like", (Shift("lightness", -0.1),))
    return Drift(images, images, 600, verdict, (colour, sharpness))


def test_predictions_report_is_a_well_formed_page_that_loads_nothing():
    pictures = {"some/place/0.jpg": Picture(b"jpeg", b"heat")}
    text = report_on(predictions(10, 3), pictures=pictures, drift=drift("different"))
    page = Page(text)
    assert {"data:image/jpeg;base64,anBlZw==", "data:image/jpeg;base64,aGVhdA=="} <= set(
        page.addresses
    )
    assert active_parts(text) == []
    assert DISCLAIMER in page.text
    assert "This is not a diagnosis." in page.text
    assert "20260101000000" in page.text


def test_predictions_report_counts_labels_and_reasons():
    table = predictions(50, 5)
    page = re.sub(r"\s+", " ", Page(report_on(table)).text)
    malignant = int((table["label"] == "malignant").sum())
    assert f"At or above the threshold{malignant}" in page
    assert f"Below the threshold{50 - malignant}" in page
    assert "Rejected5" in page
    assert re.search(r"empty ?3.*truncated ?2", page)
    assert "truncated: half of it" in page


def test_predictions_report_counts_quality_warnings_and_names_them_at_each_image():
    page = Page(report_on(predictions(9)))
    assert "With a quality warning6" in page.words
    assert re.search(r"blurred out of focus or moved3 .*small .* looks at3", page.words)
    assert page.text.count("blurred") == 1 + 2 * 3  # in gallery and table


def test_predictions_report_when_images_were_not_measured_does_not_speak_of_quality():
    text = report_on(predictions(9).drop(columns="warnings"))
    assert "uality warning" not in text


def test_predictions_report_sorts_by_risk():
    table = predictions(30)
    text = Page(report_on(table)).text
    keys = table.sort_values("p_malignant", ascending=False)["image_key"]
    places = [text.index(f"{key}") for key in keys]
    assert places == sorted(places)


def test_predictions_report_gives_each_image_a_place_that_a_link_can_name():
    table = predictions(GALLERY_LIMIT + 50, 3)
    page = Page(report_on(table))
    assert len(page.identities) == len(set(page.identities))
    assert {image_anchor(key) for key in table["image_key"]} <= set(page.identities)
    fragments = {address[1:] for address in page.addresses if address.startswith("#")}
    assert fragments <= set(page.identities)


def test_image_anchor_when_keys_are_alike_differs_and_stays_the_same():
    assert image_anchor("new/a.jpg") == "image-" + image_anchor("new/a.jpg")[6:]
    assert image_anchor("new/a.jpg") != image_anchor("new/A.jpg")
    assert re.fullmatch(r"image-[0-9a-f]{16}", image_anchor(HOSTILE))


@pytest.mark.parametrize(
    ("verdict", "title", "advice"),
    [
        ("like", "Like the training data", "says nothing about the patients"),
        ("somewhat different", "Somewhat different from the training data", "near the threshold"),
        ("different", "Different from the training data", "do not carry over"),
    ],
)
def test_predictions_report_says_how_like_the_training_data_a_batch_is(verdict, title, advice):
    page = Page(report_on(predictions(9), drift=drift(verdict)))
    assert title in page.text
    assert advice in page.words
    assert ("more blurred" in page.text) == (verdict != "like")


def test_predictions_report_of_few_images_says_that_little_can_be_told():
    page = Page(report_on(predictions(9), drift=drift("like", images=9)))
    assert "With 9 images, only large differences" in page.words


def test_predictions_report_without_a_comparison_says_why():
    assert "published without a sample" in Page(report_on(predictions(9))).words


def test_predictions_report_quotes_the_model_card_and_says_when_it_was_made():
    excerpt = ModelExcerpt((("ROC AUC", "0.925"),), ("Not for nails.",))
    made = datetime(2026, 2, 3, 4, 5, tzinfo=UTC)
    page = Page(report_on(predictions(9), model=excerpt, made=made))
    assert "0.925" in page.text
    assert "Not for nails." in page.text
    assert "2026-02-03 04:05 UTC" in page.text


def test_predictions_report_escapes_keys_and_reasons():
    table = predictions(2, 2, name=HOSTILE + "{}")
    table["reason"] = table["reason"].where(table["status"] == "ok", HOSTILE)
    text = report_on(table)
    assert "<script" not in text
    assert HOSTILE in Page(text).text


def test_predictions_report_of_many_images_stays_small_and_says_what_it_leaves_out():
    table = predictions(10_000, 1_000, name="k" * 900 + "/{}" * 1)
    picture = Picture(b"x" * 20_000, b"y" * 5_000)
    text = report_on(table, pictures=dict.fromkeys(table["image_key"], picture))
    page = Page(text)
    assert len(text) < 5 * MEBIBYTE
    assert page.tags.count("img") == 2 * (PICTURE_BYTES_LIMIT // 25_000)
    assert f"The {GALLERY_LIMIT} highest risks of 10,000 scored images" in page.text
    assert f"The {TABLE_LIMIT:,} highest risks of 10,000" in page.text
    assert f"The first {REJECTED_LIMIT} of 1,000" in page.text


def test_predictions_report_without_a_scored_image_says_so():
    text = Page(report_on(predictions(0, 3))).text
    assert "No image was scored." in text
    assert "Highest risk first" not in text
