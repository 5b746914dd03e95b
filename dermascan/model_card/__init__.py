"""A model card (Mitchell et al. 2019): what a model is for, what it was made of, what it can do."""

from dermascan.model_card.content import CardContext, model_card
from dermascan.model_card.document import Card, card_html, card_markdown
from dermascan.model_card.guidelines import ReportingItems, load_reporting_items

__all__ = [
    "Card",
    "CardContext",
    "ReportingItems",
    "card_html",
    "card_markdown",
    "load_reporting_items",
    "model_card",
]
