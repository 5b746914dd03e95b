from datetime import UTC, datetime, timedelta

import cv2
import numpy as np
import pandas as pd
import pytest
from archives import picture

from dermascan.fingerprint import sha256_hex
from dermascan.inference import index as prediction_index
from dermascan.inference.batch import PREDICTIONS_SCHEMA, BatchPlan
from dermascan.inference.digest import BatchDigest
from dermascan.inference.index import SHOWN_IMAGES, SHOWN_SIDE, finished_time, index_predictions
from dermascan.layout import LATEST_PREDICTIONS, predictions
from dermascan.overview.predictions import RUNS_ON_A_PAGE, PredictionReader

START = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def clock(monkeypatch):
    class Clock(datetime):
        seconds = 0

        @classmethod
        def now(cls, tz=None):
            return (START + timedelta(seconds=cls.seconds)).astimezone(tz)

    monkeypatch.setattr(prediction_index, "datetime", Clock)
    return Clock


def plan_of(store, run="run") -> BatchPlan:
    return BatchPlan(run, f"s3://{store.bucket}/new/", store.bucket, "dermascan", 7, 1, 3)


def scored(rows) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["image_key", "sha256", "status", "p_malignant", "label"])
    return table.assign(threshold=0.3).reindex(columns=PREDICTIONS_SCHEMA.names)


def one_image(store) -> pd.DataFrame:
    store.put("new/a.jpg", picture(1))
    return scored([("new/a.jpg", sha256_hex(picture(1)), "ok", 0.9, "malignant")])


def finish(store, run, table):
    index_predictions(store, plan_of(store, run), BatchDigest.of(table), finished_time(store, run))
    store.put(f"{predictions(run)}_SUCCESS", b"{}")


def test_a_bucket_without_predictions_has_nothing_to_show(store):
    page = PredictionReader(store).read()
    assert (page.runs, page.older) == ((), None)


def test_a_run_comes_with_counts_and_its_images_of_highest_risk(store, clock):
    count = SHOWN_IMAGES + 3
    bodies = {f"new/{number:02d}.jpg": picture(number) for number in range(count)}
    for key, body in bodies.items():
        store.put(key, body)
    rows = [
        (key, sha256_hex(body), "ok", number / count, "malignant" if number > 8 else "benign")
        for number, (key, body) in enumerate(bodies.items())
    ]
    finish(store, "run", scored([*rows, ("new/x.txt", "0", "rejected", None, None)]))

    (run,) = PredictionReader(store).read().runs

    assert (run.scored, run.rejected, run.malignant) == (count, 1, 2)
    assert (run.prefix, run.model, run.version) == (f"s3://{store.bucket}/new/", "dermascan", 7)
    assert (run.finished, run.threshold) == (START, 0.3)
    assert [image.key for image in run.highest] == sorted(bodies, reverse=True)[:SHOWN_IMAGES]
    decoded = cv2.imdecode(np.frombuffer(run.highest[0].thumbnail, np.uint8), cv2.IMREAD_COLOR)
    assert max(decoded.shape) <= SHOWN_SIDE


def test_a_run_of_which_nothing_was_scored_is_listed(store):
    finish(store, "run", scored([("new/x.txt", "0", "rejected", None, None)]))
    (run,) = PredictionReader(store).read().runs
    assert (run.scored, run.threshold, run.highest) == (0, None, ())


def test_an_image_that_was_replaced_since_it_was_scored_has_no_thumbnail(store):
    table = one_image(store)
    store.put("new/a.jpg", picture(2))
    finish(store, "run", table)
    assert PredictionReader(store).read().runs[0].highest[0].thumbnail is None


def test_a_run_that_was_killed_and_run_again_later_is_listed_once(store, clock):
    table = one_image(store)
    index_predictions(store, plan_of(store), BatchDigest.of(table), finished_time(store, "run"))
    before = {found.key: found.etag for found in store.list("predictions/")}
    clock.seconds = 3600

    finish(store, "run", table)

    after = {found.key: found.etag for found in store.list("predictions/")}
    assert after.keys() - before.keys() == {"predictions/run/_SUCCESS"}
    assert {key: after[key] for key in before} == before


def test_a_run_without_its_success_is_passed_over_until_it_has_it(store):
    reader, table = PredictionReader(store), one_image(store)
    index_predictions(store, plan_of(store), BatchDigest.of(table), finished_time(store, "run"))
    assert reader.read().runs == ()

    finish(store, "run", table)

    assert [run.run for run in reader.read().runs] == ["run"]


def test_runs_are_shown_page_by_page_the_latest_first(store, clock):
    table = one_image(store)
    names = [f"run-{number}" for number in range(2 * RUNS_ON_A_PAGE)]
    for seconds, name in enumerate(names):
        clock.seconds = seconds * 100_000
        finish(store, name, table)
    reader = PredictionReader(store)

    first = reader.read()
    second = reader.read(first.older)

    assert [run.run for run in (*first.runs, *second.runs)] == names[::-1]
    assert second.older is None


@pytest.mark.parametrize("cursor", ["../../raw", "1", "9" * 10, "0000000000-RUN", "\x00"])
def test_a_cursor_that_no_page_gave_leads_to_the_latest_runs(store, cursor):
    finish(store, "run", one_image(store))
    assert len(PredictionReader(store).read(cursor).runs) == 1


def test_the_list_of_runs_is_read_from_one_page_of_keys(store, clock):
    finish(store, "run", one_image(store))
    (entry,) = store.list(LATEST_PREDICTIONS)
    assert entry.key == f"{LATEST_PREDICTIONS}{9_999_999_999 - int(START.timestamp())}-run.json"
