"""Run the trigger behind `dermascan_incoming` until it has told something, and print it as JSON."""

import asyncio
import json
import sys
from pathlib import Path


async def first_event() -> dict:
    from incoming_trigger import IncomingTrigger  # noqa: PLC0415  # after the path is set

    _, kwargs = IncomingTrigger(poll_seconds=0.2, quiet_seconds=60).serialize()
    events = IncomingTrigger(**kwargs).run()
    return (await anext(events)).payload


def main(plugins: Path) -> None:
    sys.path.insert(0, str(plugins))
    print(json.dumps(asyncio.run(first_event())), flush=True)  # noqa: T201  # read by the test


if __name__ == "__main__":
    main(Path(sys.argv[1]))
