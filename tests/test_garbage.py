"""What the garbage collector finds, and that it never takes what something leads to."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

from dermascan import garbage
from dermascan.cli import app
from dermascan.errors import InputError, IntegrityError
from dermascan.garbage import delete, find_garbage
from dermascan.layout import DatasetKeys, TrainingKeys
from dermascan.registry import Decision, promote
from dermascan.storage import PART_BYTES
from dermascan.versions import claim_version, fetch_version, publish_version

WEEK = timedelta(days=7)
MONTH = timedelta(days=30)
CURRENT, EARLIER = "c" * 24, "e" * 24


def in_a_month() -> datetime:
    return datetime.now(UTC) + MONTH


def found_in(store, now=None) -> set[str]:
    return {each.prefix for each in find_garbage(store, WEEK, now or in_a_month())}


def put_examples(store, name: str, manifest: str, dataset: str = "isic") -> str:
    prefix = DatasetKeys(dataset).processed(name)
    store.put_json(f"{prefix}examples.json", {"manifest_fingerprint": manifest})
    for key in ("split.parquet", "train/part-00000.tfrecord.gz"):
        store.put(prefix + key, b"rows")
    return prefix


def put_training(store, name: str, examples: str | None = None) -> str:
    keys = TrainingKeys(name)
    store.put(f"{keys.prefix}checkpoints/network-00/epoch-0001.npz", b"weights")
    store.put_json(f"{keys.prefix}checkpoints/network-00/latest.json", {})
    if examples:
        store.put_json(keys.done, {})
        store.put_json(keys.examples, {"dataset": "isic", "name": examples})
    return keys.prefix


@pytest.fixture
def bucket(store, tmp_path):
    """A bucket with something of every kind that is reached, and nothing else."""
    keys = DatasetKeys("isic")
    store.put_json(keys.pointer, {"fingerprint": CURRENT})
    for name in (CURRENT, EARLIER):
        store.put(keys.manifest(name), b"rows")
    for key in (keys.image("ISIC_0000001", "jpg"), keys.refused("a" * 64)):
        store.put(key, b"bytes")  # the first is in no manifest: it cannot be had twice
    store.put_json(keys.published("plan"), {})
    store.put(keys.dealing("d2"), b"{}")
    store.put_json(keys.split_ledger, {"key": keys.dealing("d2"), "images": 0})
    put_examples(store, "current", CURRENT)
    put_examples(store, "of-champion", EARLIER)
    put_training(store, "champion", "of-champion")
    (tmp_path / "saved_model.pb").write_bytes(b"graph")
    (tmp_path / "metadata.json").write_text(json.dumps({"training_fingerprint": "champion"}))
    version = claim_version(store, "m", "champion")
    publish_version(store, "m", version, tmp_path)
    promote(store, "m", version, Decision("ann", "better", "training/champion"))
    publish_version(store, "m", 7, tmp_path)  # never champion, but complete
    store.put("predictions/run/predictions.csv", b"rows")
    store.put("reports/validation/isic/x/index.html", b"page")
    return store


def test_find_garbage_when_everything_is_reached_finds_nothing(bucket):
    assert found_in(bucket) == set()


def put_garbage(store) -> set[str]:
    keys = DatasetKeys("isic")
    claimed = claim_version(store, "m", "died")
    store.put(f"models/m/{claimed}/saved_model.pb", b"half an upload")
    store.put(keys.dealing("d1"), b"{}")
    store.put(keys.plan("plan") + "records-00000.jsonl", b"rows")
    store.put("staging/predictions/run/objects-00000.jsonl", b"rows")
    return {
        f"models/m/{claimed}/",
        put_training(store, "refused", "of-refused"),
        put_training(store, "killed"),
        put_examples(store, "of-refused", EARLIER),
        keys.dealing("d1"),
        keys.plan("plan"),
        "staging/predictions/run/",
    }


def test_find_garbage_finds_what_nothing_leads_to_once_it_is_old(bucket):
    wanted = put_garbage(bucket)
    assert found_in(bucket) == wanted
    assert found_in(bucket, datetime.now(UTC)) == set()


def test_delete_takes_what_was_found_and_nothing_else(bucket, tmp_path):
    before = {found.key: found.etag for found in bucket.list("")}
    put_garbage(bucket)
    found = find_garbage(bucket, WEEK, in_a_month())
    assert all(delete(bucket, each) for each in found)
    assert {found.key: found.etag for found in bucket.list("")} == before
    assert find_garbage(bucket, WEEK, in_a_month()) == []


def test_delete_when_interrupted_leaves_nothing_that_looks_whole(bucket, monkeypatch):
    prefix = put_training(bucket, "refused", "of-refused")
    (found,) = find_garbage(bucket, WEEK, in_a_month())
    calls = []
    monkeypatch.setattr(bucket, "delete", calls.append)
    delete(bucket, found)
    keys = [key for call in calls for key in call]
    marks = {f"{prefix}DONE.json", f"{prefix}checkpoints/network-00/latest.json"}
    assert set(keys[:2]) == marks
    assert len(calls[0]) == len(calls[1]) == 1


def test_delete_when_a_job_took_it_up_again_leaves_it_alone(bucket):
    prefix = put_training(bucket, "taken-up")
    (found,) = find_garbage(bucket, WEEK, in_a_month())
    bucket.put(f"{prefix}checkpoints/network-00/epoch-0002.npz", b"more weights")
    assert not delete(bucket, found)
    assert bucket.exists(f"{prefix}checkpoints/network-00/epoch-0001.npz")


def test_find_garbage_when_a_training_is_under_way_keeps_all_examples_and_its_claim(bucket):
    examples = put_examples(bucket, "old", EARLIER)
    later = in_a_month()
    assert examples in found_in(bucket, later)
    version = claim_version(bucket, "m", "under-way")
    put_training(bucket, "under-way")
    candidacy = TrainingKeys("under-way").candidacy("m")
    bucket.put_json(candidacy.version, {"version": version})
    search = garbage._Search(bucket, later - WEEK)
    young = TrainingKeys("under-way").prefix
    search._kept_trainings.add(young)  # as if an epoch had ended just now
    found = {each.prefix for each in search.all()}
    assert examples not in found
    assert f"models/m/{version}/" not in found


def test_find_garbage_when_a_champion_has_lost_its_manifest_does_not_finish_it_off(bucket):
    version = promoted(bucket)
    bucket.delete([f"models/m/{version}/MANIFEST.json"])
    assert f"models/m/{version}/" not in found_in(bucket)
    assert TrainingKeys("champion").prefix not in found_in(bucket)


def promoted(store) -> int:
    return int(str(store.get_json("models/m/champion.json")["version"]))


def test_find_garbage_when_a_history_has_a_gap_refuses(bucket):
    promote(bucket, "m", 7, Decision("ann", "to and fro"))
    bucket.delete(["models/m/history/000001.json"])
    with pytest.raises(IntegrityError, match="history"):
        found_in(bucket)


def test_find_garbage_when_the_age_is_shorter_than_a_job_may_take_refuses(store):
    with pytest.raises(InputError, match="1 day"):
        find_garbage(store, timedelta(hours=1))


def test_unfinished_upload_is_found_and_given_up(store):
    began = store._s3.create_multipart_upload(Bucket=store.bucket, Key="training/x/model/big")
    store._s3.upload_part(
        Bucket=store.bucket,
        Key="training/x/model/big",
        UploadId=began["UploadId"],
        PartNumber=1,
        Body=bytes(PART_BYTES),
    )
    assert find_garbage(store, WEEK) == []
    (found,) = find_garbage(store, WEEK, in_a_month())
    assert found.prefix == "training/x/model/big"
    assert delete(store, found)
    assert list(store.unfinished_uploads()) == []
    assert delete(store, found)


def test_command_lists_and_deletes_only_when_asked(bucket, monkeypatch):
    prefix = put_training(bucket, "killed")
    later = in_a_month()
    search = garbage._Search
    monkeypatch.setattr(garbage, "_Search", lambda store, _: search(store, later - WEEK))
    monkeypatch.setattr("dermascan.commands.gc.open_store", lambda _: bucket)
    listed = CliRunner().invoke(app, ["gc"])
    assert f"{bucket.address(prefix)}" in listed.output
    assert "a training, unfinished, that no version came from" in listed.output
    assert "2 objects, 0.0 MB may go: add --delete" in listed.output
    assert list(bucket.list(prefix))
    assert "deleted of 2 objects" in CliRunner().invoke(app, ["gc", "--delete"]).output
    assert not list(bucket.list(prefix))
    assert CliRunner().invoke(app, ["gc"]).output.strip() == "0 objects, 0.0 MB may go"


def test_published_version_stays_whole_for_readers_after_a_collection(bucket, tmp_path):
    put_garbage(bucket)
    for each in find_garbage(bucket, WEEK, in_a_month()):
        delete(bucket, each)
    copy = fetch_version(bucket, "m", promoted(bucket), tmp_path / "copy")
    assert (copy / "saved_model.pb").read_bytes() == b"graph"
