"""Run the trigger that the DAG `watch_incoming` has for notifications as the triggerer does.

What it tells of goes to standard output, a line of JSON each, among the lines of the log. A
trigger that ends, whether it told of something or failed, is made anew from what it serialises to.
"""

import asyncio
import json
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[1]
TOLD = "told: "


async def read() -> None:
    import watch_incoming  # noqa: PLC0415  # after the path is set
    from airflow.sdk.module_loading import import_string  # noqa: PLC0415

    (watcher,) = [w for w in watch_incoming.watchers() if w.name == "dermascan_notifications"]
    classpath, kwargs = watcher.trigger.serialize()
    while True:
        trigger = import_string(classpath)(**kwargs)
        try:
            async for event in trigger.run():
                print(f"{TOLD}{json.dumps(event.payload)}", flush=True)  # noqa: T201  # read by the test
        except Exception as error:  # noqa: BLE001  # as the triggerer, which logs it and goes on
            print(f"ended: {error}", file=sys.stderr, flush=True)  # noqa: T201
            await asyncio.sleep(1)
        finally:
            await trigger.cleanup()


if __name__ == "__main__":
    sys.path[:0] = [str(PROJECT / "dags"), str(PROJECT / "plugins")]
    asyncio.run(read())
