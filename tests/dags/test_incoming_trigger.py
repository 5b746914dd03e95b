import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

from stacks import connection_to, wait_until

from dermascan.incoming import claimed_states
from dermascan.storage import Store

PLUGINS = Path(__file__).parents[2] / "plugins"


def test_trigger_when_the_bucket_comes_late_goes_on_and_tells_of_what_is_in_it(
    storage_settings, tmp_path
):
    settings = storage_settings.model_copy(update={"bucket": f"late-{uuid.uuid4().hex[:12]}"})
    store = Store(settings)
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW_CONN_DERMASCAN_S3": connection_to(settings),
    }
    command = [sys.executable, str(Path(__file__).with_name("watch.py")), str(PLUGINS)]
    log = tmp_path / "log"  # where Airflow's logging writes too
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, env=environment) as run:
        try:
            wait_until(lambda: "incoming/ is looked at again" in log.read_text(), 120, "no warning")
            assert run.poll() is None
            store.ensure_bucket()
            for name in ("1.jpg", "_READY"):
                store.put(f"incoming/a/{name}", b"image")
            assert run.wait(timeout=60) == 0
        finally:
            run.kill()

    told = json.loads(log.read_text().splitlines()[-1])
    assert set(told["states"]) == claimed_states(store)
    assert len(claimed_states(store)) == 1
