"""Who may see what: those whom Airflow lets see the runs of the DAG that makes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import GetUserDep
from airflow.models.dag import DagModel
from fastapi import HTTPException, status

if TYPE_CHECKING:
    from airflow.api_fastapi.auth.managers.base_auth_manager import ResourceMethod
    from airflow.api_fastapi.auth.managers.models.base_user import BaseUser

DATASETS, MODELS, PREDICTIONS, ROLLBACK = (
    "ingest_isic",
    "train_model",
    "batch_inference",
    "rollback_model",
)


def may(user: BaseUser, dag_id: str, method: ResourceMethod = "GET") -> bool:
    """Tell whether Airflow lets a user see, or with `POST` start, the runs of a DAG."""
    details = DagDetails(id=dag_id, team_name=DagModel.get_team_name(dag_id))
    return get_auth_manager().is_authorized_dag(
        method=method, access_entity=DagAccessEntity.RUN, details=details, user=user
    )


def require_reader(*dag_ids: str) -> Callable[[BaseUser], BaseUser]:
    """Return a dependency that lets only those in who may see the runs of all these DAGs."""

    def required(user: GetUserDep) -> BaseUser:
        missing = [dag_id for dag_id in dag_ids if not may(user, dag_id)]
        if missing:
            raise HTTPException(
                status.HTTP_403_FORBIDDEN, f"you may not see the runs of {', '.join(missing)}"
            )
        return user

    return required
