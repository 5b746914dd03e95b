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
from common import DEFAULT_ARGS, PREDICTIONS, open_store, params


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
        from dermascan.inference import resolve  # noqa: PLC0415  # keeps parsing fast
        from dermascan.registry import ModelReference  # noqa: PLC0415  # keeps parsing fast

        wanted = params()
        plan = resolve(open_store(), wanted["prefix"], ModelReference.parse(wanted["model"]))
        return [{"plan": asdict(plan), "shard": shard} for shard in range(plan.shards)]

    @task(execution_timeout=timedelta(hours=12))
    def predict(work: dict[str, Any]) -> bool:
        from dermascan.inference import BatchPlan, predict  # noqa: PLC0415  # keeps parsing fast

        return predict(open_store(), BatchPlan(**work["plan"]), work["shard"])

    @task(outlets=[PREDICTIONS])
    def summarise(resolved: list[dict[str, Any]]) -> Any:
        from dermascan.inference import BatchPlan, summarise  # noqa: PLC0415  # fast parsing

        summary = asdict(summarise(open_store(), BatchPlan(**resolved[0]["plan"])))
        yield Metadata(PREDICTIONS, summary)
        return summary

    resolved = resolve()
    predict.expand(work=resolved) >> summarise(resolved)


batch_inference()
