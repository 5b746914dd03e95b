"""### Start a run for every folder that arrives

The asset `dermascan_incoming` has a watcher, which looks under `incoming/` of the bucket of the
connection `dermascan_s3`, and another one, which reads the bucket's notifications, if
`DERMASCAN_KAFKA_TOPIC` names their topic. A folder is complete when `_READY` is the newest object in it, or
when nothing in it has changed for a while (`DERMASCAN_INCOMING_QUIET_SECONDS`, 300 by
default). This DAG then starts `batch_inference` for it, exactly once.

| task | does | leaves |
|---|---|---|
| `find` | lists the folders that wait for their run | |
| `start` | starts a run for a folder, unless it was started before | a run of `batch_inference`, named by the folder and what is in it |
| `acknowledge` | notes what was started | `incoming-watch/started/` |

Pause this DAG to switch the watcher off. What arrives meanwhile is started when it is on again.

*Decision support for research. Not a medical device.*
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, ClassVar

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import Asset, AssetWatcher, TriggerRule, dag, task
from common import DEFAULT_ARGS, open_store, states_of
from incoming_trigger import IncomingTrigger

from dermascan.settings import KAFKA_CONNECTION, topic_from_environment, watch_from_environment


def watchers() -> list[AssetWatcher]:
    """Return the watcher of the bucket, and the one of its notifications if they have a topic."""
    looking = IncomingTrigger(**watch_from_environment().model_dump())
    found = [AssetWatcher(name="dermascan_incoming", trigger=looking)]
    if topic := topic_from_environment():
        from airflow.providers.common.messaging.triggers.msg_queue import (  # noqa: PLC0415  # a second, which most need not spend
            MessageQueueTrigger,
        )

        reading = MessageQueueTrigger(
            scheme="kafka",
            topics=[topic],
            kafka_config_id=KAFKA_CONNECTION,
            apply_function="incoming_trigger.claim_announced",
            poll_interval=0,  # a pause after each message that announces nothing
        )
        found.append(AssetWatcher(name="dermascan_notifications", trigger=reading))
    return found


INCOMING = Asset("dermascan_incoming", watchers=watchers())

STARTED = {"success", "skipped"}  # skipped: the run was there already


class StartRun(TriggerDagRunOperator):
    """Starts a run, and takes the name of a folder for what it is: not for a template."""

    template_fields = ()
    template_fields_renderers: ClassVar[dict[str, str]] = {}


def run_of(found: dict[str, Any]) -> dict[str, Any]:
    from dermascan.incoming import Claim  # noqa: PLC0415  # keeps parsing fast

    claim = Claim(**found)
    return {
        "trigger_run_id": claim.run_id,
        "conf": {"prefix": claim.address},
        "note": claim.note,
    }


@dag(
    dag_display_name="Watch incoming folders",
    schedule=[INCOMING],
    catchup=False,
    max_active_runs=1,  # the claims that one run works off are not for another
    default_args={**DEFAULT_ARGS, "priority_weight": 10},
    doc_md=__doc__,
    tags=["dermascan", "inference"],
)
def watch_incoming() -> None:
    @task
    def find() -> list[dict[str, Any]]:
        from dermascan.incoming import pending_claims  # noqa: PLC0415  # keeps parsing fast

        return [asdict(claim) for claim in pending_claims(open_store())]

    @task(trigger_rule=TriggerRule.ALL_DONE)
    def acknowledge(found: list[dict[str, Any]] | None) -> None:
        from dermascan.errors import PermanentError  # noqa: PLC0415  # keeps parsing fast
        from dermascan.incoming import Claim, acknowledge  # noqa: PLC0415  # keeps parsing fast

        if found is None:
            raise PermanentError("nobody knows which folders wait: see the log of `find`")
        states = states_of("start")
        claims = [Claim(**claim) for claim in found]
        started = [c for index, c in enumerate(claims) if states.get(f"start_{index}") in STARTED]
        acknowledge(open_store(), started)
        if left := [claim.address for claim in claims if claim not in started]:
            raise PermanentError(f"not started, see the logs of `start`: {', '.join(left)}")

    found = find()
    start = StartRun.partial(
        task_id="start",
        trigger_dag_id="batch_inference",
        logical_date=None,  # so that only its identifier tells one run from another
        skip_when_already_exists=True,
        map_index_template="{{ task.conf['prefix'] }}",
    ).expand_kwargs(found.map(run_of))
    start >> acknowledge(found)


watch_incoming()
