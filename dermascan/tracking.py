"""Where training reports its parameters and figures: MLflow, or nowhere."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dermascan.fingerprint import Plain

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

FINGERPRINT_TAG = "dermascan.fingerprint"
_SECONDS_OF_SILENCE = 60.0
_MAX_VALUE_LENGTH = 500
_LIMITS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": 10, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": 1}


class Tracker(Protocol):
    """What training tells while it runs. No call may raise because nobody listens."""

    def log_params(self, params: Mapping[str, Plain]) -> None:
        """Note what was asked for; nested mappings become dotted names."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Note figures of one epoch; what is not finite is left out."""

    def log_artifact(self, path: Path) -> None:
        """Keep a small file."""

    def set_tag(self, name: str, value: str) -> None:
        """Note a fact, replacing what was noted under this name."""

    def finish(self) -> None:
        """Mark the run as successfully ended."""


class MlflowTracker:
    """Report to an MLflow server; work goes on without it.

    The run is found by a tag that holds the training's fingerprint, so that a retried task
    continues the run that the killed one began. After a failure the server is left alone for a
    minute; what should have been reported meanwhile is lost and said so in the log.

    Args:
        tracking_uri: of the server, such as `http://127.0.0.1:5000`.
        experiment: name, made if it does not exist.
        fingerprint: of the training.
        run_name: for people.
        clock: monotonic seconds; replaced in tests.
    """

    def __init__(
        self,
        tracking_uri: str,
        experiment: str,
        fingerprint: str,
        run_name: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._uri, self._experiment, self._fingerprint = tracking_uri, experiment, fingerprint
        self._run_name = run_name or fingerprint
        self._clock = clock
        self._silent_until = -math.inf
        self._client: MlflowClient | None = None
        self._run_id: str | None = None

    @property
    def page(self) -> str | None:
        """Return the address of the run's page, None if there is none or it is not known."""
        return run_page(self._uri, self._fingerprint, self._client) if self._run_id else None

    @property
    def run_id(self) -> str | None:
        """Return the run's identifier, None as long as the server was not reached."""
        return self._run_id

    def log_params(self, params: Mapping[str, Plain]) -> None:
        """Note what was asked for; nested mappings become dotted names."""
        flat = _flattened(params)

        def report(client: "MlflowClient", run_id: str) -> None:
            from mlflow.entities import Param  # noqa: PLC0415  # takes seconds to import

            values = [Param(k, str(v)[:_MAX_VALUE_LENGTH]) for k, v in flat.items()]
            client.log_batch(run_id, params=values)

        self.report("parameters", report)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Note figures of one epoch; what is not finite is left out."""
        now = round(time.time() * 1000)

        def report(client: "MlflowClient", run_id: str) -> None:
            from mlflow.entities import Metric  # noqa: PLC0415  # takes seconds to import

            finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
            values = [Metric(name, value, now, step) for name, value in finite.items()]
            client.log_batch(run_id, metrics=values)

        self.report(f"metrics of step {step}", report)

    def log_artifact(self, path: Path) -> None:
        """Keep a small file."""
        self.report(path.name, lambda client, run_id: client.log_artifact(run_id, str(path)))

    def set_tag(self, name: str, value: str) -> None:
        """Note a fact, replacing what was noted under this name."""
        self.report(f"tag {name}", lambda client, run_id: client.set_tag(run_id, name, value))

    def finish(self) -> None:
        """Mark the run as successfully ended."""
        self.report("the end", lambda client, run_id: client.set_terminated(run_id, "FINISHED"))

    def report(self, what: str, report: Callable[["MlflowClient", str], None]) -> None:
        """Tell the server something; if it does not take it, say so in the log and go on.

        Args:
            what: is told, for the log.
            report: called with a client and the run's identifier.
        """
        if self._clock() < self._silent_until:
            return
        try:
            client, run_id = self._connected()
            report(client, run_id)
        except Exception as error:  # noqa: BLE001  # tracking must never end a training
            self._silent_until = self._clock() + _SECONDS_OF_SILENCE
            summary = (str(error).splitlines() or [type(error).__name__])[0]
            logger.warning("MLflow at %s did not take %s: %s", self._uri, what, summary)

    def _connected(self) -> tuple["MlflowClient", str]:
        if self._client is None:
            self._client = connect(self._uri)
        if self._run_id is None:
            self._run_id = self._find_or_create_run(self._client)
        return self._client, self._run_id

    def _find_or_create_run(self, client: "MlflowClient") -> str:
        experiment = client.get_experiment_by_name(self._experiment)
        experiment_id = (
            experiment.experiment_id if experiment else client.create_experiment(self._experiment)
        )
        found = _find_run(client, [experiment_id], self._fingerprint)
        if found:
            run_id = str(found.info.run_id)
            client.update_run(run_id, status="RUNNING")
            return run_id
        tags = {FINGERPRINT_TAG: self._fingerprint}
        run = client.create_run(experiment_id, tags=tags, run_name=self._run_name)
        return str(run.info.run_id)


def connect(tracking_uri: str) -> "MlflowClient":
    """Return a client that gives up within seconds when nobody answers."""
    from mlflow import MlflowClient, environment_variables  # noqa: PLC0415  # 3 s to import

    for name, value in _LIMITS.items():
        getattr(environment_variables, name).set(value)
    return MlflowClient(tracking_uri)


def find_run(client: "MlflowClient", fingerprint: str) -> "Run | None":
    """Return the run of a training in whatever experiment, None if there is none."""
    experiments = [found.experiment_id for found in client.search_experiments()]
    return _find_run(client, experiments, fingerprint)


def _find_run(client: "MlflowClient", experiments: list[str], fingerprint: str) -> "Run | None":
    condition = f"tags.`{FINGERPRINT_TAG}` = '{fingerprint}'"
    return next(iter(client.search_runs(experiments, condition, max_results=1)), None)


def run_page(
    tracking_uri: str, fingerprint: str, client: "MlflowClient | None" = None
) -> str | None:
    """Return the address of a training's page in MLflow's user interface.

    Args:
        tracking_uri: of the server.
        fingerprint: of the training.
        client: replaces the connection in tests.

    Returns:
        None if MLflow is no server, does not answer, or has no such run.
    """
    if not tracking_uri.startswith(("http://", "https://")):
        return None
    try:
        run = find_run(client or connect(tracking_uri), fingerprint)
    except Exception as error:  # noqa: BLE001  # a link must never end a run
        logger.warning("MLflow at %s did not say where its run is: %s", tracking_uri, error)
        return None
    if run is None:
        return None
    path = f"experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    return f"{tracking_uri.rstrip('/')}/#/{path}"


def seen_from_outside(address: str, inside: str | None, outside: str | None) -> str:
    """Return an address of MLflow's pages as a browser reaches it.

    Args:
        address: of a page, or of something else, which stays as it is.
        inside: of MLflow, for those who work beside it, as in a network of containers.
        outside: of MLflow, for people; None if it is the same.
    """
    if not inside or not outside:
        return address
    inside, outside = inside.rstrip("/"), outside.rstrip("/")
    return outside + address.removeprefix(inside) if address.startswith(f"{inside}/") else address


def _flattened(params: Mapping[str, Plain], prefix: str = "") -> dict[str, Plain]:
    flat: dict[str, Plain] = {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            flat.update(_flattened(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat
