"""Every operation of the store through every fault that a network or a server can show."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest
from reliability import fault_proxy as faults
from reliability.fault_proxy import Fault, FaultProxy

from dermascan.errors import ConflictError
from dermascan.fingerprint import sha256_hex
from dermascan.storage import Store

logger = logging.getLogger(__name__)

DATA = bytes(range(256)) * 40
LARGE = bytes(range(251)) * 800  # a little over three parts of 64 KiB
SMALLEST_PART = 5 * 1024 * 1024  # S3 takes no smaller one, but for the last


def nothing(_store: Store, _prefix: str) -> None:
    pass


@dataclass(frozen=True)
class Operation:
    """What is done to a store at a prefix, after what was there before."""

    act: Callable[[Store, str, Path], object]
    before: Callable[[Store, str], object] = nothing


def put_file(store: Store, prefix: str, folder: Path) -> None:
    (folder / "large").write_bytes(bytes(SMALLEST_PART) + DATA)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dermascan.storage.PART_BYTES", SMALLEST_PART)
        store.put_file(f"{prefix}large", folder / "large")


def by_another_program(key: str, data: bytes, **metadata: str) -> Callable[[Store, str], object]:
    """Put an object without what this library adds."""
    return lambda store, prefix: store._s3.put_object(
        Bucket=store.bucket, Key=prefix + key, Body=data, Metadata=metadata
    )


def get_file(store: Store, prefix: str, folder: Path) -> tuple[str, bytes]:
    digest = store.get_file(f"{prefix}large", folder / "copy")
    return digest, (folder / "copy").read_bytes()


def move_pointer(store: Store, prefix: str, folder: Path) -> None:
    _, tag = store.read_pointer(f"{prefix}pointer")
    store.move_pointer(f"{prefix}pointer", {"to": 2}, tag)


def lose_the_race(store: Store, prefix: str, folder: Path) -> str:
    with pytest.raises(ConflictError):
        store.move_pointer(f"{prefix}pointer", {"to": 3}, '"another"')
    return "lost"


def list_pages(store: Store, prefix: str, folder: Path) -> list[str]:
    return [found.key.removeprefix(prefix) for found in store.list(prefix)]


def five_objects(store: Store, prefix: str) -> None:
    for number in range(5):
        store.put(f"{prefix}{number}", DATA + bytes([number]))


OPERATIONS = {
    "put": Operation(lambda store, prefix, _: store.put(f"{prefix}x", DATA)),
    "put_over": Operation(
        lambda store, prefix, _: store.put(f"{prefix}x", DATA),
        lambda store, prefix: store.put(f"{prefix}x", b"old"),
    ),
    "put_if_absent": Operation(lambda store, prefix, _: store.put_if_absent(f"{prefix}x", DATA)),
    "put_if_absent_taken": Operation(
        lambda store, prefix, _: store.put_if_absent(f"{prefix}x", b"ours"),
        lambda store, prefix: store.put_if_absent(f"{prefix}x", b"theirs"),
    ),
    "put_immutable": Operation(lambda store, prefix, _: store.put_immutable(f"{prefix}x", DATA)),
    "put_immutable_taken": Operation(
        lambda store, prefix, _: store.put_immutable(f"{prefix}x", DATA),
        lambda store, prefix: store.put(f"{prefix}x", b"theirs"),
    ),
    "put_file": Operation(put_file),
    "get": Operation(
        lambda store, prefix, _: store.get(f"{prefix}x"),
        lambda store, prefix: store.put(f"{prefix}x", DATA),
    ),
    "get_foreign": Operation(
        lambda store, prefix, _: store.get(f"{prefix}x"), by_another_program("x", DATA)
    ),
    "get_odd": Operation(  # a key that only the other client can name
        lambda store, prefix, _: store.get(f"{prefix}x/"), by_another_program("x/", DATA)
    ),
    "get_missing": Operation(lambda store, prefix, _: store.get_if_present(f"{prefix}x")),
    "get_file": Operation(get_file, by_another_program("large", LARGE, sha256=sha256_hex(LARGE))),
    "head": Operation(
        lambda store, prefix, _: store.exists(f"{prefix}x"),
        lambda store, prefix: store.put(f"{prefix}x", DATA),
    ),
    "list": Operation(list_pages, five_objects),
    "delete": Operation(
        lambda store, prefix, _: store.delete([f"{prefix}{number}" for number in (1, 2, 9)]),
        five_objects,
    ),
    "move_unset_pointer": Operation(
        lambda store, prefix, _: store.move_pointer(f"{prefix}pointer", {"to": 1}, None)
    ),
    "move_pointer": Operation(
        move_pointer, lambda store, prefix: store.put_json(f"{prefix}pointer", {"to": 1})
    ),
    "lose_the_race": Operation(
        lose_the_race, lambda store, prefix: store.put_json(f"{prefix}pointer", {"to": 1})
    ),
}
FAULTS: dict[str, Fault] = {
    "latency": faults.latency(0.05),
    "reset_before_request": faults.reset_before_request,
    "reset_after_headers": faults.reset_after_headers,
    "reset_in_body": faults.reset_in_body,
    "truncated_answer": faults.truncated_answer,
    "truncated_request": faults.truncated_request,
    "lost_answer": faults.lost_answer,
    "error_after_effect": faults.error_after_effect,
    "500": faults.status(500, "InternalError"),
    "503": faults.status(503, "SlowDown"),
    "429": faults.status(429, "TooManyRequests", retry_after=1),
    "flipped_answer": faults.flipped_answer,
    "flipped_request": faults.flipped_request,
}
# S3 sends listings without a checksum: nothing but TLS can tell a key from one with a changed bit.
UNKNOWABLE = {("list", "flipped_answer")}


def outcome(operation: Operation, before: Store, store: Store, prefix: str, folder: Path):
    """Return what an operation returned and all objects under its prefix afterwards."""
    operation.before(before, prefix)
    result = operation.act(store, prefix, folder)
    names = [found.key.removeprefix(prefix) for found in before.list(prefix)]
    return result, {name: sha256_hex(before.get(prefix + name)) for name in names}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_when_any_of_its_requests_meets_a_fault_ends_as_without(
    name: str, store: Store, faulty: Store, proxy: FaultProxy, tmp_path: Path
):
    operation = OPERATIONS[name]
    expected = outcome(operation, store, faulty, "calm/", tmp_path)
    requests = len(proxy.seen)
    assert requests
    struck = 0
    for fault, index in product(FAULTS, range(requests)):
        if (name, fault) in UNKNOWABLE:
            continue
        proxy.be_good()
        proxy.strike(FAULTS[fault], after=index)
        found = outcome(operation, store, faulty, f"{fault}-{index}/", tmp_path)
        assert (fault, index, found) == (fault, index, expected)
        assert proxy.struck == 1
        struck += 1
    logger.info("%s: %d of its exchanges struck", name, struck)
