import re
from html import unescape
from pathlib import Path

import pytest
from pages import HOSTILE, Page, full_evaluation, image_table
from scored_tables import scored_table

from dermascan import DISCLAIMER
from dermascan.evaluation import evaluate
from dermascan.imaging import Preprocessing
from dermascan.model.metadata import ArrayDescription, ModelMetadata, SignatureDescription
from dermascan.model_card import (
    Card,
    CardContext,
    card_html,
    card_markdown,
    load_reporting_items,
    model_card,
)
from dermascan.reporting import GalleryItem, LearningCurve, ReportContext, evaluation_report
from dermascan.taxonomy import LESION_CLASSES

ITEMS = load_reporting_items(Path(__file__).parents[2] / "include" / "reporting_items.yaml")
METADATA = ModelMetadata(
    licences={"training data": "CC-BY-NC", "initial weights": "Apache-2.0"},
    malignant_classes=("mel", "bcc", "akiec"),
    threshold=0.3,
    preprocessing=Preprocessing(),
    dataset_fingerprint="da7a",
    training_fingerprint="f00d",
    network={"architecture": "efficientnet-lite0"},
    signatures={
        "serving_default": SignatureDescription(
            inputs={
                "images": ArrayDescription(
                    shape=(None, None, None, 3), dtype="float32", meaning="RGB, 0..255"
                )
            },
            outputs={
                "p_malignant": ArrayDescription(shape=(None,), dtype="float32", meaning="risk")
            },
        )
    },
    versions={"keras": "3.15.1"},
)
COUNTS = {
    split: dict.fromkeys(LESION_CLASSES, images)
    for split, images in (("train", 1000), ("val", 200), ("test", 30))
}
CONTEXT = CardContext(
    model="lesions",
    dataset="made-up",
    version="20260901120000",
    counts=COUNTS,
    left_out=17,
    image_credit="Somebody (CC-BY-NC)",
    training=(("Epochs", "8"),),
    data_citations=("Somebody et al., Some Images, 2020.",),
)


@pytest.fixture(scope="module")
def card() -> Card:
    return model_card(METADATA, full_evaluation(image_table()), CONTEXT, ITEMS)


@pytest.fixture(scope="module")
def html(card) -> str:
    return card_html(card)


@pytest.fixture(scope="module")
def markdown(card) -> str:
    return card_markdown(card)


def words_of_markdown(markdown: str) -> str:
    """Take the escapes and the marks away."""
    plain = re.sub(r"\\(.)", r"\1", markdown).replace("&amp;", "&")
    return " ".join(re.sub(r"[|*>#-]", " ", plain).split())


def words_of_html(html: str) -> str:
    body = html[html.index("<body") :]
    plain = unescape(re.sub(r"<[^>]+>", " ", body))
    return " ".join(re.sub(r"[|*>#-]", " ", plain).split())


def test_card_is_a_well_formed_page_that_loads_nothing(html):
    page = Page(html)
    assert all(address.startswith("#") for address in page.addresses)
    assert {address.removeprefix("#") for address in page.addresses} <= set(page.identities)
    assert len(page.identities) == len(set(page.identities))
    assert len(page.labels) == len(set(page.labels))
    assert DISCLAIMER in page.text


def test_card_has_the_nine_parts_of_model_cards(card):
    titles = {section.title for section in card.sections if not section.is_part}
    assert titles >= {
        "Model details",
        "Intended use",
        "Factors",
        "Metrics",
        "Evaluation data",
        "Training data",
        "Quantitative analyses",
        "Ethical considerations",
        "Caveats and recommendations",
    }


@pytest.mark.parametrize(
    "shown",
    [
        "20260901120000",
        "f00d",
        "da7a",
        "efficientnet-lite0",
        "3.15.1",
        "CC-BY-NC",
        "Apache-2.0",
        "Somebody (CC-BY-NC)",
        "Somebody et al., Some Images, 2020.",
        "7,000",
        "0.300",
        "any x any x any x 3",
        "histopathology",
        "JPEG",
        "16.0 MB",
    ],
)
def test_both_renderings_show(html, markdown, shown):
    plain = " ".join(re.sub(r"[|*>#-]", " ", shown).split())
    assert plain in words_of_html(html)
    assert plain in words_of_markdown(markdown)


def test_both_renderings_say_the_same(card, html, markdown):
    on_page, in_file = words_of_html(html), words_of_markdown(markdown)
    for section in card.sections:
        assert section.title in on_page
        assert section.title in in_file
    numbers = re.compile(r"\d+\.\d+")
    of_file = numbers.findall(in_file)
    start = on_page.index("Model details", on_page.index("Reporting guidelines"))
    assert numbers.findall(on_page[start:])[: len(of_file) - 1] == of_file[:-1]


def test_metrics_come_with_their_intervals(markdown):
    auc = full_evaluation(image_table()).malignant.roc_auc
    assert f"| {auc.value:.3f} ({auc.low:.3f} to {auc.high:.3f}) | 0.5 |" in markdown


def test_every_slice_is_in_the_card(card):
    evaluation = full_evaluation(image_table())
    section = next(each for each in card.sections if each.anchor == "slices")
    rows = [row[0] for block in section.blocks[1:] for row in block.rows]
    assert rows == [each.name for group in evaluation.slices for each in group.slices]
    assert evaluation.worst_slice.name in section.blocks[0].text


def test_hostile_text_has_no_meaning_in_either_rendering(html, markdown):
    assert "<script" not in html
    assert HOSTILE in Page(html).text
    assert "<script" not in markdown.replace(r"\<script", "")
    assert HOSTILE in re.sub(r"\\(.)", r"\1", markdown).replace("&amp;", "&")


def test_markdown_tables_stay_tables_whatever_is_in_them(card):
    hostile = CardContext("a|b\n# c", "x", counts=COUNTS, training=(("- n", "1. v\n\n| w"),))
    text = card_markdown(model_card(METADATA, full_evaluation(image_table()), hostile, ITEMS))
    assert r"# Model card: a\|b \# c" in text
    assert r"- **\- n:** 1. v \| w" in text
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        columns = [len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()]
        assert len(set(columns)) == 1


def test_card_of_a_bare_evaluation_says_what_is_not_known():
    table = scored_table(60).drop(columns=["sex", "age_approx", "anatom_site_general"])
    evaluation = evaluate(table, 0.3, resamples=9)
    card = model_card(METADATA, evaluation, CardContext("lesions", "made-up"), ITEMS)
    sections = {section.anchor: section.blocks for section in card.sections}
    for anchor in ("robustness", "explanation", "efficiency", "operating-points"):
        assert sections[anchor][0].text == "Not measured in this evaluation."
    assert "neither recorded nor estimated" in sections["skin-tone"][0].text
    assert "It is not recorded" in sections["confirmation"][0].text
    assert "carry no metadata" in sections["factors"][0].text
    assert "not published yet" in card_markdown(card)


def test_every_place_that_a_guideline_item_names_exists_without_a_champion_and_a_gate(card):
    table = image_table(60)
    report = Page(
        evaluation_report(
            full_evaluation(table),
            table,
            None,
            ReportContext("A report"),
            gallery=[GalleryItem(table["isic_id"][0], "mel", "nv", 0.1, b"jpeg")],
            history=[LearningCurve("network 1", (0, 1), (None, 1.0), (1.2, 0.9), (0.7, 0.9), 1)],
        )
    )
    in_report = set(report.identities)
    in_card = {section.anchor for section in card.sections}
    for guideline in ITEMS.guidelines:
        for item in guideline.items:
            for place in item.where:
                document, anchor = place.split(".")
                assert anchor in (in_card if document == "card" else in_report), item.number


def test_every_item_of_both_guidelines_is_in_the_card(card):
    sections = {section.anchor: section for section in card.sections}
    claim, tripod = (sections[name].blocks[1].rows for name in ("items-claim", "items-tripodai"))
    assert [row[0] for row in claim] == [str(number) for number in range(1, 45)]
    assert {int(row[0].rstrip("abcdefg")) for row in tripod} == set(range(1, 28))
    assert claim[-1][:2] == ("44", "Funding, and the funders' part")
    assert claim[-1][2] == "to be filled in by the authors"


def test_card_names_every_kind_of_figure_that_it_shows_without_an_interval(card):
    sections = {section.anchor: section.blocks for section in card.sections}
    corrupted = [cell for row in sections["robustness"][-1].rows for cell in row[1:]]
    assert not any("(" in cell for cell in corrupted)
    (exceptions,) = (text for text in sections["metrics"][-1].items if "no interval" in text)
    for kind in ("corruption", "explanations", "size and speed"):
        assert kind in exceptions


def test_card_takes_only_the_malignant_score_for_a_probability(markdown):
    assert "the value of a single class is a score, no probability" in markdown
    assert "calibrated class probabilities" not in markdown
