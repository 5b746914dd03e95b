"""DermaScan: from the ISIC archive to predictions on new dermoscopic images."""

__version__ = "0.1.0"

DISCLAIMER = (
    "Decision support for research. Not a medical device; not a diagnosis. "
    "A person who is qualified to must look at the patient."
)
