import time
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from scored_tables import THRESHOLD, scored_table

from dermascan.evaluation import CLASS_COLUMNS, Estimate, evaluate
from dermascan.evaluation.bootstrap import Bootstrap
from dermascan.evaluation.statistic import share, weighted_mean
from dermascan.taxonomy import LESION_CLASSES


def test_interval_of_accuracy_is_that_of_drawing_lesions():
    table = scored_table(400, seed=3)
    right = table[list(CLASS_COLUMNS)].to_numpy().argmax(axis=1) == [
        LESION_CLASSES.index(name) for name in table["lesion_class"]
    ]
    lesions = [right[rows] for rows in table.groupby("lesion_id").indices.values()]
    random = np.random.default_rng(99)
    draws = [
        np.concatenate([lesions[i] for i in random.integers(len(lesions), size=len(lesions))])
        for _ in range(1000)
    ]
    expected = np.quantile([draw.mean() for draw in draws], [0.025, 0.975])
    accuracy = evaluate(table, THRESHOLD).accuracy
    assert [accuracy.low, accuracy.high] == pytest.approx(expected, abs=0.01)


def test_more_images_of_the_same_lesions_do_not_narrow_the_interval():
    once = scored_table(150).drop_duplicates("lesion_id")
    copies = [once.assign(isic_id=once["isic_id"] + f"-{i}") for i in range(4)]
    assert evaluate(pd.concat(copies), THRESHOLD).accuracy == evaluate(once, THRESHOLD).accuracy


def test_resamples_without_spread_give_no_interval():
    perfect = scored_table(60, skill=60)
    assert evaluate(perfect, THRESHOLD).accuracy == Estimate(value=1.0)


def test_rare_positives_give_no_interval_when_many_resamples_miss_them():
    table = scored_table(80).query("lesion_class in ['nv', 'bkl']").reset_index(drop=True)
    table.loc[0, ["lesion_class", "lesion_id"]] = ["mel", "IL_9999999"]
    auc = evaluate(table, THRESHOLD).malignant.roc_auc
    assert auc.value is not None
    assert auc.low is None


def test_estimate_of_rows_is_that_of_these_images_alone():
    values = np.random.default_rng(0).random(50)
    bootstrap, rows = Bootstrap(np.arange(50) // 2, 200, 0), np.arange(10, 30)
    got = bootstrap.estimate(weighted_mean(values[rows]), rows)
    assert got.value == pytest.approx(values[rows].mean(), abs=1e-6)
    assert got.low < got.value < got.high


def test_estimate_does_not_depend_on_how_resamples_are_chunked(monkeypatch):
    flags = np.random.default_rng(0).random(400) < 0.3
    whole = Bootstrap(np.arange(400), 500, 0).estimate(share(flags, np.ones_like(flags)))
    monkeypatch.setattr("dermascan.evaluation.bootstrap._CHUNK_ELEMENTS", 3_000)
    parts = Bootstrap(np.arange(400), 500, 0).estimate(share(flags, np.ones_like(flags)))
    assert parts == whole


def test_interval_of_a_figure_biased_upwards_reaches_at_least_as_far_below_it_as_above():
    values = np.random.default_rng(0).normal(0, 1, 300)
    absolute = Bootstrap(np.arange(300), 500, 0).estimate_biased_upwards(
        lambda weights: np.abs(weights @ values) / weights.sum(axis=1)
    )
    assert absolute.low <= max(0, 2 * absolute.value - absolute.high) + 1e-6
    assert 0 <= absolute.low <= absolute.value <= absolute.high


def test_fifteen_hundred_images_take_less_than_half_a_minute_and_little_memory():
    table = scored_table(1500)
    evaluate(table, THRESHOLD, resamples=2)
    tracemalloc.start()
    started = time.process_time()
    evaluate(table, THRESHOLD, resamples=1000)
    seconds, (_, peak) = time.process_time() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 30
    assert peak < 150e6
