"""Model versions, the champion among them, and the history of that choice.

A version is immutable: its files, then `MANIFEST.json` with the SHA-256 of each, created
once. A version without a manifest does not exist for any reader. The champion is a pointer
that is moved by compare-and-swap, and each move is kept under its number.
"""

import json
import logging
import mimetypes
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path, PurePosixPath
from uuid import uuid4

from dermascan.errors import InputError, IntegrityError, NotFoundError
from dermascan.fingerprint import Plain, canonical_json, sha256_hex
from dermascan.layout import ModelKeys
from dermascan.storage import Store, concurrently

logger = logging.getLogger(__name__)

DEFAULT_MODEL = "dermascan"
CHAMPION = "champion"
VERSION_FORMAT = "%Y%m%d%H%M%S"


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
        """Read the record from its JSON form."""
        return cls(**plain)  # type: ignore[arg-type]  # JSON that as_plain() wrote


@dataclass(frozen=True)
class PublishedFile:
    """One file of a version: path under the version's prefix, SHA-256, size in bytes."""

    path: str
    sha256: str
    size: int


# Versions


def claim_version(store: Store, model: str, owner: str, now: datetime | None = None) -> int:
    """Reserve a version number: the UTC time to the second, or the next that is free.

    Args:
        store: the bucket.
        model: the model's name.
        owner: fingerprint of the training run that it is reserved for.
        now: the time to start from; the present by default.
    """
    start = int((now or datetime.now(UTC)).strftime(VERSION_FORMAT))
    claim = canonical_json({"training": owner})
    keys = ModelKeys(model)
    return next(
        version
        for version in count(start)
        if store.put_if_absent(f"{keys.version(version)}TRAINING.json", claim, "application/json")
    )


def publish_version(store: Store, model: str, version: int, folder: Path) -> None:
    """Upload a folder as a version, its manifest last.

    Nothing is written to a version that has its manifest.

    Raises:
        IntegrityError: the version exists with other content.
    """
    keys = ModelKeys(model)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = [_described_file(folder, path) for path in paths]
    taken = f"{model} {version} is published already with other content: claim a new version"
    if is_published(store, model, version):
        if set(files) != set(version_files(store, model, version)):
            raise IntegrityError(taken)
        return
    for file in files:
        _upload_file(store, keys.version(version), folder, file)
    manifest = canonical_json(
        {"model": model, "version": version, "files": [asdict(file) for file in files]}
    )
    if not store.put_immutable(keys.manifest(version), manifest, "application/json"):
        raise IntegrityError(taken)
    logger.info("published %s version %d: %d files", model, version, len(files))


def _described_file(folder: Path, path: Path) -> PublishedFile:
    data = path.read_bytes()
    return PublishedFile(path.relative_to(folder).as_posix(), sha256_hex(data), len(data))


def _upload_file(store: Store, prefix: str, folder: Path, file: PublishedFile) -> None:
    data = (folder / file.path).read_bytes()
    content_type = mimetypes.guess_type(file.path)[0] or "application/octet-stream"
    if not store.put_immutable(prefix + file.path, data, content_type):
        store.put(prefix + file.path, data, content_type)  # a try that died before its manifest


def is_published(store: Store, model: str, version: int) -> bool:
    """Tell whether a version is complete."""
    return store.exists(ModelKeys(model).manifest(version))


def version_files(store: Store, model: str, version: int) -> list[PublishedFile]:
    """Return the files of a version as its manifest lists them.

    Raises:
        NotFoundError: there is no such version, or it was never completed.
    """
    body = store.get_if_present(ModelKeys(model).manifest(version))
    if body is None:
        raise NotFoundError(
            f"model {model!r} has no version {version}: `dermascan models list` shows what there is"
        )
    return [PublishedFile(**file) for file in json.loads(body)["files"]]


def fetch_version(store: Store, model: str, version: int, folder: Path) -> Path:
    """Copy a version to a local folder, checking every file against the manifest.

    Returns:
        The folder, which then holds the version's files.

    Raises:
        NotFoundError: there is no such version.
        IntegrityError: a file does not match the manifest.
    """
    prefix = ModelKeys(model).version(version)

    def fetch(file: PublishedFile) -> None:
        if ".." in PurePosixPath(file.path).parts or PurePosixPath(file.path).is_absolute():
            raise IntegrityError(f"{model} {version}: the manifest lists the path {file.path!r}")
        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(store.get_verified(prefix + file.path, file.sha256))

    for _ in concurrently(fetch, version_files(store, model, version), concurrency=8):
        pass
    return folder


def list_versions(store: Store, model: str) -> list[int]:
    """Return the complete versions, oldest first."""
    suffix = "/MANIFEST.json"
    root = ModelKeys(model).root
    names = (found.key.removeprefix(root) for found in store.list(root))
    return sorted(int(name.removesuffix(suffix)) for name in names if name.endswith(suffix))


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
    """Return the present champion, None before the first promotion."""
    value, _ = store.read_pointer(ModelKeys(model).champion)
    return None if value is None else Champion.from_plain(value)


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
    """Make a version the champion and keep a record of it.

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
        ConflictError: somebody else moved the pointer at the same time.
    """
    version_files(store, model, version)
    keys = ModelKeys(model)
    value, tag = store.read_pointer(keys.champion)
    current = None if value is None else Champion.from_plain(value)
    if current:
        _record(store, keys, current)  # in case the mover died before it could
        if current.version == version or _is_fulfilled(store, current, decision.request):
            return False
    if guard:
        guard(current)
    successor = _successor(current, model, version, decision)
    store.move_pointer(keys.champion, successor.as_plain(), tag)
    _record(store, keys, successor)
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


def rollback(store: Store, model: str, to_version: str, decision: Decision) -> Champion:
    """Make another version champion, the one before the present champion if none is named.

    Args:
        store: the bucket.
        model: the model's name.
        to_version: a number; empty for the version before the present champion.
        decision: who decided, and why. With a request that moved the pointer before, nothing
            is moved again: "before" would by then be the version that was left.

    Returns:
        The champion afterwards.

    Raises:
        InputError: there is no version before the present champion.
        NotFoundError: no champion, or no such version.
        ConflictError: somebody else moved the pointer at the same time.
    """
    current = require_champion(store, model)
    if _is_fulfilled(store, current, decision.request):
        logger.info("request %s moved the champion already, nothing to do", decision.request)
        _record(store, ModelKeys(model), current)  # in case the mover died before it could
        return current
    if not to_version and current.previous is None:
        raise InputError(f"{model!r} has had one champion only: name a version to change to")
    version = resolve_version(store, ModelReference(model, to_version or str(current.previous)))
    promote(store, model, version, decision)
    return require_champion(store, model)


def _is_fulfilled(store: Store, current: Champion, request: str | None) -> bool:
    """Tell whether a request moved the pointer, last or at any time before."""
    if request is None:
        return False
    moves = chain((current,), history(store, current.model))
    return any(move.request == request for move in moves)


def history(store: Store, model: str) -> Iterator[Champion]:
    """Yield the moves of the champion pointer, oldest first."""
    for found in store.list(ModelKeys(model).history):
        yield Champion.from_plain(store.get_json(found.key))


def _record(store: Store, keys: ModelKeys, entry: Champion) -> None:
    data = canonical_json(entry.as_plain())
    store.put_if_absent(keys.history_entry(entry.move), data, "application/json")
