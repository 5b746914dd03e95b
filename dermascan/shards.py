"""Cut a list of any length into few enough pieces for a scheduler."""

from collections.abc import Iterable, Iterator
from itertools import islice

ITEMS_PER_SHARD = 2000
MAX_SHARDS = 24
WORTH_DIVIDING = 200


def shard_count(items: int) -> int:
    """Return how many shards to cut: enough to work in parallel, at most `MAX_SHARDS`."""
    if items < WORTH_DIVIDING:
        return 1
    return min(MAX_SHARDS, max(2, -(-items // ITEMS_PER_SHARD)))


def cut(lines: Iterable[bytes], total: int, shards: int) -> Iterator[Iterator[bytes]]:
    """Yield `shards` runs of `total` lines, as equal in length as can be; each is to be used up."""
    remaining = iter(lines)
    size, extra = divmod(total, shards)
    for shard in range(shards):
        yield islice(remaining, size + (shard < extra))
