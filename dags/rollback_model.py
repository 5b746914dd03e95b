"""### Make an earlier model version the champion again

Compares the files of the version with its manifest, moves `models/<model>/champion.json` to it,
and records who did it and why. No file of any version is touched, so rolling forward again is the
same move. One run moves the champion once, however often its tasks are tried; to move it again,
start another run.

| task | does |
|---|---|
| `offer` | lists the versions that were champion, unless the form named one |
| `choose` | waits on the page of required actions until somebody chooses; no answer in a day leaves everything as it is |
| `rollback` | moves the champion |

*Decision support for research. Not a medical device.*
"""

from __future__ import annotations

import os
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Metadata, Param, dag, get_current_context, task
from common import (
    DEFAULT_ARGS,
    EVALUATION_REPORT,
    MODEL,
    MODEL_CARD,
    OBJECTS,
    leave_documents,
    leave_note,
    links_to,
    name_param,
    open_store,
    params,
    run_address,
)

if TYPE_CHECKING:
    from airflow.sdk import Context

LEAVE = "Leave as it is"


class ChooseVersion(HITLOperator):
    """Offer the versions that the task `offer` found; Airflow asks for options in advance."""

    def execute(self, context: Context) -> None:
        """Ask, and wait without a worker."""
        self._offer(context)
        super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Take the answer, in another process than the one that asked."""
        self._offer(context)
        return super().execute_complete(context, event)

    def _offer(self, context: Context) -> None:
        offered = context["ti"].xcom_pull(task_ids="offer")
        self.options = [*offered["versions"], LEAVE]
        self.body = offered["body"]


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
            pattern=r"^(previous|\d+)?$",
            examples=["previous"],
            title="Version",
            description_md="Empty to choose among the earlier champions on the page of required "
            "actions; `previous` for the version before the present champion; or a number.",
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
    @task.branch
    def decide() -> str:
        return "rollback" if params()["to_version"] else "offer"

    @task
    def offer() -> dict[str, Any]:
        from dermascan.registry import rollback_choices  # noqa: PLC0415  # keeps parsing fast

        choices = rollback_choices(open_store(), params()["model"])
        return {"versions": [str(each.version) for each in choices.earlier], "body": choices.text()}

    @task(outlets=[MODEL], trigger_rule="none_failed_min_one_success")
    def rollback() -> Any:
        from airflow.sdk.exceptions import AirflowSkipException  # noqa: PLC0415  # fast parsing

        from dermascan.model_mirror import mirror_champion  # noqa: PLC0415  # keeps parsing fast
        from dermascan.registry import Decision, rollback  # noqa: PLC0415  # keeps parsing fast
        from dermascan.run_notes import note_on_rollback  # noqa: PLC0415  # keeps parsing fast

        wanted, by, version = params(), run_address(), params()["to_version"]
        if not version:
            answer = get_current_context()["ti"].xcom_pull(task_ids="choose")
            (version,) = answer["chosen_options"]
            if version == LEAVE:
                leave_note("The champion stays as it is.")
                raise AirflowSkipException("the champion stays as it is")
            by = answer["responded_by_user"]["name"]
        decision = Decision(by, f"{wanted['reason']} ({run_address()})", request=run_address())
        to_version = "" if version == "previous" else version
        champion = rollback(open_store(), wanted["model"], to_version, decision)
        if tracking_uri := os.environ.get("MLFLOW_TRACKING_URI"):
            mirror_champion(open_store(), wanted["model"], tracking_uri)
        place = f"models/{champion.model}/{champion.version}"
        leave_documents(place, f"{place}/")
        leave_note(note_on_rollback(champion.model, champion.version, by, wanted["reason"]))
        yield Metadata(MODEL, asdict(champion))
        return asdict(champion)

    offered = offer()
    choose = ChooseVersion(
        task_id="choose",
        subject="Which version shall be champion again?",
        options=[LEAVE],
        defaults=LEAVE,  # when nobody answers in time
        response_timeout=timedelta(days=1),
        retries=0,
    )
    decided, rolled_back = decide(), rollback()
    decided >> [offered, rolled_back]
    offered >> choose >> rolled_back
    links_to([rolled_back], EVALUATION_REPORT, MODEL_CARD, OBJECTS)


rollback_model()
