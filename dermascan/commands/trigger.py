"""The command that starts a DAG and shows how it goes."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Self

import typer

from dermascan.commands.shared import INTERRUPTED, console, open_stack
from dermascan.progress import format_seconds

if TYPE_CHECKING:
    from rich.console import RenderableType

    from dermascan.stack.airflow_api import Run, Task
    from dermascan.stack.runs import RunOutcome


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(trigger)


def trigger(  # noqa: PLR0913  # each is an option of the command
    context: typer.Context,
    dag_id: str,
    *,
    param: Annotated[
        list[str] | None, typer.Option("--param", "-p", help="name=value; may be repeated.")
    ] = None,
    run_id: Annotated[str | None, typer.Option(help="Name of the run.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show progress until the run ends.")] = False,
    timeout: Annotated[
        float | None, typer.Option(help="With --wait: give up after so many seconds.")
    ] = None,
) -> None:
    """Start a run of a DAG. With --wait, exit code 0 if it succeeds and 1 if it fails."""
    from dermascan.stack import runs  # noqa: PLC0415  # fast `--help`

    stack = open_stack(context)
    stack.require_running()
    with stack.airflow_api() as api:
        dag = runs.wait_for_dag(api, dag_id, stack.since("dag-processor"))
        conf = runs.read_params(param or [], api.params(dag_id))
        run = runs.trigger(api, dag, conf, run_id)
        url = runs.run_url(api, run.dag_id, run.dag_run_id)
        if not wait:
            typer.echo(f"{dag_id}: started {run.dag_run_id}, see {url}")
            return
        try:
            with observer() as watcher:
                outcome = runs.watch(
                    api, run, watcher, check=stack.require_running, timeout=timeout
                )
        except KeyboardInterrupt as interrupt:
            typer.echo(f"no longer watching; the run goes on, see {url}", err=True)
            raise typer.Exit(INTERRUPTED) from interrupt
    show_outcome(outcome)
    if not outcome.succeeded:
        raise typer.Exit(1)


def observer() -> "PlainObserver":
    """Return an observer that draws on a terminal, or writes lines where there is none."""
    return LiveObserver() if console().is_terminal else PlainObserver()


def show_outcome(outcome: "RunOutcome") -> None:
    """Say how a run ended, with the end of the log of each task that failed."""
    for task in outcome.failed:
        typer.secho(f"--- {task.label}: last lines of its log", fg=typer.colors.RED)
        for line in task.lines:
            typer.echo(line)
    colour = typer.colors.GREEN if outcome.succeeded else typer.colors.RED
    took = format_seconds(outcome.seconds)
    typer.secho(f"{outcome.dag_id}: {outcome.state} in {took}, see {outcome.url}", fg=colour)


class PlainObserver:
    """Writes one line for each change of a task's state."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def started(self, run: "Run", url: str) -> None:
        """Say which run was started."""
        typer.echo(f"{run.dag_id}: started {run.dag_run_id}, see {url}")

    def progressed(self, tasks: "Sequence[Task]", changed: "Sequence[Task]") -> None:
        """Write a line for each task whose state is new."""
        del tasks
        now = datetime.now().astimezone().strftime("%H:%M:%S")
        for task in changed:
            took = f" in {task.duration:.1f} s" if task.state in ENDED and task.duration else ""
            again = f", try {task.try_number}" if task.try_number > 1 else ""
            typer.echo(f"{now} {task.label}: {task.state}{took}{again}")


ENDED = ("success", "failed", "up_for_retry")


class LiveObserver(PlainObserver):
    """Draws a table of the tasks that is kept up to date."""

    def __init__(self) -> None:
        from rich.live import Live  # noqa: PLC0415  # fast `--help`

        self._live = Live(console=console(), refresh_per_second=4)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def started(self, run: "Run", url: str) -> None:
        """Say which run was started, above the table."""
        self._live.console.print(f"{run.dag_id}: started {run.dag_run_id}, see {url}")

    def progressed(self, tasks: "Sequence[Task]", changed: "Sequence[Task]") -> None:
        """Draw the table anew."""
        del changed
        self._live.update(task_table(tasks))


COLOURS = {
    "success": "green",
    "running": "cyan",
    "failed": "red",
    "upstream_failed": "red",
    "up_for_retry": "yellow",
    "skipped": "magenta",
}


def task_table(tasks: "Sequence[Task]") -> "RenderableType":
    """Return a table with one row for each task: counts by state, seconds spent."""
    from rich.table import Table  # noqa: PLC0415  # fast `--help`

    table = Table("task", "state", "time", box=None, pad_edge=False)
    for task_id in dict.fromkeys(task.task_id for task in tasks):
        instances = [task for task in tasks if task.task_id == task_id]
        counts = Counter(task.state or "waiting" for task in instances)
        states = ", ".join(
            f"[{COLOURS.get(state, 'dim')}]{state if len(instances) == 1 else f'{n} {state}'}[/]"
            for state, n in counts.items()
        )
        seconds = sum(task.duration or 0 for task in instances)
        table.add_row(task_id, states, f"{seconds:.1f} s" if seconds else "")
    return table
