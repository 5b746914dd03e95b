import re

import numpy as np
import pandas as pd
from pages import HOSTILE, Page
from scored_tables import scored_table

from dermascan import DISCLAIMER
from dermascan.evaluation import CLASS_COLUMNS
from dermascan.reporting import (
    GALLERY_LIMIT,
    REJECTED_LIMIT,
    TABLE_LIMIT,
    THUMBNAIL_BYTES_LIMIT,
    ReportContext,
    gallery_keys,
    predictions_report,
)

CONTEXT = ReportContext("A title", "A subtitle", (("Run", "12"),))


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
