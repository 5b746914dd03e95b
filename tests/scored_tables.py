"""Made-up scored test sets."""

import numpy as np
import pandas as pd

from dermascan.evaluation import CLASS_COLUMNS
from dermascan.taxonomy import LESION_CLASSES, Taxonomy

THRESHOLD = 0.4
MALIGNANT = Taxonomy().malignant


def scored_table(images: int = 300, seed: int = 0, skill: float = 1.5) -> pd.DataFrame:
    """Draw a test set of which a made-up model knows more or less."""
    random = np.random.default_rng(seed)
    lesion = random.integers(max(images * 2 // 3, 1), size=images)
    truth = lesion % len(LESION_CLASSES)
    odds = np.exp(random.normal(0, 1, (images, 7)) + skill * np.eye(7)[truth])
    table = pd.DataFrame(odds / odds.sum(axis=1, keepdims=True), columns=list(CLASS_COLUMNS))
    table["isic_id"] = [f"ISIC_{i:07d}" for i in range(images)]
    table["lesion_id"] = [f"IL_{i:07d}" for i in lesion]
    table["lesion_class"] = [LESION_CLASSES[i] for i in truth]
    table["p_malignant"] = table[[f"p_{name}" for name in MALIGNANT]].sum(axis=1).clip(0, 1)
    table["sex"] = random.choice(["female", "male", None], images)
    table["age_approx"] = random.choice([25.0, 30.0, 74.0, 75.0, np.nan], images)
    table["anatom_site_general"] = random.choice(["head/neck", "palms/soles"], images)
    return table


def is_malignant(table: pd.DataFrame) -> np.ndarray:
    """Tell which rows are malignant."""
    return table["lesion_class"].isin(MALIGNANT).to_numpy()


def binary_table(malignant: list[bool], scores: list[float]) -> pd.DataFrame:
    """Build a test set of melanomas and nevi, each its own lesion, with these `p_malignant`."""
    table = pd.DataFrame(0.0, index=range(len(scores)), columns=list(CLASS_COLUMNS))
    table["p_mel"], table["p_nv"] = scores, 1 - np.array(scores)
    table["p_malignant"] = scores
    table["isic_id"] = [f"ISIC_{i:07d}" for i in range(len(scores))]
    table["lesion_id"] = None
    table["lesion_class"] = np.where(malignant, "mel", "nv")
    return table
