"""Training settings against each other, on validation images and over several seeds.

A run is a training like any other, named by its settings: what is there already is not trained
again, and what was killed goes on. No test image is read.
"""

import gc
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dermascan.assessment.score_tables import with_metadata
from dermascan.errors import InputError
from dermascan.evaluation import evaluate, figure
from dermascan.example_set import ExampleSet, preprocess, split
from dermascan.experiment import train_examples
from dermascan.imaging import ImageSize, Preprocessing
from dermascan.layout import TrainingKeys
from dermascan.learning.training import TrainingConfig, TrainingSummary
from dermascan.scores import read_scores
from dermascan.storage import Store

logger = logging.getLogger(__name__)

_FIGURES = {
    "ROC AUC": "malignant.roc_auc",
    "sensitivity at 90 % specificity": "malignant.sensitivity_at_90_specificity",
    "melanoma ROC AUC": "classes.mel.roc_auc",
    "balanced accuracy": "balanced_accuracy",
    "accuracy": "accuracy",
}
_RESAMPLES = 2  # no interval is shown


class Variant(BaseModel):
    """One way to train.

    Attributes:
        name: of what is different.
        image_size: HEIGHTxWIDTH; None for that of the plan.
        settings: of `TrainingConfig`, over those of the plan; mappings are merged.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    image_size: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)


class AblationPlan(BaseModel):
    """What is compared.

    Attributes:
        why: what the plan is to answer.
        image_size: HEIGHTxWIDTH of every variant that does not say otherwise.
        seeds: each variant is trained once with each.
        settings: of every variant, see `TrainingConfig`.
        variants: the first is what the others are compared with.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    why: str
    image_size: str
    seeds: tuple[int, ...] = Field(min_length=1)
    settings: dict[str, Any] = Field(default_factory=dict)
    variants: tuple[Variant, ...] = Field(min_length=1)

    @classmethod
    def read(cls, path: Path) -> "AblationPlan":
        """Read a plan, and check the settings of every variant.

        Raises:
            InputError: the file does not say what it must.
        """
        try:
            plan = cls.model_validate(yaml.safe_load(path.read_bytes()))
            for variant in plan.variants:
                plan.config(variant, plan.seeds[0])
        except (OSError, yaml.YAMLError, ValidationError, TypeError) as error:
            raise InputError(f"{path} is not a plan of ablations: {error}") from error
        return plan

    def config(self, variant: Variant, seed: int) -> TrainingConfig:
        """Return how a variant is trained with a seed."""
        settings = _merged(TrainingConfig().model_dump(), self.settings)
        return TrainingConfig.model_validate(_merged(settings, variant.settings) | {"seed": seed})


@dataclass(frozen=True)
class AblationRun:
    """One training of a variant.

    Attributes:
        variant: its name.
        seed: of the training.
        summary: what the training left.
        figures: by name, on the calibrated scores of the validation images; None where undefined.
    """

    variant: str
    seed: int
    summary: TrainingSummary
    figures: Mapping[str, float | None]


def run(store: Store, dataset: str, plan: AblationPlan, suites: Path) -> Iterator[AblationRun]:
    """Train every variant with every seed, all variants with the first seed before the second.

    Args:
        store: the bucket.
        dataset: name of a validated dataset.
        plan: what is compared.
        suites: folder of the expectation suites that the dataset must have passed.
    """
    for seed in plan.seeds:
        for variant in plan.variants:
            logger.info("%s, seed %d", variant.name, seed)
            size = ImageSize.parse(variant.image_size or plan.image_size)
            examples = _examples(store, dataset, size, suites)
            config = plan.config(variant, seed)
            summary = train_examples(store, examples, config, None, "ablation")
            _forget_networks()
            figures = _figures(store, examples, config, summary)
            yield AblationRun(variant.name, seed, summary, figures)


def table(runs: Sequence[AblationRun]) -> str:
    """Return mean and standard deviation over the seeds of each variant, as Markdown."""
    lines = [
        "| variant | runs | " + " | ".join(_FIGURES) + " | minutes |",
        "|---" * (len(_FIGURES) + 3) + "|",
    ]
    for variant in dict.fromkeys(run.variant for run in runs):
        of_variant = [run for run in runs if run.variant == variant]
        cells = [_spread([run.figures[name] for run in of_variant]) for name in _FIGURES]
        minutes = mean(run.summary.seconds for run in of_variant) / 60
        lines.append(f"| {variant} | {len(of_variant)} | {' | '.join(cells)} | {minutes:.1f} |")
    return "\n".join(lines) + "\n"


def _figures(
    store: Store, examples: ExampleSet, config: TrainingConfig, summary: TrainingSummary
) -> dict[str, float | None]:
    scores = read_scores(store, TrainingKeys(summary.fingerprint).validation_scores)
    evaluation = evaluate(
        with_metadata(store, examples, "val", scores),
        summary.threshold,
        taxonomy=config.taxonomy,
        resamples=_RESAMPLES,
    )
    return {name: figure(evaluation, path) for name, path in _FIGURES.items()}


def _spread(values: Sequence[float | None]) -> str:
    defined = [value for value in values if value is not None]
    if len(defined) < len(values):
        return "n/a"
    spread = f" ± {stdev(defined):.4f}" if len(defined) > 1 else ""
    return f"{mean(defined):.4f}{spread}"


def _examples(store: Store, dataset: str, size: ImageSize, suites: Path) -> ExampleSet:
    examples = split(store, dataset, Preprocessing(size), suites)
    for shard in range(len(examples.shards)):
        preprocess(store, examples, shard)
    return examples


def _forget_networks() -> None:
    """Keep memory flat over many trainings; a run that was done already imported no Keras."""
    if "keras" in sys.modules:
        sys.modules["keras"].utils.clear_session()
        gc.collect()


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with changes, mappings within mappings merged likewise."""
    result = dict(base)
    for name, value in changes.items():
        present = result.get(name)
        if isinstance(present, Mapping) and isinstance(value, Mapping):
            value = _merged(present, value)  # noqa: PLW2901  # the same setting, made whole
        result[name] = value
    return result
