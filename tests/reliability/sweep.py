"""Kill a task at each of its calls to object storage, run it again, and say what is wrong."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from reliability.dag_tasks import Chain, Stage
from reliability.killing_proxy import Kill
from reliability.objects import differences, go_back, state, take, torn
from reliability.readers import broken_promises
from reliability.task_runner import TaskFailedError


@dataclass(frozen=True)
class Finding:
    """Something wrong at one kill point, and what the call was."""

    kill: Kill
    call: str
    what: str

    def __str__(self) -> str:
        point = f"{self.kill.moment} call {self.kill.call} ({self.call})"
        return f"killed {point}: {self.what}"


def all_points(stage: Stage) -> list[Kill]:
    """Return every point: before and after each call."""
    calls = range(1, len(stage.undisturbed.calls) + 1)
    return [Kill(number, moment) for number in calls for moment in ("before", "after")]


def sampled_points(stage: Stage, most: int) -> list[Kill]:
    """Return a few points, evenly spaced, each of which leaves the bucket in another state.

    The state changes with calls that write. Killed after a write, a task leaves what it would
    leave before the next one, and at every reading call in between.
    """
    calls = enumerate(stage.undisturbed.calls, start=1)
    points = [Kill(number, "after") for number, call in calls if call.writes]
    if len(points) <= most:
        return points
    return [points[round(i * (len(points) - 1) / max(most - 1, 1))] for i in range(most)]


def sweep(
    chain: Chain, stage: Stage, points: Iterable[Kill], broken: str | None = None
) -> Iterator[Finding]:
    """Yield what is wrong at any of the points.

    The next try depends on nothing but the bucket, so it is made once for each state in which a
    kill leaves it, and not again for a point that leaves a state known to be sound.

    Args:
        chain: the bucket, and what runs tasks.
        stage: the task, and the states before and after it.
        points: where to kill it.
        broken: name of a deliberate fault in `reliability.broken`.
    """
    sound: set[object] = set()
    for kill in points:
        go_back(chain.store, stage.before)
        killed = chain.runner.run(stage.order, kill, broken=broken)
        call = killed.calls[-1] if killed.calls else None
        named = f"{call.method} {call.key or call.path}" if call else "none"
        if not killed.killed:
            yield Finding(kill, named, "it ended before that call came")
            continue
        left = state(chain.store, stage.before)
        if left in sound:
            continue
        found = _wrong_in_between(chain, stage)
        try:
            chain.runner.run(stage.order, broken=broken)
            found += _wrong_in_the_end(chain, stage)
        except TaskFailedError as error:
            found.append(f"the next try fails: {error}")
        yield from (Finding(kill, named, what) for what in found)
        if not found:
            sound.add(left)


def _wrong_in_between(chain: Chain, stage: Stage) -> list[str]:
    wrong = torn(chain.store, stage.before, stage.after) + broken_promises(chain.store)
    return [f"before the next try: {line}" for line in wrong]


def _wrong_in_the_end(chain: Chain, stage: Stage) -> list[str]:
    wrong = differences(chain.store, stage.after)
    if not wrong and stage.order.task == "train":
        model = chain.digest(take(chain.store).saved_model())
        if model != chain.digest(stage.after.saved_model()):
            wrong.append("the trained model has other weights or scores")
    return [f"after the next try: {line}" for line in wrong]
