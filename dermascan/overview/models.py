"""The champion of a model, its versions, and what each of them has shown."""

from dataclasses import dataclass
from functools import lru_cache

from pydantic import BaseModel

from dermascan.errors import NotFoundError
from dermascan.layout import MODELS, ModelKeys
from dermascan.overview.paging import Page, paged
from dermascan.registry import DEFAULT_MODEL, Champion, champion
from dermascan.storage import Store, concurrently
from dermascan.versions import CLAIM, MANIFEST

VERSIONS_ON_A_PAGE = 8
_MOVES = 200
_READERS = 8
_REMEMBERED = 1000


class _Estimate(BaseModel):
    value: float | None = None
    low: float | None = None
    high: float | None = None


class _Malignant(BaseModel):
    roc_auc: _Estimate = _Estimate()
    sensitivity: _Estimate = _Estimate()
    specificity: _Estimate = _Estimate()


class _Evaluation(BaseModel):
    """The part of `dermascan.evaluation.Evaluation` that is shown, of any version of it."""

    images: int
    dataset: str | None = None
    threshold: float | None = None
    balanced_accuracy: _Estimate = _Estimate()
    malignant: _Malignant = _Malignant()


class _Rule(BaseModel):
    name: str
    outcome: str


class _Gate(BaseModel):
    results: tuple[_Rule, ...]


class _Claim(BaseModel):
    training: str | None = None


@dataclass(frozen=True)
class Figure:
    """A figure of the test set with its 95 % interval; None where it is not defined."""

    name: str
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class GateSummary:
    """What the gate's rules came to.

    Attributes:
        rules: how many decided.
        failed: names of those that were not met.
    """

    rules: int
    failed: tuple[str, ...]


@dataclass(frozen=True)
class VersionFacts:
    """What a complete version says of itself.

    Attributes:
        training: fingerprint of the training run that made it, None if not recorded.
        dataset: name of the dataset that it was measured on.
        images: of the test split, None if it was published without an evaluation.
        threshold: `p_malignant` from which an image is called malignant.
        figures: those that matter most.
        gate: None if it was published without a verdict.
    """

    training: str | None
    dataset: str | None
    images: int | None
    threshold: float | None
    figures: tuple[Figure, ...]
    gate: GateSummary | None


@dataclass(frozen=True)
class VersionRow:
    """One version of a model.

    Attributes:
        version: its number.
        facts: None as long as it is not complete.
        is_champion: whether it is champion now.
        was_champion: whether a rollback may go to it: it was champion before, and is not now.
    """

    version: int
    facts: VersionFacts | None
    is_champion: bool
    was_champion: bool


@dataclass(frozen=True)
class ModelOverview:
    """A model and its versions.

    Attributes:
        model: its name.
        models: names of all models.
        champion: None before the first promotion.
        facts: of the champion.
        versions: the latest first.
    """

    model: str
    models: tuple[str, ...]
    champion: Champion | None
    facts: VersionFacts | None
    versions: Page[VersionRow]


class ModelReader:
    """Reads models of one bucket, each immutable object once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._facts = lru_cache(_REMEMBERED)(self._read_facts)
        self._move = lru_cache(_REMEMBERED)(self._read_move)

    def read(self, model: str = "", page: int = 1) -> ModelOverview:
        """Return what there is of a model; nothing but its name if there is none.

        Args:
            model: its name; empty for the default one, or the first if that is not there.
            page: of the versions, from 1.
        """
        models = self._models()
        model = model or next(
            (n for n in models if n == DEFAULT_MODEL), (*models, DEFAULT_MODEL)[0]
        )
        current = champion(self._store, model)
        former = self._former(current) if current else frozenset()
        numbers = paged(self._versions(model), page, VERSIONS_ON_A_PAGE)
        rows = concurrently(lambda n: self._row(model, n, current, former), numbers.items, _READERS)
        return ModelOverview(
            model,
            models,
            current,
            self._facts_of(model, current.version) if current else None,
            Page(tuple(row for row in rows if row), numbers.number, numbers.count),
        )

    def _models(self) -> tuple[str, ...]:
        return tuple(prefix.split("/")[-2] for prefix in self._store.folders(MODELS))

    def _versions(self, model: str) -> list[int]:
        names = (p.split("/")[-2] for p in self._store.folders(ModelKeys(model).root))
        return sorted((int(name) for name in names if name.isdecimal()), reverse=True)

    def _row(
        self, model: str, version: int, current: Champion | None, former: frozenset[int]
    ) -> VersionRow | None:
        """Return a version, None if a server still lists the folder of one that was deleted."""
        facts = self._facts_of(model, version)
        if facts is None and not self._store.exists(ModelKeys(model).version(version) + CLAIM):
            return None
        is_champion = current is not None and version == current.version
        return VersionRow(version, facts, is_champion, was_champion=version in former)

    def _former(self, current: Champion) -> frozenset[int]:
        moves = range(max(1, current.move - _MOVES), current.move)
        versions = concurrently(lambda n: self._move(current.model, n), moves, _READERS)
        return frozenset(versions) - {current.version}

    def _read_move(self, model: str, move: int) -> int:
        entry = Champion.from_plain(self._store.get_json(ModelKeys(model).history_entry(move)))
        return entry.version

    def _facts_of(self, model: str, version: int) -> VersionFacts | None:
        try:
            return self._facts(model, version)
        except NotFoundError:  # not complete yet, and so not remembered
            return None

    def _read_facts(self, model: str, version: int) -> VersionFacts:
        prefix = ModelKeys(model).version(version)
        self._store.get(prefix + MANIFEST)
        claim = self._store.get_if_present(prefix + CLAIM)
        gate = self._store.get_if_present(f"{prefix}gate.json")
        training = _Claim.model_validate_json(claim).training if claim else None
        evaluation = self._store.get_if_present(f"{prefix}evaluation.json")
        measured = _Evaluation.model_validate_json(evaluation) if evaluation else None
        return VersionFacts(
            training=training,
            dataset=measured.dataset if measured else None,
            images=measured.images if measured else None,
            threshold=measured.threshold if measured else None,
            figures=_figures(measured) if measured else (),
            gate=_gate(_Gate.model_validate_json(gate)) if gate else None,
        )


def _figures(measured: _Evaluation) -> tuple[Figure, ...]:
    named = (
        ("ROC AUC, malignant against benign", measured.malignant.roc_auc),
        ("Sensitivity", measured.malignant.sensitivity),
        ("Specificity", measured.malignant.specificity),
        ("Balanced accuracy, seven classes", measured.balanced_accuracy),
    )
    return tuple(Figure(name, found.value, found.low, found.high) for name, found in named)


def _gate(gate: _Gate) -> GateSummary:
    deciding = [rule for rule in gate.results if rule.outcome in {"passed", "failed"}]
    failed = tuple(rule.name for rule in deciding if rule.outcome == "failed")
    return GateSummary(len(deciding), failed)
