"""One of several processes that promote and roll back at once; told what to do by arguments.

Waits for a line on standard input, so that all begin together, and prints one JSON object: for
each request whether it was fulfilled, had nothing to do, or lost.
"""

import json
import os
import random
import sys

from pydantic import SecretStr

from dermascan.errors import ConflictError, InputError, NotFoundError
from dermascan.registry import Decision, promote, rollback
from dermascan.settings import StorageSettings
from dermascan.storage import Store


def attempt(store: Store, model: str, version: int | None, decision: Decision) -> str:
    try:
        if version is None:
            rollback(store, model, "", decision)
            return "done"
        return "moved" if promote(store, model, version, decision) else "nothing to do"
    except ConflictError:
        return "lost"
    except (InputError, NotFoundError):  # no champion, or none before it
        return "nothing to do"


def main(endpoint: str, bucket: str, model: str, name: str, requests: int) -> None:
    secret = SecretStr(os.environ["TEST_SECRET"])
    settings = StorageSettings(
        bucket=bucket,
        endpoint_url=endpoint,
        access_key_id="tests",
        secret_access_key=secret,
    )
    store = Store(settings)
    chance = random.Random(name)
    print("ready", flush=True)  # noqa: T201  # read by the test
    sys.stdin.readline()
    outcomes = {}
    for number in range(requests):
        request = f"{name}-{number}"
        version = chance.choice([1, 2, 3, 4, 5, None])
        outcomes[request] = attempt(store, model, version, Decision(name, "race", request))
    print(json.dumps(outcomes), flush=True)  # noqa: T201  # read by the test


if __name__ == "__main__":
    main(*sys.argv[1:5], int(sys.argv[5]))
