"""MLflow's model registry as a mirror of ours: versions, and the alias `champion`.

Object storage is the truth, and nothing reads the mirror back. What MLflow did not take is made
up for when the champion moves the next time.
"""

import json
import logging
from typing import TYPE_CHECKING

from dermascan.layout import ModelKeys
from dermascan.registry import CHAMPION, Champion, champion
from dermascan.storage import Store
from dermascan.tracking import connect, find_run
from dermascan.versions import CLAIM

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

VERSION_TAG = "dermascan.version"
_TRIES = 5


def mirror_champion(
    store: Store, model: str, tracking_uri: str, client: "MlflowClient | None" = None
) -> bool:
    """Let MLflow's alias `champion` of a registered model point to the present champion.

    The champion's version is registered if MLflow does not know it yet, with our number as the
    tag `dermascan.version` and the place of its files as source.

    Args:
        store: the bucket, whose pointer is followed.
        model: the model's name.
        tracking_uri: of the MLflow server.
        client: replaces the connection in tests.

    Returns:
        False if MLflow did not take it, which is logged and changes nothing in the bucket.
    """
    try:
        _follow(store, model, client or connect(tracking_uri))
    except Exception as error:  # noqa: BLE001  # a mirror must never undo a promotion
        summary = (str(error).splitlines() or [type(error).__name__])[0]
        logger.warning(
            "MLflow at %s does not show the champion of %s: %s. The champion is the one in object "
            "storage",
            tracking_uri,
            model,
            summary,
        )
        return False
    return True


def _follow(store: Store, model: str, client: "MlflowClient") -> None:
    for _ in range(_TRIES):
        current = champion(store, model)
        if current is None:
            return
        client.set_registered_model_alias(model, CHAMPION, _registered(store, client, current))
        if champion(store, model) == current:
            return  # else a later move may have been shown already, and was overwritten just now
    logger.warning("the champion of %s moves all the time: MLflow may be behind", model)


def _registered(store: Store, client: "MlflowClient", current: Champion) -> str:
    """Return MLflow's number of a version, registering model and version if they are new."""
    model, version = current.model, str(current.version)
    if not client.search_registered_models(f"name = '{model}'"):
        client.create_registered_model(model, description="A mirror: object storage is the truth")
    for known in client.search_model_versions(f"name = '{model}'"):
        if known.tags.get(VERSION_TAG) == version:
            return str(known.version)
    prefix = ModelKeys(model).version(current.version)
    claim = store.get_if_present(prefix + CLAIM)
    run = find_run(client, str(json.loads(claim)["training"])) if claim else None
    made = client.create_model_version(
        model,
        store.address(prefix),
        run_id=run.info.run_id if run else None,
        tags={VERSION_TAG: version},
        description=f"DermaScan version {version}",
        await_creation_for=0,
    )
    return str(made.version)
