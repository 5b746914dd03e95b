"""The API against its own description, by schemathesis.

`DERMASCAN_SCHEMA_CASES=2000` tries so many cases of each operation.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from serving.service import publish, serving

TESTS = Path(__file__).parents[1]
CASES = int(os.environ.get("DERMASCAN_SCHEMA_CASES", "15"))
KEY = "correct horse battery"


@pytest.mark.timeout(300 + CASES)
def test_description_is_true_of_every_answer_that_is_provoked(
    store, tmp_path, record_testsuite_property
):
    publish(store, tmp_path, 0)
    with serving(store, key=KEY) as client:
        url = f"{client.base_url}/openapi.json"
        ended = run_schemathesis(url, tmp_path)

    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-2000:]
    found = re.search(r"(\d+) generated, (\d+) passed", ended.stdout)
    assert found, ended.stdout[-3000:]
    record_testsuite_property("cases", found[0])  # for the figures of a long run: --junitxml
    assert int(found[2]) >= CASES


def run_schemathesis(url: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [
        *(str(Path(sys.executable).parent / "schemathesis"), "run", url),
        *("--header", f"X-API-Key: {KEY}"),
        *("--phases", "examples,coverage,fuzzing", "--max-examples", str(CASES)),
        *("--checks", "all", "--continue-on-failure", "--seed", "1"),
        # A form has no types to violate: `images={}` is a file of two bytes. Too many of them are
        # 413, which the check does not take for a refusal.
        *("--exclude-checks", "negative_data_rejection"),
        *("--generation-database", "none", "--no-color"),
    ]
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    return subprocess.run(
        command,
        capture_output=True,
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": paths,
            "SCHEMATHESIS_HOOKS": "serving.schemathesis_hooks",
        },
        text=True,
        check=False,
    )
