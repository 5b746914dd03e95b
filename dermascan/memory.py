"""What a long step can do for its own memory between two things that it does."""

import gc

import pyarrow as pa


def give_back_memory() -> None:
    """Return to the system what is free between other things, or holds only itself in circles."""
    gc.collect()
    pa.default_memory_pool().release_unused()
