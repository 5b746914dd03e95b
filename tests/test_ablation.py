from pathlib import Path

import pytest
from archives import serving
from test_pipeline import SUITES, ingest

from dermascan.ablation import AblationPlan, AblationRun, run, table
from dermascan.errors import InputError
from dermascan.isic.synthetic import write_archive
from dermascan.learning.training import TrainingSummary, ValidationFigures

PLANS = Path(__file__).parents[1] / "benchmarks" / "ablations"
TINY = """
why: to see that it runs
image_size: 32x48
seeds: [0, 1]
settings: {members: 1, epochs: 1, network: {architecture: small_cnn, weights: none}}
variants:
  - name: as it is
  - name: faster
    settings: {learning_rate: 0.01, augmentation: {zoom: 0.0}}
  - name: smaller
    image_size: 24x32
"""


def run_of(variant, seed, auc, seconds=60.0):
    validation = ValidationFigures(
        val_loss=0.5, val_accuracy=0.8, val_balanced_accuracy=0.7, val_malignant_auc=auc
    )
    summary = TrainingSummary(
        fingerprint="f", model_prefix="m/", history_key="h", train_images=1, val_images=1,
        parameters=1, seconds=seconds, best=(), validation=validation, temperature=1, threshold=0.5,
        sensitivity=None, specificity=None,
    )  # fmt: skip
    others = (
        "sensitivity at 90 % specificity",
        "melanoma ROC AUC",
        "balanced accuracy",
        "accuracy",
    )
    return AblationRun(variant, seed, summary, {"ROC AUC": auc} | dict.fromkeys(others, 0.7))


def write(folder, text):
    path = folder / "plan.yaml"
    path.write_text(text)
    return path


def test_run_trains_each_variant_with_each_seed_once(store, tmp_path, caplog):
    write_archive(tmp_path / "archive", images=60, seed=3)
    with serving(tmp_path / "archive") as url:
        ingest(store, url, "drawn")
    plan = AblationPlan.read(write(tmp_path, TINY))

    first = list(run(store, "drawn", plan, SUITES))
    caplog.clear()
    again = list(run(store, "drawn", plan, SUITES))

    assert [(r.variant, r.seed) for r in first] == [
        (name, seed) for seed in (0, 1) for name in ("as it is", "faster", "smaller")
    ]
    assert len({r.summary.fingerprint for r in first}) == 6
    assert again == first
    for each in first:
        validation, figures = each.summary.validation, each.figures
        assert figures["ROC AUC"] == pytest.approx(validation.val_malignant_auc, abs=1e-4)
        assert figures["accuracy"] == pytest.approx(validation.val_accuracy, abs=1e-4)
    assert not [r for r in caplog.records if "epoch" in r.getMessage()]


def test_config_merges_a_variant_over_the_plan_over_the_defaults(tmp_path):
    plan = AblationPlan.read(write(tmp_path, TINY))

    config = plan.config(plan.variants[1], 7)

    assert (config.seed, config.epochs, config.learning_rate) == (7, 1, 0.01)
    assert config.network.architecture == "small_cnn"
    assert config.augmentation.zoom == 0
    assert config.augmentation.rotation


@pytest.mark.parametrize("path", sorted(PLANS.glob("*.yaml")), ids=lambda path: path.stem)
def test_plans_that_are_kept_can_be_read(path):
    assert len(AblationPlan.read(path).variants) > 1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("seeds: [0, 1]", "seeds: []"), "seeds"),
        (("learning_rate", "learning_rat"), "learning_rat"),
        (("zoom: 0.0", "zoon: 0.0"), "zoon"),
        (("architecture: small_cnn", "architecture: vgg"), "vgg"),
        (("why:", "because:"), "because"),
    ],
)
def test_plan_when_something_is_misspelt_names_it(tmp_path, change, named):
    with pytest.raises(InputError, match=named):
        AblationPlan.read(write(tmp_path, TINY.replace(*change)))


def test_table_shows_mean_and_spread_over_seeds_and_minutes():
    runs = [
        run_of("a", 0, 0.90),
        run_of("b", 0, None, 120),
        run_of("a", 1, 0.92, 180),
    ]

    rows = table(runs).splitlines()

    assert rows[2].startswith("| a | 2 | 0.9100 ± 0.0141 | 0.7000 ± 0.0000 |")
    assert rows[2].endswith("| 2.0 |")
    assert rows[3].startswith("| b | 1 | n/a | 0.7000 |")
