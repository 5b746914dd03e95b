"""The candidate and the champion, scored on the same images.

A champion of the candidate's dataset has not learned from the candidate's test images: no image
ever moves to another split (`dermascan.splits`). A champion of another dataset may have.
"""

import json
import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from dermascan.assessment.score_tables import ROW_COLUMNS, score_originals
from dermascan.errors import IntegrityError, NotFoundError
from dermascan.evaluation import Comparison, compare
from dermascan.evaluation.schema import EVALUATION_VERSION
from dermascan.gate import ChampionComparison, Comparability
from dermascan.layout import TrainingKeys
from dermascan.model.savedmodel import METADATA_FILE, ModelMetadata, Scorer
from dermascan.registry import Champion, fetch_version
from dermascan.scores import read_scores
from dermascan.storage import Store
from dermascan.taxonomy import Taxonomy

logger = logging.getLogger(__name__)

MELANOMA = Taxonomy(malignant=("mel",))


@dataclass(frozen=True)
class _Contender:
    """A model and its scores of the candidate's test images."""

    metadata: ModelMetadata
    table: pd.DataFrame


class _Kept(BaseModel):
    """A comparison as it is stored, with the `EVALUATION_VERSION` that it was made by."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int
    comparison: ChampionComparison


def compare_with_champion(
    store: Store, training: str, current: Champion, load: Callable[[Path], Scorer]
) -> ChampionComparison:
    """Score a candidate's test images with the champion too, and compare image by image.

    The champion's files are checked against their SHA-256, and the images prepared from their
    originals as the champion wants them. The result is kept for each champion, and used until
    `EVALUATION_VERSION` changes.

    Args:
        store: the bucket.
        training: fingerprint of the candidate's training run; it must have been evaluated.
        current: the present champion.
        load: makes a scorer of a folder, as `dermascan.model.savedmodel.load_scorer` does.

    Raises:
        IntegrityError: the champion cannot be read.
    """
    key = TrainingKeys(training).candidacy(current.model).comparison(current.version)
    done = read_comparison(store, training, current.model, current.version)
    if done is not None:
        logger.info("compared with %s %d already", current.model, current.version)
        return done
    result = _compared(store, training, current, load)
    kept = _Kept(version=EVALUATION_VERSION, comparison=result)
    store.put(key, kept.model_dump_json(indent=1).encode(), "application/json")
    return result


def read_comparison(
    store: Store, training: str, model: str, version: int
) -> ChampionComparison | None:
    """Return the comparison of a candidate with a version, None if none of today's kind was made.

    Args:
        store: the bucket.
        training: fingerprint of the candidate's training run.
        model: the model's name.
        version: that was champion when they were compared.
    """
    key = TrainingKeys(training).candidacy(model).comparison(version)
    try:
        kept = _Kept.model_validate_json(store.get_if_present(key) or b"{}")
    except ValidationError:
        return None
    return kept.comparison if kept.version == EVALUATION_VERSION else None


def _compared(
    store: Store, training: str, current: Champion, load: Callable[[Path], Scorer]
) -> ChampionComparison:
    candidate = _candidate(store, training)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scorer = _champion_scorer(store, current, load, folder)
        champion = _scored(store, candidate, scorer)
        evaluation = folder / "evaluation.json"
        theirs = _dataset_of(evaluation.read_bytes() if evaluation.exists() else None)
    ours = _dataset_of(store.get(TrainingKeys(training).evaluation))
    taxonomy = Taxonomy(malignant=candidate.metadata.malignant_classes)
    return ChampionComparison(
        version=current.version,
        comparability=_comparability(candidate, champion, same_dataset=ours == theirs),
        malignant=_comparison(candidate, champion, taxonomy),
        melanoma=_comparison(_of_melanoma(candidate), _of_melanoma(champion), MELANOMA),
    )


def _champion_scorer(
    store: Store, current: Champion, load: Callable[[Path], Scorer], folder: Path
) -> Scorer:
    try:
        return load(fetch_version(store, current.model, current.version, folder))
    except (IntegrityError, NotFoundError) as error:
        raise IntegrityError(
            f"champion {current.model} {current.version} cannot be scored: {error}. Restore its "
            "files from a backup, or make another version champion (`dermascan models rollback`)"
        ) from error


def _candidate(store: Store, training: str) -> _Contender:
    keys = TrainingKeys(training)
    metadata = ModelMetadata.model_validate_json(store.get(keys.model + METADATA_FILE))
    return _Contender(metadata, read_scores(store, keys.scores))


def _scored(store: Store, candidate: _Contender, champion: Scorer) -> _Contender:
    """Score the candidate's images with the champion, unless it is the very same training."""
    if champion.metadata.training_fingerprint == candidate.metadata.training_fingerprint:
        return candidate
    scores = score_originals(store, candidate.table, champion)
    rows = candidate.table[list(ROW_COLUMNS)]
    return _Contender(champion.metadata, rows.merge(scores, on="isic_id", validate="1:1"))


def _comparability(
    candidate: _Contender, champion: _Contender, *, same_dataset: bool
) -> Comparability:
    if not same_dataset:
        return Comparability.OTHER_DATASET
    ours, theirs = candidate.metadata.malignant_classes, champion.metadata.malignant_classes
    if set(ours) != set(theirs):
        return Comparability.OTHER_CLASSES
    return Comparability.SAME_IMAGES


def _comparison(candidate: _Contender, champion: _Contender, taxonomy: Taxonomy) -> Comparison:
    return compare(
        candidate.table,
        champion.table,
        candidate.metadata.threshold,
        champion.metadata.threshold,
        taxonomy=taxonomy,
    )


def _of_melanoma(contender: _Contender) -> _Contender:
    table = contender.table
    return _Contender(contender.metadata, table.assign(p_malignant=table["p_mel"]))


def _dataset_of(evaluation: bytes | None) -> str | None:
    """Return what dataset an evaluation is of, in whatever form a version wrote it."""
    found: object = json.loads(evaluation or b"{}").get("dataset")
    return found if isinstance(found, str) else None
