"""What MLflow is told of a training beside parameters and metrics.

The dataset under its fingerprint, figures, the model with signature and input example, and the way
to the orchestrator's run. MLflow gets no copy of the model: its entry leads to object storage.
"""

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dermascan.assessment.documents import learning_curves
from dermascan.evaluation import Evaluation
from dermascan.example_set import ExampleSet
from dermascan.figures import (
    decision_curve,
    learning_losses,
    learning_scores,
    reliability,
    risk_coverage,
    standalone,
)
from dermascan.layout import DatasetKeys, TrainingKeys
from dermascan.model.metadata import ArrayDescription, ModelMetadata
from dermascan.model.savedmodel import METADATA_FILE
from dermascan.model.signatures import UINT8_SIGNATURE
from dermascan.storage import Store
from dermascan.tracking import MlflowTracker

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.types import Schema

MODEL_NAME = "dermascan-lesion-classifier"
_EXAMPLE_SIDE = 8  # pixels, where images of any size are taken


def tell_run(tracker: MlflowTracker, run: str, address: str | None) -> None:
    """Say which run of the orchestrator trains.

    Args:
        tracker: of the training.
        run: its name.
        address: of its page, None if it has none.
    """
    tracker.set_tag("airflow.run", run)
    if address:
        tracker.set_tag("airflow.url", address)
        tracker.set_tag("mlflow.note.content", f"Trained by the Airflow run [{run}]({address}).")


def tell_dataset(tracker: MlflowTracker, store: Store, examples: ExampleSet) -> None:
    """Say what is trained on: the manifest by its fingerprint, with the images of each class."""
    manifest = DatasetKeys(examples.dataset).manifest(examples.manifest_fingerprint)

    def report(client: "MlflowClient", run_id: str) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag  # noqa: PLC0415  # takes seconds

        dataset = Dataset(
            name=examples.dataset,
            digest=examples.manifest_fingerprint,
            source_type="s3",
            source=json.dumps({"uri": store.address(manifest)}),
            schema=None,
            profile=json.dumps(examples.counts, sort_keys=True),
        )
        context = InputTag("mlflow.data.context", "training")
        client.log_inputs(run_id, [DatasetInput(dataset, [context])])

    tracker.report("the dataset", report)


def tell_training(tracker: MlflowTracker, store: Store, training: str) -> None:
    """Say what a training made: how it went, and the model."""
    keys = TrainingKeys(training)
    curves = learning_curves(store, keys)
    drawn = {"losses": learning_losses(curves), "validation-auc": learning_scores(curves)}
    tell_figures(tracker, {f"learning-{name}": svg for name, svg in drawn.items()})
    body = store.get(keys.model + METADATA_FILE)
    metadata = ModelMetadata.model_validate_json(body)
    _tell_model(tracker, metadata, store.address(keys.model))


def tell_evaluation(tracker: MlflowTracker, evaluation: Evaluation) -> None:
    """Show how the model did on the test split."""
    figures = {
        "calibration": reliability(evaluation.calibrated.reliability, "after calibration"),
        "decision-curve": decision_curve(evaluation.decision_curve),
        "risk-coverage": risk_coverage(evaluation.coverage),
    }
    tell_figures(tracker, figures)


def tell_figures(tracker: MlflowTracker, figures: Mapping[str, str | None]) -> None:
    """Keep SVG figures by name; those that are not defined are left out."""
    with tempfile.TemporaryDirectory() as folder:
        for name, svg in figures.items():
            if svg is not None:
                path = Path(folder) / f"{name}.svg"
                path.write_text(standalone(svg))
                tracker.report(path.name, _keeping(path))


def _keeping(path: Path) -> Callable[["MlflowClient", str], None]:
    return lambda client, run_id: client.log_artifact(run_id, str(path), "figures")


def _tell_model(tracker: MlflowTracker, metadata: ModelMetadata, address: str) -> None:
    def report(client: "MlflowClient", run_id: str) -> None:
        experiment = client.get_run(run_id).info.experiment_id
        known = client.search_logged_models([experiment], f"source_run_id = '{run_id}'")
        if list(known):
            return
        made = client.create_logged_model(
            experiment,
            name=MODEL_NAME,
            source_run_id=run_id,
            tags={
                "dermascan.model": address,
                "dermascan.fingerprint": metadata.training_fingerprint,
            },
            params={"threshold": f"{metadata.threshold:.6f}", "networks": str(metadata.networks)},
        )
        with tempfile.TemporaryDirectory() as folder:
            _write_model(Path(folder), metadata, address, made.model_id)
            client.log_model_artifacts(made.model_id, folder)
        client.finalize_logged_model(made.model_id, "READY")

    tracker.report("the model", report)


def _write_model(folder: Path, metadata: ModelMetadata, address: str, model_id: str) -> None:
    """Write MLflow's description of a model, in which the files' address stands for the files."""
    from mlflow.models import Model, ModelSignature  # noqa: PLC0415  # takes seconds to import

    signature = metadata.signatures[UINT8_SIGNATURE]
    example = {name: _example(array) for name, array in signature.inputs.items()}
    (folder / "input_example.json").write_text(json.dumps(example))
    model: Model = Model(
        model_id=model_id,
        signature=ModelSignature(_schema(signature.inputs), _schema(signature.outputs)),
        saved_input_example_info={"artifact_path": "input_example.json", "type": "ndarray"},
        flavors={"dermascan": {"savedmodel": address, "signature": UINT8_SIGNATURE}},
        metadata={"disclaimer": metadata.intended_use},
    )
    model.save(str(folder / "MLmodel"))


def _schema(arrays: Mapping[str, ArrayDescription]) -> "Schema":
    from mlflow.types import Schema, TensorSpec  # noqa: PLC0415  # takes seconds to import

    return Schema(
        [
            TensorSpec(np.dtype(array.dtype), tuple(_or(-1, n) for n in array.shape), name)
            for name, array in arrays.items()
        ]
    )


def _example(array: ArrayDescription) -> object:
    """Return one image of the colour of skin, as nested lists."""
    _, *size = array.shape
    shape = (1, *(_or(_EXAMPLE_SIDE, n) for n in size))
    example: object = np.broadcast_to(np.array([205, 150, 125]), shape).tolist()
    return example


def _or(default: int, length: int | None) -> int:
    return default if length is None else length
