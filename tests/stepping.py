"""Operations on object storage that go on by one request at a time, when they are told to."""

import copy
import threading
from collections.abc import Callable
from typing import Any

from dermascan.storage import Store


class Killed(BaseException):
    """Stands for the end of a process in the middle of its work."""


class SteppedStore(Store):
    """A store that waits for permission before each request; made by `Operation`."""

    operation: "Operation"

    def _call(self, operation: Callable[[], Any], key: str, verb: str) -> Any:
        self.operation.pause()
        result = super()._call(operation, key, verb)
        self.operation.survive()
        return result


class Operation:
    """A call in a thread of its own, paused before each of its requests.

    Only one thread runs at a time: whoever made or stepped the operation waits until it pauses
    again or ends, so that an interleaving can be repeated.

    Args:
        store: the bucket.
        call: what to do, given a store for the same bucket.
    """

    def __init__(self, store: Store, call: Callable[[Store], Any]) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self.ended = False
        self.requests = 0
        self._fate: str | None = None
        self._go, self._paused = threading.Semaphore(0), threading.Semaphore(0)
        stepped = copy.copy(store)
        stepped.__class__ = SteppedStore
        stepped.operation = self  # type: ignore[attr-defined]  # of the subclass that it now is
        threading.Thread(target=self._run, args=(call, stepped), daemon=True).start()
        self._paused.acquire()

    def _run(self, call: Callable[[Store], Any], store: Store) -> None:
        try:
            self.result = call(store)
        except BaseException as error:  # noqa: BLE001  # kept for the test to judge
            self.error = error
        self.ended = True
        self._paused.release()

    def pause(self) -> None:
        """Called by the operation before a request."""
        self._paused.release()
        self._go.acquire()
        self.requests += 1
        if self._fate == "before":
            raise Killed

    def survive(self) -> None:
        """Called by the operation after a request."""
        if self._fate == "after":
            raise Killed

    def step(self) -> None:
        """Let it make one request, and go on to the next or to its end."""
        assert not self.ended, "it has ended, and would be waited for in vain"
        self._go.release()
        self._paused.acquire()

    def die(self, *, after: bool) -> None:
        """Kill it before or after its next request takes effect."""
        self._fate = "after" if after else "before"
        self.step()
