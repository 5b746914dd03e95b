"""Ask the running parts of the stack whether they are fit to be used."""

import logging
from collections.abc import Mapping
from datetime import datetime
from types import TracebackType
from typing import Self

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from dermascan.stack import airflow, mlflow, object_store, serving
from dermascan.stack.object_store import LOOPBACK
from dermascan.stack.ports import Ports
from dermascan.stack.processes import ProcessRecord

logger = logging.getLogger(__name__)


class _Component(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")

    status: str | None = None
    latest_scheduler_heartbeat: datetime | None = None
    latest_triggerer_heartbeat: datetime | None = None
    latest_dag_processor_heartbeat: datetime | None = None

    @property
    def heartbeat(self) -> datetime | None:
        return (
            self.latest_scheduler_heartbeat
            or self.latest_triggerer_heartbeat
            or self.latest_dag_processor_heartbeat
        )


class _AirflowHealth(BaseModel):
    model_config = ConfigDict(frozen=True)

    scheduler: _Component
    triggerer: _Component
    dag_processor: _Component

    def beats(self, record: ProcessRecord) -> bool:
        component = {
            airflow.SCHEDULER: self.scheduler,
            airflow.TRIGGERER: self.triggerer,
            airflow.DAG_PROCESSOR: self.dag_processor,
        }[record.name]
        # A heartbeat from before the last start may be fresh enough for Airflow.
        fresh = component.heartbeat is not None and component.heartbeat >= record.since
        return fresh and component.status == "healthy"


class HealthProbe:
    """Look at the parts of one stack, over HTTP on loopback.

    Args:
        ports: where the parts listen.
    """

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._client = httpx.Client(timeout=5, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def healthy(self, running: Mapping[str, ProcessRecord]) -> set[str]:
        """Return the names of the parts that answer as they should.

        Args:
            running: the parts whose processes run, by name.
        """
        answering = set()
        if object_store.NAME in running and self._object_store_answers():
            answering.add(object_store.NAME)
        if mlflow.NAME in running and self._mlflow_answers():
            answering.add(mlflow.NAME)
        if serving.NAME in running and self._api_answers():
            answering.add(serving.NAME)
        found = self._airflow_health() if airflow.API_SERVER in running else None
        if found is not None:
            answering.add(airflow.API_SERVER)
            others = [running[name] for name in airflow.WITHOUT_PORT if name in running]
            answering |= {record.name for record in others if found.beats(record)}
        return answering

    def _object_store_answers(self) -> bool:
        response = self._get(self._ports.s3, "/")
        return response is not None and not response.is_server_error

    def _mlflow_answers(self) -> bool:
        response = self._get(self._ports.mlflow, "/health")
        return response is not None and response.is_success

    def _api_answers(self) -> bool:
        response = self._get(self._ports.serving, "/healthz")
        return response is not None and response.is_success

    def _airflow_health(self) -> _AirflowHealth | None:
        response = self._get(self._ports.airflow, "/api/v2/monitor/health")
        # Tasks talk to this half of the server, which builds itself when first asked.
        tasks = self._get(self._ports.airflow, "/execution/health/ping")
        if response is None or tasks is None or tasks.is_server_error:
            return None
        try:
            return _AirflowHealth.model_validate_json(response.content)
        except ValidationError as error:
            logger.debug("Airflow's health cannot be read: %s", error)
            return None

    def _get(self, port: int, path: str) -> httpx.Response | None:
        try:
            return self._client.get(f"http://{LOOPBACK}:{port}{path}")
        except httpx.HTTPError as error:
            logger.debug("port %d does not answer: %s", port, error)
            return None
