"""The list of finished batch-inference runs, the latest first, that pages read.

An entry is a small object of its own, named by the time that is left until a far day, so that one
listing of a few keys gives the latest runs however many there are. Nothing is ever rewritten but
by the same run with the same content: the time is claimed once for a run and kept. An entry is
there before the run's `_SUCCESS`, so that no complete run is missing; readers pass over a run
without `_SUCCESS`.
"""

import json
import logging
from collections.abc import Hashable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic import Base64Bytes, BaseModel, ConfigDict

from dermascan.errors import NotFoundError
from dermascan.fingerprint import canonical_json, sha256_hex
from dermascan.imaging import ImageRefusedError, thumbnail
from dermascan.inference.digest import BatchDigest
from dermascan.layout import latest_prediction, prediction_time
from dermascan.storage import Store

if TYPE_CHECKING:
    from dermascan.inference.batch import BatchPlan

logger = logging.getLogger(__name__)

SHOWN_IMAGES = 8
SHOWN_SIDE = 112


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class ShownImage(_Frozen):
    """One of the images that a run found most suspicious.

    Attributes:
        key: of the image, in the run's own bucket.
        p_malignant: 0 to 1.
        label: `malignant` or `benign`.
        thumbnail: a JPEG of at most `SHOWN_SIDE` pixels, without metadata; None if the image was
            gone or changed when the run ended.
    """

    key: str
    p_malignant: float
    label: str
    thumbnail: Base64Bytes | None = None


class PredictionEntry(_Frozen):
    """What pages show of one run.

    Attributes:
        run: its name, which leads to its results.
        prefix: `s3://` address of what was scored.
        model, version: what scored it.
        finished: when its results were first complete, UTC.
        scored, rejected: number of objects.
        malignant: how many of the scored were labelled so.
        threshold: `p_malignant` from which they were; None if nothing was scored.
        highest: the images of highest risk, the highest first.
    """

    run: str
    prefix: str
    model: str
    version: int
    finished: datetime
    scored: int
    rejected: int
    malignant: int
    threshold: float | None
    highest: tuple[ShownImage, ...]


def finished_time(store: Store, run: str) -> datetime:
    """Return when the run was finished: now, unless a try before said so already."""
    key = prediction_time(run)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    store.put_if_absent(key, canonical_json({"finished": now}), "application/json")
    return datetime.fromisoformat(json.loads(store.get(key))["finished"])


def index_predictions(
    store: Store, plan: "BatchPlan", digest: BatchDigest, finished: datetime
) -> None:
    """List a run among the latest; call it when its results are stored, before `_SUCCESS`.

    Args:
        store: the bucket that receives predictions.
        plan: of the run.
        digest: of its predictions.
        finished: when, from `finished_time`.
    """
    images = store.in_bucket(plan.bucket)
    highest = digest.shown.head(SHOWN_IMAGES).to_dict("records")
    entry = PredictionEntry(
        run=plan.run,
        prefix=plan.prefix,
        model=plan.model,
        version=plan.version,
        finished=finished,
        scored=digest.scored,
        rejected=digest.rejected,
        malignant=digest.malignant,
        threshold=float(digest.thresholds[0]) if digest.scored else None,
        highest=tuple(_shown(images, row) for row in highest),
    )
    body = entry.model_dump_json().encode()
    store.put(latest_prediction(finished, plan.run), body, "application/json")


def _shown(images: Store, row: Mapping[Hashable, Any]) -> ShownImage:
    return ShownImage.model_construct(  # which takes bytes as they are, and not encoded
        key=row["image_key"],
        p_malignant=row["p_malignant"],
        label=row["label"],
        thumbnail=_thumbnail(images, row["image_key"], row["sha256"]),
    )


def _thumbnail(images: Store, key: str, sha256: str) -> bytes | None:
    try:
        data = images.get(key)
        return thumbnail(data, SHOWN_SIDE) if sha256_hex(data) == sha256 else None
    except (NotFoundError, ImageRefusedError) as error:
        logger.warning("%s has no thumbnail: %s", images.address(key), error)
        return None
