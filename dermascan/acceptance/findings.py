"""What a training run left in object storage."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import JsonValue, TypeAdapter

from dermascan.dataset import DatasetPointer, read_pointer
from dermascan.errors import IntegrityError
from dermascan.evaluation import Evaluation
from dermascan.example_set import ExampleSet
from dermascan.experiment import Promotion
from dermascan.gate import GateResult
from dermascan.layout import TrainingKeys
from dermascan.learning.fitting import EpochRecord
from dermascan.learning.training import TrainingSummary
from dermascan.model.metadata import METADATA_FILE, ModelMetadata
from dermascan.storage import Store


@dataclass(frozen=True)
class TrainedRun:
    """What the task `train` returns: its examples and its fingerprint."""

    dataset: str
    examples: str
    training: str

    @classmethod
    def of(cls, returned: JsonValue) -> "TrainedRun":
        """Read the task's return value.

        Raises:
            IntegrityError: it is of another form.
        """
        match returned:
            case {"examples": {"dataset": str(dataset), "name": str(name)}, "training": str(run)}:
                return cls(dataset, name, run)
        raise IntegrityError(f"the task `train` returned {returned!r}: it should name its results")


@dataclass(frozen=True)
class Findings:
    """A promoted model: what it was made from, how, and what is known about it."""

    dataset: DatasetPointer
    examples: ExampleSet
    training: TrainingSummary
    history: tuple[EpochRecord, ...]
    model: ModelMetadata
    evaluation: Evaluation
    gate: GateResult
    promotion: Promotion

    def count(self, split: str) -> int:
        """Return the number of images of a split."""
        return sum(self.examples.counts[split].values())


def read_findings(store: Store, run: TrainedRun, model: str) -> Findings:
    """Collect what is known of a model that was promoted.

    Args:
        store: the bucket.
        run: the training.
        model: the name that it was promoted under.

    Raises:
        NotFoundError: it was not promoted.
        IntegrityError: the dataset is no longer the one that the examples were made from.
    """
    keys = TrainingKeys(run.training)
    candidacy = keys.candidacy(model)
    examples = ExampleSet.read(store, run.dataset, run.examples)
    dataset = read_pointer(store, run.dataset)
    if dataset.fingerprint != examples.manifest_fingerprint:
        raise IntegrityError(f"dataset {run.dataset!r} was published anew meanwhile: start again")
    return Findings(
        dataset=dataset,
        examples=examples,
        training=TrainingSummary.model_validate_json(store.get(keys.done)),
        history=_history(store.get_json(keys.history)),
        model=ModelMetadata.model_validate_json(store.get(keys.model + METADATA_FILE)),
        evaluation=Evaluation.model_validate_json(store.get(keys.evaluation)),
        gate=GateResult.model_validate_json(store.get(candidacy.gate)),
        promotion=Promotion(**json.loads(store.get(candidacy.promotion))),
    )


def _history(plain: Mapping[str, object]) -> tuple[EpochRecord, ...]:
    return TypeAdapter(tuple[EpochRecord, ...]).validate_python(plain["epochs"])
