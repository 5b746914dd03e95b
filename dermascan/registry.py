"""The champion among the versions of a model, and the history of that choice.

The champion is a pointer that is moved by compare-and-swap. Each move is kept under its number
before the next one is made, so that the history has neither gaps nor forks. Versions themselves
are in `dermascan.versions`; what a version must prove before it becomes champion is in
`dermascan.experiment`.
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from uuid import uuid4

from dermascan.errors import ConflictError, InputError, IntegrityError, NotFoundError
from dermascan.fingerprint import Plain, canonical_json
from dermascan.layout import ModelKeys
from dermascan.storage import Store, concurrently
from dermascan.versions import (
    PublishedFile,
    claim_version,
    fetch_version,
    is_published,
    list_versions,
    publish_version,
    read_file,
    require_intact,
    version_files,
)

__all__ = [
    "CHAMPION",
    "DEFAULT_MODEL",
    "Champion",
    "Decision",
    "ModelReference",
    "PublishedFile",
    "RollbackChoices",
    "champion",
    "claim_version",
    "fetch_version",
    "former_champions",
    "history",
    "is_published",
    "list_versions",
    "promote",
    "publish_version",
    "read_file",
    "require_champion",
    "require_intact",
    "resolve_version",
    "rollback",
    "rollback_choices",
    "version_files",
]

logger = logging.getLogger(__name__)

DEFAULT_MODEL = "dermascan"
CHAMPION = "champion"
_READERS = 8


@dataclass(frozen=True)
class Decision:
    """Why the champion pointer is moved.

    Attributes:
        by: who or what decided.
        reason: why, in a few words.
        request: names what asked for the move, such as one run of a DAG. A request moves the
            pointer once, however often it is made; None is a new request each time.
    """

    by: str
    reason: str
    request: str | None = None


@dataclass(frozen=True)
class Champion:
    """What `champion.json` and each history entry say.

    Attributes:
        model: the model's name.
        version: the version that is used unless another is asked for.
        move: number of this move of the pointer, from 1.
        since: UTC time of the move, ISO 8601.
        by: who or what moved it.
        reason: why.
        previous: the version before, None for the first.
        token: makes equal moves by two movers differ, so that each knows if it won.
        request: what asked for the move, None if it had no name.
    """

    model: str
    version: int
    move: int
    since: str
    by: str
    reason: str
    previous: int | None
    token: str
    request: str | None = None

    def as_plain(self) -> dict[str, Plain]:
        """Return the record as a JSON-ready mapping."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Plain]) -> "Champion":
        """Read the record from its JSON form.

        Raises:
            IntegrityError: it is not what `as_plain` writes.
        """
        try:
            return cls(**plain)  # type: ignore[arg-type]  # JSON that as_plain() wrote
        except TypeError as error:
            raise IntegrityError(f"this is no record of a champion: {error}") from error


@dataclass(frozen=True)
class ModelReference:
    """A model version as people write it.

    Attributes:
        model: the model's name.
        version: `champion` or a number.
    """

    model: str
    version: str

    @classmethod
    def parse(cls, text: str) -> "ModelReference":
        """Read `champion`, `20260131120000`, `name` or `name/version`."""
        name, separator, version = text.partition("/")
        if separator:
            return cls(name, version or CHAMPION)
        if text == CHAMPION or text.isdecimal():
            return cls(DEFAULT_MODEL, text)
        return cls(text or DEFAULT_MODEL, CHAMPION)


def resolve_version(store: Store, reference: ModelReference) -> int:
    """Turn a reference into the number of a version that exists.

    Raises:
        InputError: neither `champion` nor a number.
        NotFoundError: no champion yet, or no such version.
    """
    model, version = reference.model, reference.version
    if version == CHAMPION:
        return require_champion(store, model).version
    if not version.isdecimal():
        raise InputError(f"{version!r} is no model version: use 'champion' or a number")
    version_files(store, model, int(version))
    return int(version)


# The champion


def champion(store: Store, model: str) -> Champion | None:
    """Return the present champion, None before the first promotion.

    Raises:
        IntegrityError: the pointer cannot be read.
    """
    return _read_champion(store, model)[0]


def _read_champion(store: Store, model: str) -> tuple[Champion | None, str | None]:
    value, tag = store.read_pointer(ModelKeys(model).champion)
    return (None if value is None else Champion.from_plain(value)), tag


def require_champion(store: Store, model: str) -> Champion:
    """Return the present champion.

    Raises:
        NotFoundError: nothing was promoted yet.
    """
    found = champion(store, model)
    if found is None:
        raise NotFoundError(f"model {model!r} has no champion yet: run train_model first")
    return found


def promote(
    store: Store,
    model: str,
    version: int,
    decision: Decision,
    guard: Callable[[Champion | None], None] | None = None,
) -> bool:
    """Move the pointer to a version and keep a record of it.

    This is the pointer work alone: that the version's files are what they should be is for the
    caller to find out before, see `dermascan.experiment`.

    Args:
        store: the bucket.
        model: the model's name.
        version: a complete version.
        decision: who decided, and why.
        guard: called with the champion that would be replaced, None if there is none; raises
            if it must not be replaced.

    Returns:
        True if the pointer moved, False if the version was champion already or the decision's
        request had moved the pointer before.

    Raises:
        NotFoundError: there is no such version.
        ConflictError: somebody else moved the pointer at the same time; nothing was changed.
    """
    version_files(store, model, version)

    def choose(current: Champion | None) -> int | None:
        if current and current.version == version:
            return None
        if guard:
            guard(current)
        return version

    return _move(store, model, decision, choose)


def rollback(store: Store, model: str, to_version: str, decision: Decision) -> Champion:
    """Make an earlier champion champion again, the one before the present if none is named.

    Every file of it is compared with its manifest before the pointer moves.

    Args:
        store: the bucket.
        model: the model's name.
        to_version: a number; empty for the version before the present champion.
        decision: who decided, and why. With a request that moved the pointer before, nothing
            is moved again: "before" would by then be the version that was left.

    Returns:
        The champion afterwards.

    Raises:
        InputError: there is no version before the present champion, or the one that is named
            was never champion.
        NotFoundError: no champion, or no such version.
        IntegrityError: the version does not match its manifest.
        ConflictError: somebody else moved the pointer at the same time; nothing was changed.
    """

    def choose(current: Champion | None) -> int | None:
        present = current or require_champion(store, model)
        version = _earlier(store, present, to_version)
        if version == present.version:
            return None
        require_intact(store, model, version)
        return version

    _move(store, model, decision, choose)
    return require_champion(store, model)


def _earlier(store: Store, current: Champion, to_version: str) -> int:
    model = current.model
    if not to_version:
        if current.previous is None:
            raise InputError(f"{model!r} has had one champion only: name a version to change to")
        return current.previous
    version = resolve_version(store, ModelReference(model, to_version))
    if version not in former_champions(store, model):
        raise InputError(
            f"{model} {version} was never champion, so there is nothing to go back to: "
            f"`dermascan models promote {version}` proves it first"
        )
    return version


def former_champions(store: Store, model: str) -> list[int]:
    """Return the versions that are or were champion."""
    return sorted({move.version for move in history(store, model)})


@dataclass(frozen=True)
class RollbackChoices:
    """What a rollback may change to.

    Attributes:
        present: the champion.
        earlier: the last move to each version that was champion before, the latest first.
    """

    present: Champion
    earlier: tuple[Champion, ...]

    def text(self) -> str:
        """Return a Markdown table of the choices."""
        rows = (
            f"| {move.version} | {move.since} | {_in_a_cell(move.by)} | {_in_a_cell(move.reason)} |"
            for move in self.earlier
        )
        present = self.present
        head = f"Champion of `{present.model}` is version {present.version} since {present.since}."
        return "\n".join(
            [head, "", "| version | made champion | by | reason |", "|---|---|---|---|", *rows]
        )


def _in_a_cell(text: str) -> str:
    """Keep what people wrote from changing a Markdown table."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~-])", r"\\\1", " ".join(text.split()))


def rollback_choices(store: Store, model: str) -> RollbackChoices:
    """Return the versions that a rollback may change to.

    Raises:
        NotFoundError: no champion yet.
        InputError: there was no other.
    """
    moves = list(history(store, model))
    if not moves:
        require_champion(store, model)
    latest = {move.version: move for move in moves}
    present = moves[-1]
    earlier = sorted(latest.values(), key=lambda move: move.move, reverse=True)[1:]
    if not earlier:
        raise InputError(f"{model!r} has had one champion only: there is nothing to go back to")
    return RollbackChoices(present, tuple(earlier))


def _move(
    store: Store,
    model: str,
    decision: Decision,
    choose: Callable[[Champion | None], int | None],
) -> bool:
    """Let `choose` say what follows the present champion, None for no move, and make the move.

    The champion that `choose` saw is the one that is replaced, or nothing is.
    """
    current, tag = _read_champion(store, model)
    if current:
        _record(store, current)  # in case the mover died before it could
        if _is_fulfilled(store, current, decision.request):
            logger.info("request %s moved the champion already, nothing to do", decision.request)
            return False
    version = choose(current)
    if version is None:
        return False
    successor = _successor(current, model, version, decision)
    if not _replaced(store, successor, tag):
        return False
    _record(store, successor)
    logger.info("%s version %d is champion now (%s)", model, version, decision.reason)
    return True


def _successor(current: Champion | None, model: str, version: int, decision: Decision) -> Champion:
    return Champion(
        model=model,
        version=version,
        move=current.move + 1 if current else 1,
        since=datetime.now(UTC).isoformat(timespec="seconds"),
        by=decision.by,
        reason=decision.reason,
        previous=current.version if current else None,
        token=uuid4().hex,
        request=decision.request,
    )


def _replaced(store: Store, successor: Champion, tag: str | None) -> bool:
    """Move the pointer; False if another try of the same request was faster.

    Raises:
        ConflictError: somebody else was faster.
    """
    model = successor.model
    try:
        store.move_pointer(ModelKeys(model).champion, successor.as_plain(), tag)
    except ConflictError as error:
        present = require_champion(store, model)
        if any(move.token == successor.token for move in history(store, model)):
            return True  # it had moved, the answer was lost, and somebody has moved it since
        if _is_fulfilled(store, present, successor.request):
            return False
        raise ConflictError(_lost(successor, present)) from error
    return True


def _lost(successor: Champion, present: Champion) -> str:
    return (
        f"{successor.model} version {successor.version} was not made champion: meanwhile "
        f"{present.by} made version {present.version} champion ({present.reason}). Nothing was "
        "changed; look at `dermascan models show` and decide again"
    )


def _is_fulfilled(store: Store, current: Champion, request: str | None) -> bool:
    """Tell whether a request moved the pointer, last or at any time before."""
    if request is None or current.request == request:
        return request is not None
    return any(move.request == request for move in history(store, current.model))


def history(store: Store, model: str) -> Iterator[Champion]:
    """Yield the moves of the champion pointer, oldest first, up to the one that it shows.

    Raises:
        IntegrityError: a move has no record.
    """
    current = champion(store, model)
    if current is None:
        return

    def read(move: int) -> Champion:
        key = ModelKeys(model).history_entry(move)
        try:
            return Champion.from_plain(store.get_json(key))
        except NotFoundError as error:
            raise IntegrityError(f"{store.address(key)} is gone: restore the object") from error

    # The last move may not be recorded yet; those before it are.
    yield from concurrently(read, range(1, current.move), _READERS)
    yield current


def _record(store: Store, entry: Champion) -> None:
    key = ModelKeys(entry.model).history_entry(entry.move)
    if store.put_if_absent(key, canonical_json(entry.as_plain()), "application/json"):
        return
    if Champion.from_plain(store.get_json(key)) != entry:
        raise IntegrityError(
            f"{store.address(key)} and champion.json tell of different moves with the number "
            f"{entry.move}: one of them was restored or written by hand; make them agree first"
        )
