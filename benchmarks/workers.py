"""An ingest from an archive that answers late, by one, two and four workers.

    .venv/bin/python -m benchmarks.workers [IMAGES [MILLISECONDS]]

A worker is a slot of Airflow's default pool on the embedded stack. The images are tiny, and each
answer of the archive is held back, so that what is waited for is the archive more than the cores,
which all workers share here.
"""

import argparse
import logging
import tempfile
from pathlib import Path

from benchmarks.ingest import served_archive
from benchmarks.scale import own_stack, walkthrough
from benchmarks.tiny_archive import write_tiny_archive
from dermascan.stack.airflow_api import AirflowApi
from dermascan.stack.runs import RunOutcome
from dermascan.walkthrough import Session

WORKERS = (1, 2, 4)
IMAGES = 24_000  # twelve shards: three for each of four workers
MILLISECONDS = 200
POOL = "default_pool"
MOVING = ("shard.download_from_isic", "shard.upload_to_s3")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers")
    parser.add_argument("images", type=int, nargs="?", default=IMAGES)
    parser.add_argument("milliseconds", type=int, nargs="?", default=MILLISECONDS)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dermascan-workers-") as name:
        state = Path(name)
        write_tiny_archive(state / "tiny", wanted.images)
        stack = own_stack(state)
        with (
            walkthrough(stack).begin() as session,
            served_archive(state, state / "tiny", wanted.milliseconds) as url,
            session.archive_at(url),
            stack.airflow_api() as api,
        ):
            runs = [_ingested(session, api, workers) for workers in WORKERS]
    print(f"\n{wanted.images:,} images, {wanted.milliseconds} ms of latency\n\n{_table(runs)}")


def _ingested(session: Session, api: AirflowApi, workers: int) -> RunOutcome:
    api.resize_pool(POOL, workers)
    return session.trigger("ingest_isic", {"dataset": f"by-{workers}", "start_training": False})


def _table(runs: list[RunOutcome]) -> str:
    """Return seconds and ratios: of the whole run, and of the time in which files move."""
    lines = ["| workers | whole run, s | | files moving, s | |", "|---:|---:|---:|---:|---:|"]
    whole, moving = runs[0].seconds, _moving(runs[0])
    for workers, run in zip(WORKERS, runs, strict=True):
        figures = (run.seconds, whole / run.seconds, _moving(run), moving / _moving(run))
        lines.append("| {} | {:.0f} | {:.2f}x | {:.0f} | {:.2f}x |".format(workers, *figures))
    return "\n".join(lines)


def _moving(run: RunOutcome) -> float:
    """Return seconds from the start of the first task that moves files to the end of the last."""
    tasks = [task for task in run.tasks if task.task_id in MOVING]
    spans = [(t.start_date.timestamp(), t.duration or 0.0) for t in tasks if t.start_date]
    return max(sum(span) for span in spans) - min(start for start, _ in spans)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    main()
