"""The server with the stand-in model, as a process of its own, so that a crash is seen as one.

DERMASCAN_BUCKET=... AWS_...=... python -m serving.hostile_server PORT
"""

import sys

import uvicorn
from serving.service import GENEROUS, keeper_of

from dermascan.serving.app import create_app
from dermascan.serving.metrics import Metrics
from dermascan.serving.server import server_options
from dermascan.settings import settings_from_environment
from dermascan.storage import Store


def main() -> None:
    """Serve until killed."""
    metrics = Metrics()
    keeper = keeper_of(Store(settings_from_environment().storage), metrics, GENEROUS)
    app = create_app(keeper, metrics, GENEROUS)
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", **server_options(None))


if __name__ == "__main__":
    main()
