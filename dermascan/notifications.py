"""Bucket notifications: which complete folder under `incoming/` a message tells of.

A message only says where to look. What is done follows from what the bucket holds, so that one
that is late, comes twice, or was sent by anybody else does no harm (see `dermascan.incoming`).

Source of the format: "Event message structure" in the Amazon S3 User Guide.
"""

import logging
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote_plus

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dermascan.errors import PermanentError
from dermascan.incoming import claim, is_started, look
from dermascan.layout import IncomingKeys
from dermascan.storage import Store

logger = logging.getLogger(__name__)

CREATED = "ObjectCreated:"
LONGEST_KEY = 1024  # bytes, by the S3 API
SHOWN = 200  # characters of a message that nobody understands


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class _Bucket(_Part):
    name: str


class _Object(_Part):
    key: str


class _Place(_Part):
    bucket: _Bucket
    object: _Object


class _Record(_Part):
    """One event; `object.key` is encoded as in a web form."""

    event: str = Field(alias="eventName")
    s3: _Place


class _Message(_Part):
    """What a store sends; its test events have no records."""

    records: list[Any] = Field(default=[], alias="Records")


def announced_folders(body: bytes | None) -> list[tuple[str, str]]:
    """Return the folders whose `_READY` was created, as bucket and prefix, each once.

    Whatever is no event of that kind is left out; what is no event at all is logged.

    Args:
        body: a message as it came: JSON in UTF-8, or anything else. None is an empty message.
    """
    found = ((event.s3.bucket.name, _folder_of(event)) for event in _events(body))
    return list(dict.fromkeys((bucket, prefix) for bucket, prefix in found if prefix))


def _events(body: bytes | None) -> Iterator[_Record]:
    try:
        message = _Message.model_validate_json(body or b"{}")
    except ValidationError:
        logger.warning("no bucket notification: %r", (body or b"")[:SHOWN])
        return
    for record in message.records:
        try:
            yield _Record.model_validate(record)
        except ValidationError:
            logger.warning("no event of a bucket: %s", repr(record)[:SHOWN])


def _folder_of(event: _Record) -> str | None:
    if not event.event.removeprefix("s3:").startswith(CREATED):
        return None
    key = unquote_plus(event.s3.object.key)
    name, _, _ = key.removeprefix(IncomingKeys.root).partition("/")
    prefix = f"{IncomingKeys.root}{name}/"
    if not name or key != IncomingKeys.ready(prefix):
        return None
    usable = key.isprintable() and len(key.encode()) <= LONGEST_KEY
    return prefix if usable else None


def claim_announced(store: Store, folders: list[tuple[str, str]]) -> list[str]:
    """Ask for a run over each folder that is complete now; return the states that wait for one.

    A state that waits already is among them: whoever asked first may have died before it told.

    Args:
        store: the bucket that is watched; folders of others are left out.
        folders: from `announced_folders`.

    Raises:
        TransientError: the store does not answer. The message must come again.
    """
    mine = [prefix for bucket, prefix in folders if bucket == store.bucket]
    return [state for prefix in mine if (state := _claim(store, prefix))]


def _claim(store: Store, prefix: str) -> str | None:
    try:
        state = look(store, prefix)
        if state is None or not state.complete:
            logger.info("%s was announced and is not complete", store.address(prefix))
            return None
        waits = claim(store, state) or not is_started(store, state.identifier)
    except PermanentError as error:
        logger.warning("%s was announced: %s", store.address(prefix), error)
        return None
    return state.identifier if waits else None
