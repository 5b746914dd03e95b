"""Texts from outside in every HTML document, read by a real parser."""

from collections import Counter
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
from lxml import html
from pages import active_parts, full_evaluation, image_table
from scored_tables import scored_table

from dermascan.gate import check, load_rules
from dermascan.imaging import Preprocessing
from dermascan.inference.digest import BatchDigest
from dermascan.inference.pictures import Picture
from dermascan.model.metadata import ModelMetadata
from dermascan.model_card import CardContext, card_html, load_reporting_items, model_card
from dermascan.reporting import (
    BatchReport,
    GalleryItem,
    LearningCurve,
    ModelExcerpt,
    ReportContext,
    evaluation_report,
    predictions_report,
)
from dermascan.taxonomy import LESION_CLASSES

INCLUDE = Path(__file__).parents[2] / "include"
PLAIN = "a plain text"
# Ends whatever it may be in, and means something to a browser, to Jinja and to JavaScript.
HOSTILE = (
    "\"'><img src=x onerror=alert(1)><script>alert(2)</script></style></title></svg>"
    "<a href=javascript:alert(3) style=x>{{ 7*7 }}{% endraw %}&lt;b&gt;\u202e<!--"
)
SHORT = "\"'><img src=x onerror=alert(1)></style></svg><!--{{ 7*7 }}"  # what names are cut to


def context(text: str) -> ReportContext:
    return ReportContext(text, text, ((text, text),), text)


def predictions(text: str) -> str:
    table = scored_table(12).drop(columns="lesion_class")
    name = SHORT if text == HOSTILE else text
    table["image_key"] = [f"{name}/{name}{number}" for number in range(len(table))]
    table["label"], table["status"], table["reason"] = "malignant", "ok", None
    refused = pd.DataFrame({"image_key": [f"{name}9"], "reason": [f"{name}: {name}"]})
    both = pd.concat([table, refused.assign(status="rejected")], ignore_index=True)
    both = both.assign(threshold=0.3, model_version=1, sha256="0" * 64, isic_id=text)
    both["warnings"] = "blurred small"
    excerpt = ModelExcerpt(((text, text),), (text,))
    pictures = {f"{name}/{name}0": Picture(b"jpeg", b"jpeg")}
    return predictions_report(
        BatchReport(
            BatchDigest.of(both), context(text), pictures, drift_unknown=text, model=excerpt
        )
    )


@cache
def table_of(text: str) -> pd.DataFrame:
    table = image_table()
    table["sex"] = table["sex"].where(table["sex"].isin(["female", "male"]), text)
    table["isic_id"] = [f"{text}{number}" for number in range(len(table))]
    return table


@cache
def evaluation_of(text: str):
    evaluation = full_evaluation(table_of(text)).model_copy(update={"dataset": text})
    figures = [
        each.model_copy(update={"name": text if each.name == "blur" else each.name})
        for each in evaluation.robustness.corruptions
    ]
    robustness = evaluation.robustness.model_copy(update={"corruptions": tuple(figures)})
    return evaluation.model_copy(update={"robustness": robustness})


def evaluation(text: str) -> str:
    table, found = table_of(text), evaluation_of(text)
    rules = load_rules(INCLUDE / "gate.yaml")
    named = [
        rule.model_copy(update={"name": f"{text} {number}", "why": text})
        for number, rule in enumerate(rules.rules)
    ]
    verdict = check(found, None, rules.model_copy(update={"rules": tuple(named)}))
    item = GalleryItem(table["isic_id"][0], "mel", "nv", 0.1, b"jpeg", b"jpeg")
    curve = LearningCurve(text, (0, 1), (1.1, 1.0), (1.2, 0.9), (0.7, 0.9), 1)
    return evaluation_report(
        found, table, verdict, context(text), gallery=[item], history=[curve, curve]
    )


def card(text: str) -> str:
    metadata = ModelMetadata(
        licences={text: text},
        malignant_classes=("mel", "bcc", "akiec"),
        threshold=0.3,
        preprocessing=Preprocessing(),
        dataset_fingerprint=text,
        training_fingerprint=text,
        network={text: text},
        signatures={},
        versions={text: text},
    )
    counts = {split: dict.fromkeys(LESION_CLASSES, 9) for split in ("train", "val", "test")}
    about = CardContext(
        model=text,
        dataset=text,
        version=text,
        counts=counts,
        image_credit=text,
        training=((text, text),),
        data_citations=(text,),
    )
    items = load_reporting_items(INCLUDE / "reporting_items.yaml")
    return card_html(model_card(metadata, evaluation_of(text), about, items))


DOCUMENTS = {"predictions": predictions, "evaluation": evaluation, "card": card}


@cache
def document(name: str, text: str) -> str:
    return DOCUMENTS[name](text)


def elements(page: str) -> Counter[tuple[str, ...]]:
    """Count elements by tag and names of attributes, comments too; charts only as a whole."""
    root = html.document_fromstring(page)
    for chart in root.xpath("//svg"):
        chart.clear(keep_tail=True)
    return Counter((str(each.tag), *sorted(each.attrib)) for each in root.iter())


@pytest.mark.parametrize("name", DOCUMENTS)
def test_document_when_texts_are_hostile_has_the_elements_of_one_of_plain_texts(name: str):
    page = document(name, HOSTILE)
    assert elements(page) == elements(document(name, PLAIN))
    text = html.document_fromstring(page).text_content()
    assert (SHORT if name == "predictions" else HOSTILE) in text


@pytest.mark.parametrize("name", DOCUMENTS)
def test_document_when_texts_are_hostile_can_run_nothing_and_load_nothing(name: str):
    page = document(name, HOSTILE)
    assert active_parts(page) == []
    (policy,) = html.document_fromstring(page).xpath(
        "//meta[@http-equiv='Content-Security-Policy']/@content"
    )
    assert policy.startswith("default-src 'none'")
