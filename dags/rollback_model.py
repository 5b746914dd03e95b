"""### Make an earlier model version the champion again

Moves `models/<model>/champion.json` to the version given and records who did it. No file
of any version is touched, so rolling forward again is the same move. One run moves the
champion once, however often its task is tried; to move it again, start another run.

*Decision support for research. Not a medical device.*
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from airflow.sdk import Metadata, Param, dag, task
from common import DEFAULT_ARGS, MODEL, name_param, open_store, params, run_address


@dag(
    dag_display_name="Roll back the model",
    schedule=None,
    catchup=False,
    default_args=DEFAULT_ARGS,
    doc_md=__doc__,
    tags=["dermascan", "model"],
    params={
        "to_version": Param(
            None,
            type=["null", "string"],
            pattern=r"^\d*$",
            title="Version",
            description_md="A number from `dermascan models list`. Empty means the version "
            "before the present champion.",
        ),
        "model": name_param("dermascan", "Model", "Name of the model."),
        "reason": Param(
            "rolled back by hand",
            type="string",
            maxLength=500,
            title="Reason",
            description_md="Kept in the history of the model.",
        ),
    },
)
def rollback_model() -> None:
    @task(outlets=[MODEL])
    def rollback() -> Any:
        from dermascan.registry import Decision, rollback  # noqa: PLC0415  # keeps parsing fast

        wanted = params()
        decision = Decision(run_address(), wanted["reason"], request=run_address())
        champion = asdict(
            rollback(open_store(), wanted["model"], wanted["to_version"] or "", decision)
        )
        yield Metadata(MODEL, champion)
        return champion

    rollback()


rollback_model()
