"""What a comparison with the training data means, in plain words."""

from dermascan.drift.comparison import AspectDrift, Drift, Verdict

_FEW = 30
_SHIFT_WORTH_A_WORD = 0.3  # standard deviations between medians
_MOST_SHIFTS = 3

TITLES: dict[Verdict, str] = {
    "like": "Like the training data",
    "somewhat different": "Somewhat different from the training data",
    "different": "Different from the training data",
}
_ADVICE: dict[Verdict, str] = {
    "like": "Nothing in colour, sharpness or content speaks against the figures of the model card. "
    "That the images are alike says nothing about the patients.",
    "somewhat different": "The model may be less right here than its card says. Let a specialist "
    "check some of the scores, those near the threshold first.",
    "different": "The figures of the model card do not carry over to images like these. Measure "
    "the model on labelled images of this kind before its scores are used for anything.",
}
ASPECT_NAMES = {
    "colour": "Colour and exposure",
    "sharpness": "Sharpness",
    "content": "Content, as the network sees it",
}
_HIGHER_AND_LOWER = {
    "lightness": ("lighter", "darker"),
    "redness": ("redder", "less red"),
    "yellowness": ("yellower", "bluer"),
    "spread of lightness": ("more contrast of light and dark", "less contrast of light and dark"),
    "spread of redness": ("more differences of red", "fewer differences of red"),
    "spread of yellowness": ("more differences of yellow", "fewer differences of yellow"),
    "sharpness": ("sharper, or noisier", "more blurred"),
}


def advice(drift: Drift) -> str:
    """Return what to make of a verdict, in a few sentences."""
    text = _ADVICE[drift.verdict]
    if drift.images < _FEW:
        text += f" With {drift.images} images, only large differences can be told from chance."
    return text


def what_moved(aspect: AspectDrift) -> str:
    """Say in which direction a batch differs; nothing if it does not, or has no direction."""
    if aspect.verdict == "like":
        return ""
    moved = [shift for shift in aspect.shifts if abs(shift.deviations) >= _SHIFT_WORTH_A_WORD]
    moved = moved[:_MOST_SHIFTS]
    return "; ".join(_HIGHER_AND_LOWER[shift.feature][shift.deviations < 0] for shift in moved)


def sentence(drift: Drift) -> str:
    """Return the verdict in one line, for logs and run notes."""
    parts = [
        f"{aspect.name}{f' ({moved})' if (moved := what_moved(aspect)) else ''}"
        for aspect in drift.aspects
        if aspect.verdict != "like"
    ]
    return TITLES[drift.verdict] + (f" in {', '.join(parts)}" if parts else "")
