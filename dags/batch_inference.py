"""### Score every image under a prefix

Give an S3 prefix in any bucket that the connection `dermascan_s3` reaches. Every object
under it ends in the output exactly once: scored, or rejected with a reason.

| task | does | leaves |
|---|---|---|
| `resolve` | lists the prefix, fixes the model version for the whole run | the list, in shards |
| `predict` | reads, decodes and scores a shard | its predictions |
| `summarise` | merges the shards | `predictions/<run>/`: Parquet, CSV, HTML report, `_SUCCESS` last |

The same objects and the same model version make the same `<run>`, so a second run finds
its results and does nothing.

*Decision support for research. Not a medical device.*
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import Any

from airflow.sdk import Metadata, Param, dag, task
from common import (
    DEFAULT_ARGS,
    OBJECTS,
    PREDICTION_REPORT,
    PREDICTIONS,
    leave_link,
    leave_note,
    links_to,
    open_store,
    params,
)
from pod_sizes import pod, worker_size


@dag(
    dag_display_name="Batch inference",
    schedule=None,
    catchup=False,
    default_args=DEFAULT_ARGS,
    doc_md=__doc__,
    tags=["dermascan", "inference"],
    params={
        "prefix": Param(
            "incoming/",
            type="string",
            minLength=1,
            maxLength=1100,  # of a key, after s3:// and a bucket
            title="Prefix",
            description_md="`s3://bucket/prefix`, or a prefix in the bucket of `dermascan_s3`.",
        ),
        "model": Param(
            "champion",
            type="string",
            pattern=r"^[a-z0-9][a-z0-9._-]{0,62}(/(champion|\d+))?$",
            title="Model version",
            description_md="`champion` (fixed once, at the start of the run), a version number, "
            "or `name/version` for a model of another name.",
        ),
    },
)
def batch_inference() -> None:
    @task
    def resolve() -> list[dict[str, Any]]:
        from dermascan.inference.batch import resolve  # noqa: PLC0415  # keeps parsing fast
        from dermascan.layout import prediction_staging  # noqa: PLC0415  # keeps parsing fast
        from dermascan.registry import ModelReference  # noqa: PLC0415  # keeps parsing fast

        wanted = params()
        plan = resolve(open_store(), wanted["prefix"], ModelReference.parse(wanted["model"]))
        leave_link(OBJECTS, f"objects/{prediction_staging(plan.run)}")
        return [{"plan": asdict(plan), "shard": shard} for shard in range(plan.shards)]

    @task(execution_timeout=timedelta(hours=12), executor_config=pod(worker_size()))
    def predict(work: dict[str, Any]) -> bool:
        from dermascan.inference.batch import BatchPlan, predict  # noqa: PLC0415  # keeps parsing fast
        from dermascan.layout import prediction_staging  # noqa: PLC0415  # keeps parsing fast

        plan = BatchPlan(**work["plan"])
        leave_link(OBJECTS, f"objects/{prediction_staging(plan.run)}")
        return predict(open_store(), plan, work["shard"])

    @task(outlets=[PREDICTIONS])
    def summarise(resolved: list[dict[str, Any]]) -> Any:
        from dermascan.inference.batch import BatchPlan, summarise  # noqa: PLC0415  # fast parsing
        from dermascan.run_notes import note_on_predictions  # noqa: PLC0415  # fast parsing

        plan = BatchPlan(**resolved[0]["plan"])
        summary = summarise(open_store(), plan)
        leave_link(PREDICTION_REPORT, f"{plan.output}report.html")
        leave_link(OBJECTS, f"objects/{plan.output}")
        leave_note(note_on_predictions(plan, summary))
        yield Metadata(PREDICTIONS, asdict(summary))
        return asdict(summary)

    resolved = resolve()
    predicted, summarised = predict.expand(work=resolved), summarise(resolved)
    predicted >> summarised
    links_to([resolved, predicted], OBJECTS)
    links_to([summarised], PREDICTION_REPORT, OBJECTS)


batch_inference()
