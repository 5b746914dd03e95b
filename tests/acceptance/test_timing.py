from datetime import UTC, datetime, timedelta

from dermascan.acceptance.machine import Machine
from dermascan.acceptance.timing import TaskTimes, dag_times
from dermascan.stack.airflow_api import Task
from dermascan.walkthrough import PastRun

START = datetime(2026, 1, 31, tzinfo=UTC)


def task(task_id, duration, map_index=-1, state="success", start=0) -> Task:
    return Task(
        task_id=task_id,
        map_index=map_index,
        state=state,
        try_number=1,
        duration=duration,
        start_date=START + timedelta(seconds=start),
    )


def test_dag_times_when_a_run_was_repeated_shows_the_time_of_the_work_and_of_the_repetition():
    worked = PastRun(60.0, (task("plan", 2.0), task("shard.get", 30.0, 0), task("shard.get", 9, 1)))
    repeated = PastRun(8.0, (task("plan", 3.0), task("shard.get", 1, 0), task("shard.get", 2, 1)))

    times = dag_times("ingest", [worked, repeated])

    assert (times.longest, times.latest, times.runs) == (60.0, 8.0, 2)
    assert times.tasks == (TaskTimes("plan", 1, 3.0, 3.0), TaskTimes("get", 2, 9.0, 30.0))


def test_dag_times_when_a_run_failed_halfway_counts_what_was_done_in_it():
    broken = PastRun(600.0, (task("train", 500.0), task("evaluate", 100.0, state="failed")))
    mended = PastRun(40.0, (task("train", 3.0), task("evaluate", 30.0)))

    times = dag_times("train_model", [broken, mended])

    assert [(each.name, each.longest) for each in times.tasks] == [
        ("train", 500.0),
        ("evaluate", 30.0),
    ]


def test_dag_times_lists_tasks_in_the_order_of_their_start():
    late, early = task("promote", 1.0, start=9), task("split", 2.0, start=1)

    times = dag_times("train_model", [PastRun(10.0, (late, early))])

    assert [each.name for each in times.tasks] == ["split", "promote"]


def test_dag_times_leaves_out_tasks_that_did_not_run():
    times = dag_times("train_model", [PastRun(1.0, (task("approval", None, state="skipped"),))])

    assert times.tasks == ()


def test_machine_tells_what_it_is_and_not_which_one():
    import platform  # noqa: PLC0415  # only to know what must not be told

    text = str(Machine.here())

    assert "TensorFlow 2." in text
    assert platform.python_version() in text
    assert " GiB" in text
    assert platform.node() not in text
