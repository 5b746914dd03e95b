"""How many images may be decoded at the same time."""

import os
import threading


def decoding_slots(at_once: int | None = None) -> threading.BoundedSemaphore:
    """Return what threads hold while they decode an image: `with slots: decode(data)`.

    A download waits for the network and holds a file; decoding keeps a core busy and may take
    2 GB for the largest image that is accepted. So a step may read with many threads, but
    makes one of these and decodes under it, and keeps the full-size image no longer.

    Args:
        at_once: how many threads may decode; as many as there are cores by default.
    """
    return threading.BoundedSemaphore(at_once or os.cpu_count() or 1)
