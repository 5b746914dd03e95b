"""A page as a browser would see it, and an evaluation in which everything was measured."""

from html.parser import HTMLParser

import numpy as np
import pandas as pd
from lxml import etree, html
from scored_tables import scored_table

from dermascan.evaluation import (
    CorruptionFigures,
    Efficiency,
    Estimate,
    Evaluation,
    ExplanationCheck,
    Robustness,
    evaluate,
)

HOSTILE = "<script>alert('x')</script>&\"'"
ACTIVE = {"script", "iframe", "object", "embed", "form", "input", "base", "link", "audio", "video"}
ADDRESSES = {"src", "href", "xlink:href", "action", "formaction", "data", "poster", "srcset"}
VOID = {"meta", "img", "br", "hr", "input", "link"}


def active_parts(page: str) -> list[str]:
    """Return what in a page could run, send or load something, as libxml2 reads it."""
    found = []
    for element in html.document_fromstring(page).iter(etree.Element):
        if element.tag in ACTIVE:
            found.append(f"<{element.tag}>")
        for name, value in element.attrib.items():
            loads = name in ADDRESSES and not value.startswith(("#", "data:image/jpeg;base64,"))
            fetches = name == "style" and ("url" in value or "expression" in value)
            if name.startswith("on") or loads or fetches:
                found.append(f"<{element.tag} {name}={value!r}>")
    return found


class Page(HTMLParser):
    """Collects what a browser would, and complains about tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.identities: list[str] = []
        self.labels: list[str] = []
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

    @property
    def words(self) -> str:
        """The text with its white space made even."""
        return " ".join(self.text.split())

    def _note(self, attrs):
        names = {"src", "href", "xlink:href", "data", "action"}
        self.addresses += [value for name, value in attrs if name in names]
        self.identities += [value for name, value in attrs if name == "id"]
        self.labels += [value for name, value in attrs if name == "aria-label"]


def image_table(images: int = 150) -> pd.DataFrame:
    """Return a scored test set with all metadata that slices are made of, some of it hostile."""
    random = np.random.default_rng(1)
    return scored_table(images).assign(
        sex=random.choice(["female", "male", HOSTILE], images),
        age_approx=random.choice([25, 40, 50, 70, 80], images),
        diagnosis_confirm_type=random.choice(["histopathology", "consensus"], images),
        ita=random.normal(45, 15, images),
        sharpness=random.random(images),
    )


def full_evaluation(table: pd.DataFrame, threshold: float = 0.3) -> Evaluation:
    """Return an evaluation of which no part is missing."""
    parts = {
        "robustness": robustness(),
        "explanation": ExplanationCheck(
            images=20, similarity_randomised=0.05, similarity_repeated=0.9, passed=True
        ),
        "efficiency": Efficiency(
            bytes=16_000_000, milliseconds_per_image=12.5, milliseconds_single=40.0, cores=2
        ),
    }
    evaluation = evaluate(
        table,
        threshold,
        dataset="made-up",
        temperature=1.5,
        validation=table,
        resamples=50,
    )
    return evaluation.model_copy(update=parts)


def robustness() -> Robustness:
    """Return what two corruptions cost, one of them undefined at its highest strength."""
    figures = [
        CorruptionFigures(
            name=name,
            strength=strength,
            roc_auc=Estimate(value=0.9 - step * strength),
            auc_lost=step * strength,
        )
        for name, step in (("blur", 0.01), ("jpeg", 0.03))
        for strength in (1, 2, 3)
    ]
    undefined = CorruptionFigures(name="blur", strength=4, roc_auc=Estimate(), auc_lost=None)
    return Robustness(
        images=40,
        corruptions=(*figures, undefined),
        images_at_3=120,
        malignant_at_3=30,
        mean_auc_lost_at_3=Estimate(value=0.06, low=0.02, high=0.1),
    )
