"""ISIC diagnoses to seven lesion classes, and classes to malignant or benign.

The one table of the project. Classes are those of HAM10000 (Tschandl et al.,
Scientific Data 5:180161, 2018); diagnoses are ISIC's hierarchical terms
(`diagnosis_1` to `diagnosis_5`), joined by colons.
"""

from collections.abc import Sequence
from dataclasses import dataclass

LESION_CLASSES: tuple[str, ...] = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")

# Of tables that hold probabilities.
CLASS_COLUMNS: tuple[str, ...] = tuple(f"p_{name}" for name in LESION_CLASSES)

CLASS_NAMES: dict[str, str] = {
    "akiec": "Actinic keratosis, Bowen's disease or squamous cell carcinoma",
    "bcc": "Basal cell carcinoma",
    "bkl": "Benign keratosis",
    "df": "Dermatofibroma",
    "mel": "Melanoma",
    "nv": "Melanocytic nevus",
    "vasc": "Vascular lesion",
}

SQUAMOUS_CELL_CARCINOMA = "scc"

# A path of diagnosis levels, from the first, and the class of all that is under it.
DIAGNOSIS_TO_CLASS: dict[str, str] = {
    "Malignant:Malignant melanocytic proliferations (Melanoma)": "mel",
    "Malignant:Malignant adnexal epithelial proliferations - Follicular"
    ":Basal cell carcinoma": "bcc",
    "Malignant:Malignant epidermal proliferations:Squamous cell carcinoma in situ": "akiec",
    "Malignant:Malignant epidermal proliferations:Squamous cell carcinoma, Invasive": "scc",
    "Malignant:Malignant epidermal proliferations:Squamous cell carcinoma, NOS": "scc",
    "Indeterminate:Indeterminate epidermal proliferations:Solar or actinic keratosis": "akiec",
    "Benign:Benign epidermal proliferations:Pigmented benign keratosis": "bkl",
    "Benign:Benign epidermal proliferations:Seborrheic keratosis": "bkl",
    "Benign:Benign epidermal proliferations:Solar lentigo": "bkl",
    "Benign:Benign epidermal proliferations:Lichen planus like keratosis": "bkl",
    "Benign:Benign soft tissue proliferations - Fibro-histiocytic:Dermatofibroma": "df",
    "Benign:Benign melanocytic proliferations:Nevus": "nv",
    "Benign:Benign soft tissue proliferations - Vascular": "vasc",
    "Benign:Hemorrhagic lesions": "vasc",
}


@dataclass(frozen=True)
class Taxonomy:
    """How diagnoses become classes and classes become risk.

    Attributes:
        malignant: classes whose probabilities add up to `p_malignant`.
        scc_as: class for squamous cell carcinoma, None to leave such rows out.
    """

    malignant: tuple[str, ...] = ("mel", "bcc", "akiec")
    scc_as: str | None = "akiec"

    def lesion_class(self, diagnosis: Sequence[str | None]) -> str | None:
        """Map the levels `diagnosis_1` to `diagnosis_5` to a class.

        Args:
            diagnosis: up to five levels, outermost first; None or "" ends the path.

        Returns:
            One of `LESION_CLASSES`, or None when no class covers the diagnosis.
        """
        path: list[str] = []
        for level in diagnosis:
            if not level:
                break
            path.append(level)
            found = DIAGNOSIS_TO_CLASS.get(":".join(path))
            if found is not None:
                return self.scc_as if found == SQUAMOUS_CELL_CARCINOMA else found
        return None

    def is_malignant(self, lesion_class: str) -> bool:
        """Tell whether a class counts towards `p_malignant`."""
        return lesion_class in self.malignant

    def malignant_indices(self) -> tuple[int, ...]:
        """Return the positions of the malignant classes in `LESION_CLASSES`."""
        return tuple(i for i, name in enumerate(LESION_CLASSES) if self.is_malignant(name))
