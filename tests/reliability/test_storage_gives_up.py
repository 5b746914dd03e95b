"""When a fault does not end, the store ends in time, with the right kind of error, and tells."""

import threading
import time
from collections.abc import Callable
from contextlib import nullcontext

import obstore
import pytest
from reliability import fault_proxy as faults
from reliability.fault_proxy import Fault, FaultProxy

from dermascan.errors import (
    ConflictError,
    InputError,
    IntegrityError,
    NotFoundError,
    PermanentError,
    TransientError,
)
from dermascan.settings import StoragePatience
from dermascan.storage import Store

SHORT = StoragePatience(connect_seconds=0.3, request_seconds=0.3, retry_seconds=0.2)
# The first try, tries until patience ends, a last try; each as long as a request may take, and
# the bulk client may have begun a second request inside of one.
LONGEST_SECONDS = SHORT.retry_seconds + 4 * SHORT.request_seconds
MARGIN_SECONDS = 2.0  # for a machine that is busy

OPERATIONS: dict[str, Callable[[Store], object]] = {
    "read": lambda store: store.get("a/key"),
    "write": lambda store: store.put("a/key", b"data"),
    "look up": lambda store: store.head("a/key"),
    "list": lambda store: list(store.list("a/key")),
    "delete 1 objects from": lambda store: store.delete(["a/key"]),
    "write it": lambda store: store.move_pointer("a/key", {"to": 1}, None),
}
ENDLESS = {
    "outage": None,
    "reset": faults.reset_before_request,
    "stall": faults.stall_before_answer(60),
    "500": faults.status(500, "InternalError"),
    "503": faults.status(503, "SlowDown"),
    "429": faults.status(429, "TooManyRequests"),
}


@pytest.fixture
def hurried(faulty: Store) -> Store:
    return with_patience(faulty, SHORT)


def with_patience(store: Store, patience: StoragePatience) -> Store:
    return Store(store.settings.model_copy(update={"patience": patience}), store.bucket)


@pytest.mark.parametrize("fault", ENDLESS)
def test_operation_when_a_fault_does_not_end_fails_in_time_and_says_what_it_waited_for(
    fault: str, hurried: Store, proxy: FaultProxy
):
    trouble = ENDLESS[fault]
    if trouble:
        proxy.strike_always(trouble)
    with nullcontext() if trouble else proxy.outage():
        for verb, operation in OPERATIONS.items():
            started = time.monotonic()
            with pytest.raises(TransientError) as caught:
                operation(hurried)
            assert time.monotonic() - started < LONGEST_SECONDS + MARGIN_SECONDS
            message = str(caught.value)
            assert message.startswith(f"s3://{hurried.bucket}/a/key: waited ")
            assert f" s for {proxy.url} to {verb}" in message
            assert "failed" in message


REFUSALS = [
    (faults.status(403, "AccessDenied"), InputError, "access denied"),
    (faults.status(403, "RequestTimeTooSkewed"), InputError, "this machine's clock is wrong"),
    (faults.status(404, "NoSuchBucket"), NotFoundError, "does not exist"),
    (faults.status(400, "InvalidArgument"), InputError, "refused"),
]


@pytest.mark.parametrize(("refusal", "kind", "words"), REFUSALS)
def test_operation_when_the_server_refuses_fails_at_once(
    refusal: Fault, kind: type[PermanentError], words: str, hurried: Store, proxy: FaultProxy
):
    proxy.strike_always(refusal)
    for operation in (OPERATIONS["write"], OPERATIONS["list"], OPERATIONS["delete 1 objects from"]):
        proxy.seen.clear()
        with pytest.raises(kind, match=words):
            operation(hurried)
        assert len(proxy.seen) == 1


def test_get_when_bytes_are_changed_each_time_says_that_the_object_is_not_what_was_written(
    faulty: Store, proxy: FaultProxy
):
    faulty.put("x", b"data" * 100)
    proxy.strike_always(faults.flipped_answer, method="GET")
    with pytest.raises(IntegrityError, match=r"/x does not match its SHA-256 .* read 3 times"):
        faulty.get("x")
    with pytest.raises(IntegrityError, match="/x does not match"):
        faulty.read_pointer("x")


def test_get_file_when_bytes_are_changed_in_the_store_says_so(store: Store, tmp_path):
    store.put("x", b"data")
    kept = {"Content-Type": "text/plain", **obstore.get(store._objects, "x").attributes}
    obstore.put(store._objects, "x", b"DATA", attributes=kept)
    with pytest.raises(IntegrityError, match="/x does not match its SHA-256"):
        store.get_file("x", tmp_path / "copy")


def test_get_when_no_sha256_is_known_and_no_two_reads_agree_gives_up(
    faulty: Store, proxy: FaultProxy
):
    faulty._s3.put_object(Bucket=faulty.bucket, Key="x", Body=b"data" * 100)
    for _ in range(3):  # each time the first read is changed and the second is not
        proxy.strike(faults.flipped_answer, method="GET")
        proxy.strike(faults.untouched, method="GET")
    with pytest.raises(IntegrityError, match="/x does not match"):
        faulty.get("x")


def test_get_when_the_tag_is_no_md5_believes_two_reads_that_agree(faulty: Store, proxy: FaultProxy):
    faulty._s3.put_object(Bucket=faulty.bucket, Key="x", Body=b"data")
    proxy.strike_always(faults.answer_headers(ETag='"0123456789abcdef0123456789abcdef"'))
    assert faulty.get("x") == b"data"
    assert len(proxy.asked("GET", "/x")) == 2


def test_put_when_bytes_are_changed_each_time_leaves_nothing_and_says_why(
    faulty: Store, store: Store, proxy: FaultProxy
):
    proxy.strike_always(faults.flipped_request, method="PUT")
    with pytest.raises(TransientError, match="BadDigest"):
        with_patience(faulty, StoragePatience(retry_seconds=0.5)).put("x", b"data" * 100)
    assert not store.exists("x")


def test_delete_when_the_server_says_200_and_keeps_an_object_notices(
    hurried: Store, proxy: FaultProxy
):
    def deny(exchange: faults.Exchange) -> None:
        body = b"<DeleteResult><Error><Key>a</Key><Code>AccessDenied</Code></Error></DeleteResult>"
        headers = (("Content-Type", "application/xml"), ("Content-Length", str(len(body))))
        exchange.answer(faults.Response(200, "OK", headers, body))

    proxy.strike_always(deny, method="POST")
    with pytest.raises(InputError, match="access denied"):
        hurried.delete(["a"])


def test_move_pointer_when_others_move_it_after_our_lost_answer_tells_of_a_conflict(
    faulty: Store, store: Store, proxy: FaultProxy
):
    def lost_and_overtaken(exchange: faults.Exchange) -> None:
        exchange.forward()
        store.put_json("pointer", {"to": "theirs"})
        exchange.reset()

    store.put_json("pointer", {"to": 1})
    _, tag = store.read_pointer("pointer")
    proxy.strike(lost_and_overtaken, method="PUT")
    with pytest.raises(ConflictError):
        faulty.move_pointer("pointer", {"to": "ours"}, tag)
    assert store.get_json("pointer") == {"to": "theirs"}


def test_put_if_absent_when_a_rival_takes_the_key_during_our_outage_says_so(
    faulty: Store, store: Store, proxy: FaultProxy
):
    def beaten(exchange: faults.Exchange) -> None:
        store.put_if_absent("x", b"the very same bytes")
        exchange.reset()

    proxy.strike(beaten, method="PUT")
    assert not faulty.put_if_absent("x", b"the very same bytes")


def test_operations_when_the_server_is_away_for_less_than_patience_go_on(
    faulty: Store, proxy: FaultProxy
):
    faulty.put("x", b"before")
    results: list[object] = []
    work = threading.Thread(
        target=lambda: results.extend(
            [
                faulty.get("x"),
                faulty.put_if_absent("y", b"1"),
                faulty.delete(["x"]),
                list_keys(faulty),
            ]
        )
    )
    with proxy.outage(seconds=1.5):
        work.start()
    work.join(timeout=30)
    assert results == [b"before", True, None, ["y"]]


@pytest.mark.parametrize("stall", [faults.stall_before_answer(60), faults.stall_in_body(60)])
def test_get_when_the_server_stalls_once_reads_again(
    stall: Fault, faulty: Store, proxy: FaultProxy
):
    faulty.put("x", b"data" * 100)
    proxy.strike(stall, method="GET")
    started = time.monotonic()
    store = with_patience(faulty, StoragePatience(request_seconds=1.5, retry_seconds=15))
    assert store.get("x") == b"data" * 100
    assert time.monotonic() - started < 30


def list_keys(store: Store) -> list[str]:
    return [found.key for found in store.list("")]
