import subprocess
import sys

import pytest

PROGRAM = """
import multiprocessing, sys
from multiprocessing import forkserver
from types import SimpleNamespace

from dermascan_airflow.head_start import on_starting

method, component = sys.argv[1], SimpleNamespace(**dict.fromkeys(sys.argv[2:]))
multiprocessing.set_start_method(method)
on_starting(component=component)
print(forkserver._forkserver._forkserver_pid is not None)
"""


@pytest.mark.parametrize(
    ("arguments", "starts"),
    [(("forkserver", "job_type"), True), (("forkserver",), False), (("fork", "job_type"), False)],
    ids=["scheduler", "task", "other parts"],
)
def test_process_to_copy_is_started_with_the_scheduler_only(arguments, starts):
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, 'plugins')\n{PROGRAM}", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.stdout.strip().splitlines()[-1:], done.returncode) == ([str(starts)], 0), (
        done.stderr
    )
