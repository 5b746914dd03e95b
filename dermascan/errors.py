"""The errors that the library raises on purpose, split by whether trying again can help."""


class DermaScanError(Exception):
    """Say what went wrong with which thing, and what to do about it."""


class PermanentError(DermaScanError):
    """Trying again with the same input fails again: an orchestrator must not retry."""


class TransientError(DermaScanError):
    """The same call may succeed later: an orchestrator should retry."""


class InputError(PermanentError):
    """A parameter, file or request is not acceptable as it is."""


class NotFoundError(PermanentError):
    """A named object, dataset or model version does not exist."""


class ConflictError(PermanentError):
    """Somebody else changed a pointer first: look at the new state before deciding again."""


class IntegrityError(PermanentError):
    """Stored bytes are not the bytes that were promised."""


class ValidationFailedError(PermanentError):
    """Data broke a critical expectation."""


class GateFailedError(PermanentError):
    """A model did not earn its promotion."""
