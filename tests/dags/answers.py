"""Give the waiting tasks of the DAGs answers as Airflow would, and print what they do, as JSON."""

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

ANN = {"id": "7", "name": "ann"}


class Ti:
    """The part of a task instance that the tasks use."""

    id = uuid4()

    def __init__(self, offered):
        self._offered = offered

    def xcom_pull(self, task_ids):
        assert task_ids == "offer"
        return self._offered


def answer(option, user):
    return {
        "chosen_options": [option],
        "params_input": {},
        "responded_at": datetime.now(UTC),
        "responded_by_user": user,
        "timedout": user is None,
    }


def outcome(call):
    try:
        done = call()
    except BaseException as error:  # noqa: BLE001  # its name is the finding
        return type(error).__name__
    return {"options": done["chosen_options"], "by": done["responded_by_user"]}


def asked(task, context, hitl):
    """Let a task ask; return what it asked, and how it waits."""
    questions = []
    hitl.upsert_hitl_detail = lambda **question: questions.append(question)
    how = outcome(lambda: task.execute(context))
    (question,) = questions
    return {
        "how": how,
        "options": question["options"],
        "defaults": question["defaults"],
        "body": question["body"],
        "limited": task.response_timeout > timedelta(0),
    }


def main(folder: Path) -> None:
    from airflow.dag_processing.dagbag import DagBag  # noqa: PLC0415  # after the path is set
    from airflow.providers.standard.operators import hitl  # noqa: PLC0415

    sys.path.insert(0, str(folder))
    bags = {name: DagBag(folder / f"{name}.py") for name in ("train_model", "rollback_model")}
    approval = bags["train_model"].dags["train_model"].get_task("approval")
    choose = bags["rollback_model"].dags["rollback_model"].get_task("choose")
    context = {"task_instance": Ti(None), "ti": Ti({"versions": ["2", "1"], "body": "a table"})}
    facts = {
        "approval": {
            "asked": asked(approval, context, hitl),
            **{
                name: outcome(lambda e=event: approval.execute_complete({}, e))
                for name, event in {
                    "approved": answer("Approve", ANN),
                    "rejected": answer("Reject", ANN),
                    "timed out": answer(approval.defaults[0], None),
                }.items()
            },
        },
        "choose": {
            "asked": asked(choose, context, hitl),
            **{
                name: outcome(lambda e=event: choose.execute_complete(context, e))
                for name, event in {
                    "chosen": answer("1", ANN),
                    "invented": answer("99", ANN),
                    "timed out": answer(choose.defaults[0], None),
                }.items()
            },
        },
    }
    print(json.dumps(facts))  # noqa: T201  # read by the test


if __name__ == "__main__":
    main(Path(sys.argv[1]))
