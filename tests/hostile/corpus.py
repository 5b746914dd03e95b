"""The whole corpus, generated: the same files on every machine that has the same encoders."""

import functools

from hostile.damage import damage
from hostile.deceptions import deceptions
from hostile.looks import looks
from hostile.refused import EXPECTED, hostile_images
from hostile.specimen import Specimen, family


@functools.cache
def corpus() -> tuple[Specimen, ...]:
    """Return every specimen, in an order that does not change."""
    by_hand = [
        specimen
        for name, data in hostile_images().items()
        for specimen in family("by-hand", {name: data}, EXPECTED[name])
    ]
    everything = (*by_hand, *damage(), *deceptions(), *looks())
    return tuple({specimen.data: specimen for specimen in reversed(everything)}.values())[::-1]
