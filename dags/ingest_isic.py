"""### From the ISIC archive to a verified dataset in object storage

Searches the archive of the connection `isic_archive`, brings what is new to the bucket of
the connection `dermascan_s3`, checks every image, and publishes a manifest.

| task | does | leaves |
|---|---|---|
| `plan` | resolves the search to a list of images, in shards | `staging/<dataset>/<plan>/` |
| `download_from_isic` | fetches and examines a shard's new images | a pack for the next task, on any worker |
| `upload_to_s3` | puts images in place, refused ones in quarantine | `raw/<dataset>/images/`, `quarantine/<dataset>/` |
| `publish_manifest` | lists the dataset, then moves its pointer | `raw/<dataset>/manifests/`, `raw/<dataset>/current.json` |
| `validate` | Great Expectations; fails on a critical expectation | `reports/validation/<dataset>/` |

A second run over the same selection moves no image. When `validate` passes, the asset
`dermascan_dataset` is updated, which starts `train_model` unless `start_training` is off.

*Decision support for research. Not a medical device.*
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import Any

from airflow.sdk import AssetAlias, Param, dag, get_current_context, task, task_group
from common import (
    DATA_DOCS,
    DATASET,
    DEFAULT_ARGS,
    INCLUDE,
    OBJECTS,
    leave_link,
    leave_note,
    links_to,
    name_param,
    open_archive,
    open_store,
    params,
)
from pod_sizes import pod, worker_size

PUBLICATION = AssetAlias("dermascan_publication")

MOVES_FILES: dict[str, Any] = {
    "execution_timeout": timedelta(hours=12),
    "retries": 5,
    "executor_config": pod(worker_size()),
}


@dag(
    dag_display_name="Ingest from ISIC",
    schedule=None,
    catchup=False,
    max_active_runs=1,  # two runs over the same selection would share their staging area
    default_args=DEFAULT_ARGS,
    doc_md=__doc__,
    tags=["dermascan", "data"],
    params={
        "dataset": name_param("isic", "Dataset", "Name of the dataset to publish."),
        "query": Param(
            None,
            type=["null", "string"],
            maxLength=2000,
            title="Search query",
            description_md="In the archive's language, such as "
            "`image_type:dermoscopic AND age_approx:[40 TO 60]`. Empty means everything.",
        ),
        "collections": Param(
            None,
            type=["null", "string"],
            pattern=r"^(\d+(,\d+)*)?$",
            title="Collections",
            description_md="Numbers of ISIC collections, separated by commas "
            "(`212` is HAM10000). Empty means all.",
        ),
        "limit": Param(
            0,
            type="integer",
            minimum=0,
            title="Limit",
            description_md="At most this many images; 0 means all that match.",
        ),
        "max_failed_share": Param(
            0.01,
            type="number",
            minimum=0,
            maximum=1,
            title="Tolerated share of failures",
            description_md="The run fails if more than this share of the images cannot be "
            "downloaded. Failures are named in the log either way.",
        ),
        "start_training": Param(
            True,
            type="boolean",
            title="Start training",
            description_md="Update the asset `dermascan_dataset`, which starts `train_model`.",
        ),
    },
)
def ingest_isic() -> None:
    @task(execution_timeout=timedelta(hours=2))
    def plan() -> list[dict[str, Any]]:
        from dermascan.ingest.planning import IngestRequest, plan  # noqa: PLC0415  # fast parsing

        wanted = params()
        request = IngestRequest(
            wanted["dataset"], wanted["query"] or "", wanted["collections"] or "", wanted["limit"]
        )
        with open_archive() as archive:
            planned = plan(open_store(), archive, request)
        leave_link(OBJECTS, f"objects/staging/{planned.dataset}/{planned.plan}/")
        return [{"plan": asdict(planned), "shard": shard} for shard in range(planned.shards)]

    @task(**MOVES_FILES, weight_rule="absolute")
    def download_from_isic(work: dict[str, Any]) -> dict[str, Any]:
        from dermascan.ingest.downloading import download  # noqa: PLC0415  # keeps parsing fast
        from dermascan.ingest.staging import IngestPlan  # noqa: PLC0415  # keeps parsing fast

        ingest = IngestPlan(**work["plan"])
        leave_link(OBJECTS, f"objects/staging/{ingest.dataset}/{ingest.plan}/")
        with open_archive() as archive:
            outcome = download(
                open_store(),
                archive,
                ingest,
                work["shard"],
                max_failed_share=params()["max_failed_share"],
            )
        return {**work, "downloaded": asdict(outcome)}

    # Before further downloads, so that a bucket that refuses is noticed early.
    @task(**MOVES_FILES, weight_rule="absolute", priority_weight=2)
    def upload_to_s3(work: dict[str, Any]) -> dict[str, Any]:
        from dermascan.ingest.staging import IngestPlan  # noqa: PLC0415  # keeps parsing fast
        from dermascan.ingest.uploading import upload  # noqa: PLC0415  # keeps parsing fast

        ingest = IngestPlan(**work["plan"])
        leave_link(OBJECTS, f"objects/raw/{ingest.dataset}/images/")
        outcome = upload(open_store(), ingest, work["shard"])
        return {**work, "uploaded": asdict(outcome)}

    @task_group
    def shard(work: dict[str, Any]) -> Any:
        downloaded = download_from_isic(work)
        uploaded = upload_to_s3(downloaded)
        links_to([downloaded, uploaded], OBJECTS)
        return uploaded

    @task
    def publish_manifest(planned: list[dict[str, Any]]) -> dict[str, Any]:
        from dermascan.ingest.publishing import publish_manifest  # noqa: PLC0415  # fast parsing
        from dermascan.ingest.staging import IngestPlan  # noqa: PLC0415  # keeps parsing fast

        with open_archive() as archive:
            pointer = publish_manifest(
                open_store(),
                archive,
                IngestPlan(**planned[0]["plan"]),
                max_failed_share=params()["max_failed_share"],
            )
        leave_link(OBJECTS, f"objects/raw/{pointer.dataset}/manifests/")
        return asdict(pointer)

    @task(outlets=[PUBLICATION], executor_config=pod(worker_size()))
    def validate(published: dict[str, Any]) -> dict[str, Any]:
        from dermascan.dataset import DatasetPointer  # noqa: PLC0415  # keeps parsing fast
        from dermascan.run_notes import note_on_dataset  # noqa: PLC0415  # keeps parsing fast
        from dermascan.validation import validate  # noqa: PLC0415  # keeps parsing fast

        pointer = DatasetPointer(**published)
        result = validate(open_store(), pointer, INCLUDE / "expectations")
        place = f"datasets/{result.dataset}/{result.manifest}/data-docs/{result.suites}"
        leave_link(DATA_DOCS, f"{place}/index.html")
        result.require()
        leave_note(note_on_dataset(result))
        if params()["start_training"]:
            events = get_current_context()["outlet_events"]
            events[PUBLICATION].add(DATASET, extra=published)
        return {**published, "validation": result.summary()}

    planned = plan()
    published = publish_manifest(planned)
    shard.expand(work=planned) >> published
    links_to([planned, published], OBJECTS)
    links_to([validate(published)], DATA_DOCS)


ingest_isic()
