"""All objects of a bucket as they are at one moment: to go back to, and to compare."""

import gzip
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dermascan.fingerprint import canonical_json, sha256_hex
from dermascan.storage import Store, concurrently

# What two undisturbed runs write differently, and nothing else is overlooked. In JSON: how long
# things took, and the token by which the mover of a pointer knows its own move.
MEASURED = frozenset(
    {
        "token",
        "seconds",
        "images_per_second",
        "milliseconds_per_image",
        "milliseconds_single",
    }
)
# In text: identifiers and the time in Great Expectations' pages, and the signature of an
# archive's addresses, which expire; when a report was made.
_VARYING = (
    (re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), b"UUID"),
    (re.compile(rb"\d{8}T\d{6}\.\d+Z"), b"TIME"),
    (re.compile(rb"<time.*?</time>"), b"TIME"),
    (re.compile(rb"Expires=[\d.]+&Signature=[0-9a-f]+"), b"SIGNATURE"),
)
# TensorFlow writes the variables of equal models in another order each time, so that the files
# of a training's SavedModel are compared by weights and scores, see `task_worker.digest`.
SAVED_MODEL = re.compile(r"training/\w+/model/(saved_model\.pb|fingerprint\.pb|variables/.*)")


@dataclass(frozen=True)
class Snapshot:
    """Objects by key, and their entity tags."""

    bodies: Mapping[str, bytes]
    tags: Mapping[str, str]

    def saved_model(self) -> dict[str, bytes]:
        """Return the files of the training's model by name, none before there is one."""
        found = re.compile(r"training/\w+/model/(.+)")
        named = {m.group(1): body for key, body in self.bodies.items() if (m := found.match(key))}
        return named if "saved_model.pb" in named else {}


def take(store: Store) -> Snapshot:
    tags = {found.key: found.etag for found in store.list("")}
    bodies = dict(zip(tags, concurrently(store.get, tags), strict=True))
    return Snapshot(bodies, tags)


def go_back(store: Store, to: Snapshot) -> None:
    """Make the bucket hold what it held, moving only what differs."""
    present = {found.key: found.etag for found in store.list("")}
    store.delete([key for key in present if key not in to.tags])
    changed = [key for key, tag in to.tags.items() if present.get(key) != tag]
    for _ in concurrently(lambda key: store.put(key, to.bodies[key]), changed):
        pass


def differences(store: Store, expected: Snapshot) -> list[str]:
    """Say what of the bucket is not as in a snapshot, in a line for each object."""
    return [
        line
        for key, body in sorted(_changes(store, expected).items())
        if (line := _difference(key, expected.bodies.get(key), body))
    ]


def torn(store: Store, before: Snapshot, after: Snapshot) -> list[str]:
    """Name the objects that are neither as before a task nor as after it.

    An object that neither state has is left to `differences`: it must be gone in the end. The
    pointer to the latest epoch moves with each epoch; `readers` follows it instead.
    """
    return [
        f"{key} is neither as before the task nor as after it"
        for key, body in sorted(_changes(store, before).items())
        if key in before.bodies or key in after.bodies
        if not key.endswith("/latest.json")
        if not _same(key, body, after.bodies.get(key))
    ]


def state(store: Store, since: Snapshot) -> frozenset[tuple[str, object]]:
    """Name what the bucket holds, by what changed since a snapshot.

    Two states of equal name differ in nothing but what `differences` leaves out.
    """
    return frozenset(
        (key, None if body is None else _name(key, body))
        for key, body in _changes(store, since).items()
    )


def _name(key: str, body: bytes) -> str:
    if SAVED_MODEL.fullmatch(key):
        return "a file of a SavedModel"
    normal = _normal(key, body)
    return sha256_hex(normal if isinstance(normal, bytes) else canonical_json(normal))


def _changes(store: Store, since: Snapshot) -> dict[str, bytes | None]:
    present = {found.key: found.etag for found in store.list("")}
    changed = [key for key, tag in present.items() if since.tags.get(key) != tag]
    bodies = concurrently(store.get_if_present, changed)
    found: dict[str, bytes | None] = dict(zip(changed, bodies, strict=True))
    return found | dict.fromkeys(since.tags.keys() - present.keys())


def _difference(key: str, expected: bytes | None, found: bytes | None) -> str | None:
    if expected is None:
        return f"{key} is there and should not be"
    if found is None:
        return f"{key} is missing"
    return None if _same(key, expected, found) else f"{key} has other content"


def _same(key: str, one: bytes | None, other: bytes | None) -> bool:
    if one is None or other is None or one == other:
        return one == other
    return bool(SAVED_MODEL.fullmatch(key)) or _normal(key, one) == _normal(key, other)


def _normal(key: str, body: bytes) -> Any:
    if key.endswith(".json"):
        return _without_measured(json.loads(body))
    if key.endswith((".html", ".jsonl", ".jsonl.gz")):
        body = gzip.decompress(body) if key.endswith(".gz") else body
        for pattern, name in _VARYING:
            body = pattern.sub(name, body)
    return body


def _without_measured(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_measured(v) for k, v in value.items() if k not in MEASURED}
    if isinstance(value, list):
        return [_without_measured(item) for item in value]
    return value
