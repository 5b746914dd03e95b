"""What is behind the asset `dermascan_incoming`: tells of folders that wait for their run."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook
from airflow.triggers.base import BaseEventTrigger, TriggerEvent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from airflow.sdk import Connection
    from confluent_kafka import Message

    from dermascan.storage import Store

LONGEST_PAUSE_SECONDS = 300.0
PATIENCE_SECONDS = 20.0  # with a store that fails, while a message waits


def claim_announced(message: Message) -> list[str] | None:
    """Claim the folders that a message announces, as `apply_function` of Airflow's Kafka trigger.

    A message counts as read when this returns. If it raises, the trigger ends, Airflow starts it
    again, and the broker hands out the same message.

    Returns:
        The claimed states to tell of, None if there are none.

    Raises:
        TransientError: the store does not answer.
    """
    from dermascan import notifications  # noqa: PLC0415  # plugins load everywhere
    from dermascan.settings import STORAGE_CONNECTION  # noqa: PLC0415  # as above

    folders = notifications.announced_folders(message.value())
    if not folders:
        return None
    found = BaseHook.get_connection(STORAGE_CONNECTION)
    return notifications.claim_announced(_store_of(found, PATIENCE_SECONDS), folders) or None


def _store_of(found: Connection, retry_seconds: float = 0) -> Store:
    from dermascan.settings import (  # noqa: PLC0415  # as above
        STORAGE_CONNECTION,
        storage_of_connection,
    )
    from dermascan.storage import Store  # noqa: PLC0415  # as above

    settings = storage_of_connection(
        STORAGE_CONNECTION, found.login, found.password, found.extra_dejson
    )
    return Store(settings.impatient(retry_seconds))


class IncomingTrigger(BaseEventTrigger):
    """Watch `incoming/` of the bucket of `dermascan_s3` for as long as the triggerer runs.

    Nothing that it knows needs to outlive it: `dermascan.incoming` says why. Whatever goes wrong
    is logged and tried again, after pauses that double up to five minutes.

    Args:
        poll_seconds: from one look to the next.
        quiet_seconds: how long a folder without `_READY` stays unchanged until it is complete.
    """

    def __init__(self, poll_seconds: float, quiet_seconds: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's has no types
        self.poll_seconds, self.quiet_seconds = poll_seconds, quiet_seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what the triggerer makes this trigger from."""
        kwargs = {"poll_seconds": self.poll_seconds, "quiet_seconds": self.quiet_seconds}
        return "incoming_trigger.IncomingTrigger", kwargs

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield an event when folders wait for their run; never end."""
        from dermascan.incoming import IncomingWatcher  # noqa: PLC0415  # plugins load everywhere

        watcher = IncomingWatcher(self.quiet_seconds)
        store: Store | None = None
        pause = self.poll_seconds
        while True:
            try:
                store = store or await self._open_store()
                waiting = await asyncio.to_thread(watcher.poll, store)
            except Exception as error:  # noqa: BLE001  # an end of the watch would go unnoticed
                store = None
                pause = min(2 * pause, max(LONGEST_PAUSE_SECONDS, self.poll_seconds))
                self.log.warning("incoming/ is looked at again in %.0f s: %s", pause, error)
            else:
                pause = self.poll_seconds
                if waiting:
                    yield TriggerEvent({"states": sorted(waiting)})  # type: ignore[no-untyped-call]
            await asyncio.sleep(pause)

    @staticmethod
    async def _open_store() -> Store:
        from dermascan.settings import STORAGE_CONNECTION  # noqa: PLC0415  # as above

        found = await BaseHook.aget_connection(STORAGE_CONNECTION)
        return await asyncio.to_thread(_store_of, found)
