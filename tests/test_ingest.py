import json
import logging
import tarfile
from dataclasses import replace

import pandas as pd
import pytest
from archives import isic_id, row, serving, write_folder
from hostile import EXPECTED, hostile_images

from dermascan.dataset import read_manifest, read_pointer
from dermascan.errors import InputError, IntegrityError, PermanentError, TransientError
from dermascan.fingerprint import sha256_hex
from dermascan.ingest.downloading import download
from dermascan.ingest.planning import IngestRequest, plan
from dermascan.ingest.publishing import publish_manifest
from dermascan.ingest.staging import IngestPlan
from dermascan.ingest.uploading import upload
from dermascan.isic.client import IsicClient
from dermascan.isic.retry import RetryPolicy
from dermascan.storage import Store

QUICK = RetryPolicy(attempts=2, base_seconds=0.01, cap_seconds=0.02)


def ingest(store: Store, url: str, request: IngestRequest, **options):
    with IsicClient(url, retry=QUICK) as client:
        planned = plan(store, client, request)
        for shard in range(planned.shards):
            download(store, client, planned, shard)
            upload(store, planned, shard)
        return publish_manifest(store, client, planned, **options)


def snapshot(store: Store) -> dict[str, str]:
    return {found.key: found.etag for found in store.list("")}


def test_ingest_when_all_is_well_stores_every_image_with_its_bytes(store, tmp_path):
    folder = write_folder(tmp_path, [row(i) for i in range(30)])
    with serving(folder) as url:
        pointer = ingest(store, url, IngestRequest("small"))
    manifest = read_manifest(store, pointer)
    assert len(manifest) == 30
    for entry in manifest.itertuples():
        original = (folder / f"{entry.isic_id}.jpg").read_bytes()
        assert entry.sha256 == sha256_hex(original)
        assert store.get(entry.key) == original
    assert set(manifest["lesion_class"]) == {"nv", "mel"}
    assert [f.key for f in store.list("staging/") if "/published/" not in f.key] == []


def test_ingest_when_run_again_moves_no_image_and_changes_nothing(store, tmp_path, caplog):
    folder = write_folder(tmp_path, [row(i) for i in range(12)])
    with serving(folder) as url:
        ingest(store, url, IngestRequest("again"))
        before = snapshot(store)
        caplog.set_level(logging.INFO, "dermascan")
        for file in folder.glob("*.jpg"):
            file.write_bytes(b"?" * file.stat().st_size)  # a download would be refused
        ingest(store, url, IngestRequest("again"))
    assert snapshot(store) == before
    assert "0 new, 12 known from before" in caplog.text
    assert "nothing changed" in caplog.text


def test_ingest_when_images_are_hostile_keeps_them_aside_with_reasons(store, tmp_path):
    hostile = hostile_images()
    names = {name: isic_id(100 + i) for i, name in enumerate(hostile)}
    rows = [row(i) for i in range(10)] + [row(100 + i) for i in range(len(hostile))]
    files = {
        f"{names[name]}.{'png' if 'png' in name else 'jpg'}": data for name, data in hostile.items()
    }
    with serving(write_folder(tmp_path, rows, files)) as url:
        pointer = ingest(store, url, IngestRequest("hostile"))
    assert (pointer.images, pointer.refused, pointer.failed) == (10, len(hostile), 0)
    for name, data in hostile.items():
        kept = f"quarantine/hostile/{sha256_hex(data)}"
        assert store.get(kept) == data, name
        reason = json.loads(store.get(f"{kept}.{names[name]}.json"))
        assert reason["reason"].startswith(f"image refused ({EXPECTED[name]})"), name


def test_ingest_when_a_diagnosis_is_unknown_keeps_the_image_without_a_class(store, tmp_path):
    rows = [row(i) for i in range(6)] + [row(9, diagnosis_3="Not a diagnosis")]
    with serving(write_folder(tmp_path, rows)) as url:
        pointer = ingest(store, url, IngestRequest("unknown"))
    manifest = read_manifest(store, pointer).set_index("isic_id")
    assert pd.isna(manifest.loc[isic_id(9), "lesion_class"])
    assert "Not a diagnosis" in manifest.loc[isic_id(9), "metadata_errors"]
    assert manifest["lesion_class"].notna().sum() == 6


def test_download_when_too_many_fail_names_them_and_asks_for_another_try(store, tmp_path):
    folder = write_folder(tmp_path, [row(i) for i in range(10)])
    with serving(folder) as url, IsicClient(url, retry=QUICK) as client:
        planned = plan(store, client, IngestRequest("failing"))
        (folder / f"{isic_id(3)}.jpg").unlink()
        with pytest.raises(TransientError, match=isic_id(3)):
            download(store, client, planned, 0, max_failed_share=0.05)


def test_publish_when_too_many_downloads_failed_names_them_and_moves_no_pointer(store, tmp_path):
    folder = write_folder(tmp_path, [row(i) for i in range(10)])
    with serving(folder) as url, IsicClient(url, retry=QUICK) as client:
        planned = plan(store, client, IngestRequest("failing"))
        (folder / f"{isic_id(3)}.jpg").unlink()
        assert download(store, client, planned, 0, max_failed_share=0.2).failed == 1
        upload(store, planned, 0)
        with pytest.raises(PermanentError, match=isic_id(3)):
            publish_manifest(store, client, planned, max_failed_share=0.05)
        assert not store.exists("raw/failing/current.json")
        pointer = publish_manifest(store, client, planned, max_failed_share=0.2)
    assert (pointer.images, pointer.failed) == (9, 1)


def test_ingest_when_some_failed_before_fetches_only_those_and_publishes_all(store, tmp_path):
    folder = write_folder(tmp_path, [row(i) for i in range(4)])
    lost = folder / f"{isic_id(2)}.jpg"
    data = lost.read_bytes()
    with serving(folder) as url, IsicClient(url, retry=QUICK) as client:
        planned = plan(store, client, IngestRequest("retry"))
        lost.unlink()
        assert download(store, client, planned, 0, max_failed_share=1).failed == 1
        upload(store, planned, 0)
        lost.write_bytes(data)
        for other in (0, 1, 3):
            (folder / f"{isic_id(other)}.jpg").unlink()
        assert download(store, client, planned, 0).failed == 0
        assert download(store, client, planned, 0).skipped
        upload(store, planned, 0)
        pointer = publish_manifest(store, client, planned)
    assert (pointer.images, pointer.failed) == (4, 0)


def test_publish_when_run_again_after_it_cleared_its_staging_area_says_the_same(store, tmp_path):
    folder = write_folder(tmp_path, [row(i) for i in range(4)])
    with serving(folder) as url, IsicClient(url, retry=QUICK) as client:
        planned = plan(store, client, IngestRequest("cleared"))
        download(store, client, planned, 0)
        upload(store, planned, 0)
        first = publish_manifest(store, client, planned)
        assert publish_manifest(store, client, planned) == first


@pytest.mark.parametrize(
    "damaged",
    [lambda pack: pack.replace(b"\xff\xd9", b"\xff\x00"), lambda _: bytes(tarfile.RECORDSIZE)],
    ids=["other bytes", "images lacking"],
)
def test_upload_when_the_pack_was_damaged_has_it_fetched_again(store, tmp_path, damaged):
    folder = write_folder(tmp_path, [row(i) for i in range(4)])
    with serving(folder) as url, IsicClient(url, retry=QUICK) as client:
        planned = plan(store, client, IngestRequest("damaged"))
        download(store, client, planned, 0)
        pack = planned.key("images", 0, ".tar")
        store.put(pack, damaged(store.get(pack)))
        with pytest.raises(IntegrityError, match="clear the download task"):
            upload(store, planned, 0)
        assert not download(store, client, planned, 0).skipped
        assert upload(store, planned, 0).new == 4


def test_ingest_when_some_were_refused_and_it_is_run_again_changes_nothing(store, tmp_path):
    files = {f"{isic_id(i)}.jpg": b"not an image" for i in (7, 8)}
    rows = [row(i) for i in range(4)] + [row(7), row(8)]
    with serving(write_folder(tmp_path, rows, files)) as url:
        first = ingest(store, url, IngestRequest("refused"))
        before = snapshot(store)
        assert ingest(store, url, IngestRequest("refused")) == first
    assert snapshot(store) == before
    assert first.refused == 2
    assert len([f for f in store.list("quarantine/refused/") if f.key.endswith(".json")]) == 2


def test_ingest_when_the_licence_changes_publishes_another_manifest(store, tmp_path):
    rows = [row(i) for i in range(4)]
    with serving(write_folder(tmp_path, rows)) as url:
        first = ingest(store, url, IngestRequest("licence"))
    changed = [{**values, "copyright_license": "CC-BY-NC"} for values in rows]
    with serving(write_folder(tmp_path, changed)) as url:
        second = ingest(store, url, IngestRequest("licence"))
    assert second.fingerprint != first.fingerprint
    assert set(read_manifest(store, second)["copyright_license"]) == {"CC-BY-NC"}


def test_upload_when_the_key_holds_other_bytes_keeps_both(store, tmp_path):
    folder = write_folder(tmp_path, [row(i) for i in range(4)])
    taken = f"raw/revised/images/{isic_id(1)}.jpg"
    store.put(taken, b"earlier bytes")
    with serving(folder) as url:
        pointer = ingest(store, url, IngestRequest("revised"))
    manifest = read_manifest(store, pointer).set_index("isic_id")
    assert store.get(taken) == b"earlier bytes"
    assert manifest.loc[isic_id(1), "key"] != taken
    kept = store.get(manifest.loc[isic_id(1), "key"])
    assert sha256_hex(kept) == manifest.loc[isic_id(1), "sha256"]


def test_ingest_when_selection_grows_downloads_only_what_is_new(store, tmp_path):
    folder = write_folder(tmp_path, [row(i) for i in range(8)])
    with serving(folder) as url, IsicClient(url, retry=QUICK) as client:
        ingest(store, url, IngestRequest("grows", limit=5))
        planned = plan(store, client, IngestRequest("grows"))
        outcome = download(store, client, planned, 0)
    assert (outcome.known, outcome.new) == (5, 3)


def test_publish_keeps_attribution_and_licence(store, tmp_path):
    with serving(write_folder(tmp_path, [row(i) for i in range(4)])) as url:
        pointer = ingest(store, url, IngestRequest("rights"))
    text = store.get(f"raw/rights/manifests/{pointer.fingerprint}.ATTRIBUTION.txt").decode()
    assert "Nobody: drawn for a test (CC-0): 4 images" in text
    assert store.exists("raw/rights/licenses/CC-0.txt")
    assert read_pointer(store, "rights") == pointer


def test_publish_when_some_images_name_no_rights_holder_says_so(store, tmp_path):
    rows = [row(0), row(1, attribution=""), row(2, attribution="")]
    with serving(write_folder(tmp_path, rows)) as url:
        pointer = ingest(store, url, IngestRequest("nobodys"))
    text = store.get(f"raw/nobodys/manifests/{pointer.fingerprint}.ATTRIBUTION.txt").decode()
    assert text.splitlines()[2:] == [
        "Nobody: drawn for a test (CC-0): 1 images",
        "Unknown (CC-0): 2 images",
    ]


def test_plan_when_nothing_matches_says_so(store, tmp_path):
    folder = write_folder(tmp_path, [row(1)])
    with serving(folder) as url, IsicClient(url, retry=QUICK) as client:
        with pytest.raises(InputError, match="no image matches"):
            plan(store, client, IngestRequest("none", query="sex:male"))
        with pytest.raises(InputError, match="nonsense"):
            plan(store, client, IngestRequest("none", query="nonsense:1"))


def test_request_when_the_name_could_leave_its_place_is_refused():
    with pytest.raises(InputError, match="not a usable name"):
        IngestRequest("../secrets")


def test_plan_when_signed_urls_differ_is_the_same(store, tmp_path):
    folder = write_folder(tmp_path, [row(i) for i in range(4)])
    plans: list[IngestPlan] = []
    for _ in range(2):
        with serving(folder) as url, IsicClient(url, retry=QUICK) as client:
            plans.append(plan(store, client, IngestRequest("signed")))
    assert plans[0] == replace(plans[1])
