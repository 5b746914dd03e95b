import tracemalloc

import numpy as np
import pandas as pd
import pytest

from dermascan.inference.digest import BatchDigest
from dermascan.inference.scoring import PREDICTIONS_SCHEMA
from dermascan.taxonomy import CLASS_COLUMNS


def batch(images: int, seed: int = 0) -> pd.DataFrame:
    """Return predictions of images, each tenth rejected, many with equal risks."""
    random = np.random.default_rng(seed)
    rejected = np.arange(images) % 10 == 3
    risk = np.where(rejected, np.nan, random.integers(0, 40, images) / 40)
    table = pd.DataFrame({"image_key": [f"new/{n:05d}.jpg" for n in range(images)]})
    table["status"] = np.where(rejected, "rejected", "ok")
    reasons = random.choice(["empty", "truncated: half of it", "empty: 0 bytes"], images)
    table["reason"] = np.where(rejected, reasons, None)
    table["p_malignant"] = risk
    table["label"] = np.where(rejected, None, np.where(risk >= 0.3, "malignant", "benign"))
    for name in CLASS_COLUMNS:
        table[name] = np.where(rejected, np.nan, random.uniform(size=images))
    table["warnings"] = np.where(
        rejected, None, random.choice(["", "blurred", "dark small"], images)
    )
    table = table.assign(threshold=0.3, model_version=7)
    return table.reindex(columns=[*PREDICTIONS_SCHEMA.names, "warnings"])


@pytest.mark.parametrize("cuts", [[], [1], [4, 5], [500, 2_600], list(range(40, 6_000, 40))])
def test_a_digest_is_the_same_however_the_batch_is_cut(cuts):
    whole = batch(6_000)
    parts = [whole.iloc[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)]

    one, other = BatchDigest.of(whole), BatchDigest.of(*parts)

    pd.testing.assert_frame_equal(one.shown, other.shown)
    assert list(other.refused["image_key"]) == list(one.refused["image_key"])
    np.testing.assert_array_equal(one.risks, other.risks)
    for name in ("images", "scored", "rejected", "malignant", "warned", "measured", "likeliest"):
        assert getattr(other, name) == getattr(one, name), name
    for name in ("reasons", "warnings", "thresholds", "model_versions"):
        assert getattr(other, name) == getattr(one, name), name


def test_a_digest_counts_what_the_batch_has():
    whole = batch(6_000)
    scored = whole[whole["status"] == "ok"]

    digest = BatchDigest.of(whole)

    assert (digest.images, digest.scored, digest.rejected) == (6_000, 5_400, 600)
    assert digest.malignant == (scored["p_malignant"] >= 0.3).sum()
    assert set(digest.reasons) == {"empty", "truncated"}
    assert digest.reasons.total() == 600
    assert digest.warned == (scored["warnings"] != "").sum()
    assert digest.warnings["dark"] == digest.warnings["small"]
    best = scored[list(CLASS_COLUMNS)].idxmax(axis=1).str.removeprefix("p_")
    assert digest.likeliest == best.value_counts().to_dict()


def test_a_digest_shows_the_highest_risks_first_and_of_equal_ones_the_first_keys():
    whole = batch(6_000)
    scored = whole[whole["status"] == "ok"].to_dict("records")
    ordered = sorted(scored, key=lambda row: (-row["p_malignant"], row["image_key"]))

    shown = BatchDigest.of(whole.iloc[3_000:], whole.iloc[:3_000]).shown

    assert list(shown["image_key"]) == [row["image_key"] for row in ordered[:2_000]]


def test_a_digest_of_nothing_is_empty():
    digest = BatchDigest.of(batch(0))

    assert (digest.images, digest.scored, digest.rejected, digest.thresholds) == (0, 0, 0, [])
    assert len(digest.risks) == len(digest.shown) == len(digest.refused) == 0


def test_a_digest_of_many_images_holds_8_bytes_for_each_that_is_not_shown():
    images, tables = 5_000, 40
    digest = BatchDigest.of(batch(images))
    tracemalloc.start()

    for seed in range(1, tables):
        digest.add(batch(images, seed).copy())  # which has one array of all numbers

    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert digest.images == images * tables
    assert held < 8 * images * tables + 1024 * 1024
