"""Calls to object storage: which failures may pass, how long to try, what to say in the end."""

import logging
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)

from dermascan.errors import (
    DermaScanError,
    InputError,
    IntegrityError,
    NotFoundError,
    TransientError,
)
from dermascan.settings import StoragePatience

logger = logging.getLogger(__name__)

READS_OF_CORRUPT_BYTES = 3
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 15.0

_ABSENT = frozenset({"NoSuchKey", "NoSuchBucket", "404"})
# Refusals that speak of this one transfer: bytes that changed or went missing on the way, an
# upload whose completion was answered but not heard, two writes at the same instant.
_PASSING_REFUSALS = frozenset(
    {
        "BadDigest",
        "ConditionalRequestConflict",
        "IncompleteBody",
        "InvalidDigest",
        "MalformedXML",
        "NoSuchUpload",
        "OperationAborted",
        "RequestTimeout",
        "XAmzContentChecksumMismatch",
        "XAmzContentSHA256Mismatch",
    }
)
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>")

R = TypeVar("R")


class CorruptBytesError(Exception):
    """Bytes were read that are not those that were promised; the line may be to blame."""


@dataclass(frozen=True)
class Caller:
    """Tries operations again while their failures may pass.

    Attributes:
        endpoint: the server's address, for messages.
        patience: how long failures may go on.
        sleep: waits that many seconds; replaced in tests.
        clock: monotonic seconds; replaced in tests.
    """

    endpoint: str
    patience: StoragePatience
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    def __call__(self, operation: Callable[[], R], verb: str, address: str) -> R:
        """Return what the operation returns.

        Args:
            operation: one request or a few; safe to repeat.
            verb: what it does, for messages.
            address: the object that it is about, for messages.

        Raises:
            NotFoundError: the object does not exist.
            InputError: the server refuses.
            TransientError: failures that may pass went on for as long as patience lasts.
            AlreadyExistsError, PreconditionError: a condition of the write is not met.
        """
        started, failures, give_up_at = self.clock(), 0, None
        while True:
            try:
                return operation()
            except Exception as error:
                trouble = translated(error, address)
                if not isinstance(trouble, TransientError):
                    raise trouble from (None if trouble is error else error)
                failures += 1
                now = self.clock()
                give_up_at = give_up_at or now + self.patience.retry_seconds
                pause = _pause_seconds(failures)
                if now + pause > give_up_at:
                    message = self._given_up(verb, address, failures, now - started)
                    raise TransientError(f"{message}: {trouble}") from error
                logger.info("%s %s failed, once more in %.1f s: %s", verb, address, pause, trouble)
            self.sleep(pause)

    def _given_up(self, verb: str, address: str, failures: int, seconds: float) -> str:
        times = "once" if failures == 1 else f"{failures} times"
        return (
            f"{address}: waited {seconds:.1f} s for {self.endpoint} to {verb} it, "
            f"which failed {times}; is the object storage up? The last failure"
        )


def read_until_sound(read: Callable[[], R], address: str) -> R:
    """Return what a read returns, reading again if its bytes were not the promised ones.

    Raises:
        IntegrityError: they were not, however often they were read.
    """
    for _ in range(READS_OF_CORRUPT_BYTES):
        try:
            return read()
        except CorruptBytesError as error:
            reason = str(error)
            logger.warning("%s: %s", address, reason)
    message = f"{address} {reason}, read {READS_OF_CORRUPT_BYTES} times: restore the object"
    raise IntegrityError(message)


def translated(error: Exception, address: str) -> Exception:
    """Return the error of this library that says what `error` says, or `error` itself."""
    if isinstance(error, DermaScanError | AlreadyExistsError | PreconditionError):
        return error
    if isinstance(error, ClientError):
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return refusal(code, status, f"{code or status}", address)
    if isinstance(error, FileNotFoundError | BaseError):
        return _from_obstore(error, address)
    if isinstance(error, BotoCoreError | ResponseParserError):
        return TransientError(f"object storage failed: {_first_line(error)}")
    return error


def denied(address: str, code: str) -> InputError:
    """Return the error for a server that does not let this caller in."""
    if code == "RequestTimeTooSkewed":
        return InputError(f"{address}: this machine's clock is wrong ({code}): set it by NTP")
    return InputError(f"{address}: access denied ({code}): check the connection's keys and policy")


def refusal(code: str, status: int, summary: str, address: str) -> DermaScanError:
    """Return the error for what S3 answered.

    Args:
        code: S3's word for it, such as `AccessDenied`.
        status: of HTTP.
        summary: for the message.
        address: the object that it is about, for messages.
    """
    if code in _PASSING_REFUSALS:
        return TransientError(f"object storage failed: {summary}")
    if code in _ABSENT:
        return NotFoundError(f"{address} does not exist ({code})")
    if status in {401, 403}:
        return denied(address, code)
    if 400 <= status < 500 and status not in {408, 409, 425, 429}:
        return InputError(f"{address}: the request was refused ({summary})")
    return TransientError(f"object storage failed: {summary}")


def _from_obstore(error: FileNotFoundError | BaseError, address: str) -> Exception:
    text = str(error)
    code, status = _CODE.search(text), _STATUS.search(text)
    name = code.group(1) if code else ""
    if isinstance(error, FileNotFoundError) and name != "NoSuchUpload":
        return NotFoundError(f"{address} does not exist" + (f" ({name})" if name else ""))
    if isinstance(error, PermissionDeniedError | UnauthenticatedError):
        return denied(address, name or type(error).__name__)
    number = int(status.group(1)) if status else 0
    return refusal(name, number, f"{name} {_first_line(error)}".strip(), address)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _pause_seconds(failures: int) -> float:
    """Return a pause with full jitter that doubles, up to a limit, with each failure."""
    ceiling = FIRST_PAUSE_SECONDS * 2.0 ** min(failures, 30)
    return random.uniform(0.5, 1.0) * min(LONGEST_PAUSE_SECONDS, ceiling)
