"""How to start the HTTP API on loopback, on the embedded object storage."""

import sys
from collections.abc import Mapping

from dermascan.settings import StorageSettings
from dermascan.stack.environment import without
from dermascan.stack.object_store import LOOPBACK
from dermascan.stack.processes import Launch

NAME = "serving"


def launch(storage: StorageSettings, port: int, inherited: Mapping[str, str]) -> Launch:
    """Return the command and environment of the API.

    Args:
        storage: where the champion is.
        port: to listen on.
        inherited: environment of the caller; its `DERMASCAN_SERVING_*` variables are limits.
    """
    command = [
        *(sys.executable, "-m", "dermascan", "serve"),
        *("--host", LOOPBACK, "--port", str(port)),
    ]
    secret = storage.secret_access_key
    environment = {
        **without(inherited, "AWS_"),
        "TF_CPP_MIN_LOG_LEVEL": "3",  # a machine without a GPU is no error for a log
        "DERMASCAN_BUCKET": storage.bucket,
        "AWS_ENDPOINT_URL": storage.endpoint_url or "",
        "AWS_DEFAULT_REGION": storage.region,
        "AWS_ACCESS_KEY_ID": storage.access_key_id or "",
        "AWS_SECRET_ACCESS_KEY": secret.get_secret_value() if secret else "",
    }
    return Launch(NAME, command, environment)
