"""One file of the corpus and what is true of it."""

from dataclasses import dataclass, field

SCORED = "scored"


@dataclass(frozen=True)
class Specimen:
    """A file, and every outcome that would be true.

    Attributes:
        name: unlike any other; its ending is not what decides the format.
        family: what was done to the file.
        data: the file.
        outcomes: `SCORED`, reasons of refusal, or both where the damage decides by chance.
        twin: a clean file with the pixels that a score must rest on, where an independent
            decoder is not to be asked about `data` itself; `why_twin` says why not.
        why_twin: empty without a twin.
    """

    name: str
    family: str
    data: bytes = field(repr=False)
    outcomes: frozenset[str]
    twin: bytes | None = field(default=None, repr=False)
    why_twin: str = ""


def family(
    name: str, files: dict[str, bytes], *outcomes: str, twin: bytes | None = None, why: str = ""
) -> list[Specimen]:
    """Return the specimens of one family, of which the same outcomes are true."""
    expected = frozenset(outcomes)
    return [
        Specimen(f"{name}-{key}", name, data, expected, twin, why) for key, data in files.items()
    ]
