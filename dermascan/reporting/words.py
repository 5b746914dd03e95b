"""Names of things for people."""

_GROUP_TITLES = {
    "sex": "Sex",
    "age": "Age, years",
    "site": "Body site",
    "confirmation": "How the diagnosis was confirmed",
    "skin_tone": "Skin tone",
    "ita": "Skin tone, estimated from the image (ITA)",
}


def group_title(name: str) -> str:
    """Return what a group of slices is called on a page."""
    return _GROUP_TITLES.get(name, name.replace("_", " ").capitalize())


def corruption_title(name: str) -> str:
    """Return what a corruption is called on a page."""
    return {"jpeg": "JPEG"}.get(name, name.replace("_", " "))
