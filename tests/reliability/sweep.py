"""Kill a task at each of its calls to object storage, run it again, and say what is wrong."""

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from reliability.dag_tasks import Chain, Stage
from reliability.killing_proxy import Kill
from reliability.objects import differences, go_back, take, torn
from reliability.readers import broken_promises


@dataclass(frozen=True)
class Finding:
    """Something wrong at one kill point, and what the call was."""

    kill: Kill
    call: str
    when: str
    what: str

    def __str__(self) -> str:
        point = f"{self.kill.moment} call {self.kill.call} ({self.call})"
        return f"killed {point}, {self.when}: {self.what}"


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

    Args:
        chain: the bucket, and what runs tasks.
        stage: the task, and the states before and after it.
        points: where to kill it.
        broken: name of a deliberate fault in `reliability.broken`.
    """
    for kill in points:
        go_back(chain.store, stage.before)
        killed = chain.runner.run(stage.order, kill, broken=broken)
        call = killed.calls[-1] if killed.calls else None
        named = f"{call.method} {call.key or call.path}" if call else "none"
        if not killed.killed:
            yield Finding(kill, named, "afterwards", "it ended before that call came")
            continue
        for what in torn(chain.store, stage.before, stage.after) + broken_promises(chain.store):
            yield Finding(kill, named, "before the next try", what)
        chain.runner.run(stage.order, broken=broken)
        for what in _wrong_in_the_end(chain, stage):
            yield Finding(kill, named, "after the next try", what)


def _wrong_in_the_end(chain: Chain, stage: Stage) -> list[str]:
    wrong = differences(chain.store, stage.after)
    model = stage.after.saved_model()
    if not wrong and model and stage.order.task == "train":
        found = take(chain.store).saved_model()
        if found != model and _digest(chain, found) != _digest(chain, model):
            wrong.append("the trained model has other weights or scores")
    return wrong


def _digest(chain: Chain, files: dict[str, bytes]) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        for name, body in files.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
        return chain.runner.digest(Path(folder))
