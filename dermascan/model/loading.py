"""The fastest runtime that a model has here."""

import logging
from pathlib import Path

from dermascan.errors import DermaScanError
from dermascan.model.scorer import Scorer
from dermascan.model.twin import load_twin

logger = logging.getLogger(__name__)


def load_fastest(folder: Path) -> Scorer:
    """Load a model's twin for ONNX Runtime, or its SavedModel if the twin cannot be used.

    Args:
        folder: of the exported model.

    Raises:
        NotFoundError: there is no model.
        IntegrityError: the SavedModel, which was needed, cannot be read.
    """
    try:
        return load_twin(folder)
    except DermaScanError as error:
        reason = str(error)  # who keeps the record of an error keeps its callers and their model
    logger.warning("TensorFlow scores, which is slower and takes more memory: %s", reason)
    from dermascan.model.savedmodel import load_scorer  # noqa: PLC0415  # keeps it out of the way

    return load_scorer(folder)
