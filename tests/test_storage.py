import hashlib
import threading

import obstore
import pytest
from pydantic import SecretStr

from dermascan.errors import (
    ConflictError,
    InputError,
    IntegrityError,
    NotFoundError,
    TransientError,
)
from dermascan.storage import PART_BYTES, S3Address, Store, concurrently, part_bytes


def test_put_if_absent_when_key_is_taken_leaves_the_first_bytes(store: Store):
    assert store.put_if_absent("a/one", b"first")
    assert not store.put_if_absent("a/one", b"second")
    assert store.get("a/one") == b"first"


def test_move_pointer_when_somebody_was_faster_raises_and_keeps_theirs(store: Store):
    store.move_pointer("pointer.json", {"to": 1}, None)
    _, tag = store.read_pointer("pointer.json")
    store.move_pointer("pointer.json", {"to": 2}, tag)
    with pytest.raises(ConflictError):
        store.move_pointer("pointer.json", {"to": 3}, tag)
    assert store.get_json("pointer.json") == {"to": 2}


def test_move_pointer_when_unset_was_expected_but_is_set_raises(store: Store):
    store.move_pointer("pointer.json", {"to": 1}, None)
    with pytest.raises(ConflictError):
        store.move_pointer("pointer.json", {"to": 2}, None)


def test_get_when_missing_names_the_address(store: Store):
    with pytest.raises(NotFoundError, match=f"s3://{store.bucket}/no/such"):
        store.get("no/such")


def test_get_verified_when_bytes_differ_raises(store: Store):
    store.put("x", b"data")
    with pytest.raises(IntegrityError):
        store.get_verified("x", "0" * 64)


@pytest.mark.parametrize(
    "key", ["a b.jpg", "100%.jpg", "pct%20.jpg", "日本/ünï.jpg", "q?x=1#f.jpg", "new\nline.jpg"]
)
def test_get_and_list_when_key_is_odd_return_it_unchanged(store: Store, key: str):
    store._s3.put_object(Bucket=store.bucket, Key=key, Body=b"bytes")
    assert [found.key for found in store.list("")] == [key]
    assert store.get(key) == b"bytes"


@pytest.mark.parametrize("size", [0, 1, PART_BYTES, 2 * PART_BYTES + 12_345])
def test_file_round_trip_keeps_bytes_and_returns_their_sha256(store: Store, tmp_path, size: int):
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(bytes(range(251)) * (size // 251) + b"x" * (size % 251))
    store.put_file("file", source)
    digest = store.get_file("file", copy)
    assert copy.read_bytes() == source.read_bytes()
    assert digest == hashlib.sha256(source.read_bytes()).hexdigest()


def test_get_file_when_large_asks_for_one_part_at_a_time(store: Store, tmp_path, monkeypatch):
    spans = []

    def noted(*arguments, options):
        spans.append(options["range"])
        return obstore_get(*arguments, options=options)

    obstore_get = obstore.get
    monkeypatch.setattr("dermascan.storage.obstore.get", noted)
    store.put("large", bytes(PART_BYTES + 1))
    store.get_file("large", tmp_path / "copy")
    assert spans == [(0, PART_BYTES), (PART_BYTES, 2 * PART_BYTES)]


@pytest.mark.parametrize("size", [PART_BYTES + 1, 3 * PART_BYTES])
def test_get_file_when_replaced_between_parts_can_be_tried_again(
    store: Store, tmp_path, monkeypatch, size: int
):
    def and_replaced(*arguments, options):
        result = obstore_get(*arguments, options=options)
        store.put("large", b"y" * size)
        return result

    obstore_get = obstore.get
    store.put("large", b"x" * (PART_BYTES + 1))
    monkeypatch.setattr("dermascan.storage.obstore.get", and_replaced)
    with pytest.raises(TransientError, match="large was replaced while it was read"):
        store.get_file("large", tmp_path / "copy")


@pytest.mark.parametrize(
    ("size", "parts"), [(0, 0), (1, 1), (5 * 2**20, 1), (20 * 2**30, 4096), (5 * 2**40, 10_000)]
)
def test_part_bytes_never_makes_more_parts_than_s3_takes(size: int, parts: int):
    assert -(-size // part_bytes(size)) == parts
    assert part_bytes(size) >= 5 * 2**20, "S3 takes no smaller ones"


@pytest.mark.parametrize(("most", "parts"), [(10_000, 3), (2, 2)])
def test_put_file_makes_larger_parts_where_there_would_be_too_many(
    store: Store, tmp_path, monkeypatch, most: int, parts: int
):
    monkeypatch.setattr("dermascan.storage.MOST_PARTS", most)
    (tmp_path / "large").write_bytes(bytes(2 * PART_BYTES + 1))

    store.put_file("large", tmp_path / "large")

    assert store.head("large").etag.endswith(f"-{parts}")


def test_put_named_file_when_it_is_there_writes_nothing(store: Store, tmp_path):
    (tmp_path / "one").write_bytes(b"one")
    (tmp_path / "two").write_bytes(b"two")

    assert store.put_named_file("name", tmp_path / "one")
    assert not store.put_named_file("name", tmp_path / "two")
    assert store.get("name") == b"one"


def test_get_file_when_missing_names_the_address(store: Store, tmp_path):
    with pytest.raises(NotFoundError, match=f"s3://{store.bucket}/no/such"):
        store.get_file("no/such", tmp_path / "copy")


@pytest.mark.parametrize("count", [0, 1, 2, 5, 6])
def test_list_when_there_are_several_pages_yields_every_key_in_order(
    store: Store, monkeypatch, count: int
):
    monkeypatch.setattr("dermascan.storage.PAGE_KEYS", 2)
    keys = [f"many/{number}" for number in range(count)]
    for key in reversed(keys):
        store.put(key, b"x")
    assert [found.key for found in store.list("many/")] == keys


def test_delete_when_some_are_missing_removes_the_rest(store: Store):
    store.put("a", b"1")
    store.delete(["a", "never-there"])
    assert list(store.list("")) == []


def test_concurrently_keeps_order_and_reads_ahead_only_a_window():
    taken: list[int] = []

    def source():
        for i in range(100):
            taken.append(i)
            yield i

    results = concurrently(lambda x: x * 2, source(), concurrency=4)
    assert [next(results) for _ in range(3)] == [0, 2, 4]
    assert len(taken) < 12


def test_concurrently_with_results_ahead_works_on_while_nobody_takes_them():
    done = threading.Semaphore(0)

    def work(number: int) -> int:
        done.release()
        return number

    results = concurrently(work, range(20), concurrency=2, ahead=6)
    next(results)

    assert all(done.acquire(timeout=5) for _ in range(9)), "the first, 2 and 6 ahead"
    assert not done.acquire(timeout=0.2)
    assert list(results) == list(range(1, 20))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://other/a/b", S3Address("other", "a/b")),
        ("s3://other", S3Address("other", "")),
        ("incoming/x", S3Address("mine", "incoming/x")),
    ],
)
def test_address_parse_reads_both_forms(text, expected):
    assert S3Address.parse(text, "mine") == expected


def test_access_with_wrong_keys_says_what_to_check(store: Store):
    wrong = store.settings.model_copy(update={"secret_access_key": SecretStr("wrong")})
    stranger = Store(wrong, store.bucket)
    for attempt in (
        lambda: stranger.get("x"),
        lambda: list(stranger.list("")),
        stranger.ensure_bucket,
    ):
        with pytest.raises(InputError, match="access denied"):
            attempt()


def test_ensure_bucket_when_nobody_answers_can_be_tried_again(store: Store):
    nobody = store.settings.model_copy(update={"endpoint_url": "http://127.0.0.1:9"})
    with pytest.raises(TransientError, match=f"{store.bucket}.*http://127.0.0.1:9 to find it"):
        Store(nobody.impatient(0.3), store.bucket).ensure_bucket()


def test_folder_lists_what_is_directly_under_a_prefix_and_no_deeper(store):
    for key in ("a/1", "a/2", "a/b/3", "a/c/d/4", "e/5"):
        store.put(key, b"x")

    found = store.folder("a/")
    first = store.folder("a/", limit=1)
    rest = store.folder("a/", after="a/1")

    assert [each.key for each in found.objects] == ["a/1", "a/2"]
    assert found.folders == ("a/b/", "a/c/")
    assert found.complete
    assert ([each.key for each in first.objects], first.complete) == (["a/1"], False)
    assert [each.key for each in rest.objects] == ["a/2"]
    assert list(store.folders("")) == ["a/", "e/"]


def test_folder_that_was_emptied_holds_nothing(store):
    store.put("a/1", b"x")
    store.delete(["a/1"])
    assert store.folder("a/").objects == ()
