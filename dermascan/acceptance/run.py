"""Ingest, train, evaluate, promote and infer on a real archive, and check what came out."""

import io
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from pydantic import JsonValue

from dermascan.acceptance.external import (
    ExternalFigures,
    LabelledImage,
    measure,
    read_labelled,
)
from dermascan.acceptance.findings import Findings, TrainedRun, read_findings
from dermascan.acceptance.machine import Machine
from dermascan.acceptance.reproduction import Reproduction, compare
from dermascan.acceptance.results import Results, render, require_place, write_section
from dermascan.acceptance.timing import DagTimes, dag_times
from dermascan.acceptance.unpacking import dataset_name, unpack
from dermascan.dataset import read_manifest
from dermascan.errors import DermaScanError, InputError, IntegrityError
from dermascan.example_set import read_split
from dermascan.gate import GateResult
from dermascan.inference.batch import BatchPlan
from dermascan.layout import TrainingKeys
from dermascan.progress import format_seconds
from dermascan.scores import read_scores
from dermascan.storage import Store, concurrently
from dermascan.taxonomy import Taxonomy
from dermascan.walkthrough import RunFailedError, Session, Walkthrough

if TYPE_CHECKING:
    from dermascan.stack.runs import RunOutcome

INBOX_BUCKET = "acceptance-inbox"
RESULTS = Path("docs") / "results.md"
_COPIES_AT_ONCE = 16

Load = Callable[[], bytes]


@dataclass(frozen=True)
class AcceptancePlan:
    """What to accept the pipeline on.

    Attributes:
        data: a tar file or folder as the official client writes it; dataset and model are
            named after it.
        external: further ones, on which the model is only measured.
        params: of `train_model` other than its defaults, for a quick trial.
        results: page to write to. By default the project's, and none with `params`.
    """

    data: Path
    external: tuple[Path, ...] = ()
    params: Mapping[str, JsonValue] = field(default_factory=dict)
    results: Path | None = None

    def command(self) -> str:
        """Return the command line that repeats it, without anybody's folders."""
        if not self.params and not self.results:
            external = " ".join(path.name for path in self.external)
            words = [f"DATA={self.data.name}", *([f"EXTERNAL={external}"] if external else [])]
            return " ".join(["make acceptance", *map(_quoted_value, words)])
        words = [".venv/bin/dermascan", "acceptance", "--data", self.data.name]
        for path in self.external:
            words += ["--external", path.name]
        for text in _texts(self.params):
            words += ["--param", text]
        return shlex.join(words)


@dataclass(frozen=True)
class AcceptanceReport:
    """How it went, and the page that says so; None if no page was wanted."""

    verdict: str
    headline: str
    section: Path
    page: Path | None


class NotAcceptedError(DermaScanError):
    """The pipeline ran and did not do what it should."""


class Acceptance:
    """Walk a real archive through the whole pipeline.

    Args:
        walkthrough: through the stack.
        plan: what with.
    """

    def __init__(self, walkthrough: Walkthrough, plan: AcceptancePlan) -> None:
        self._walkthrough, self._plan = walkthrough, plan
        self._tell = walkthrough.audience.tell
        self._name = dataset_name(plan.data)
        self._folder = walkthrough.state / "acceptance" / self._name
        self._page = plan.results
        if self._page is None and not plan.params:
            self._page = walkthrough.project / RESULTS

    def run(self) -> AcceptanceReport:
        """Do everything, check it and write down what was found.

        What was done by an earlier run is found and not done again.

        Raises:
            RunFailedError: a DAG run failed.
            NotAcceptedError: the gate refused promotion, or batch inference does not give the
                evaluation's scores.
            DermaScanError: an archive is not acceptable, or the stack could not be started.
        """
        started = time.monotonic()
        if self._page:
            require_place(self._page)
        images, external = self._unpack()
        with self._walkthrough.begin() as session:
            results = self._walk(session, images, external)
        self._tell(f"the acceptance run took {format_seconds(time.monotonic() - started)}")
        return self._report(results)

    def _unpack(self) -> tuple[Path, dict[str, Path]]:
        plan, folder = self._plan, self._folder / "unpacked"
        others = {dataset_name(path): path for path in plan.external}
        if len(others) < len(plan.external) or self._name in others:
            raise InputError("two of the archives have the same name: rename one")
        self._tell(f"unpacking {', '.join(path.name for path in (plan.data, *plan.external))}")
        external = {name: unpack(path, folder) for name, path in others.items()}
        return unpack(plan.data, folder), external

    def _walk(self, session: Session, images: Path, external: Mapping[str, Path]) -> Results:
        with session.archive(images, self._folder / "archive.log"):
            conf: dict[str, JsonValue] = {"dataset": self._name, "start_training": False}
            ingested = session.trigger("ingest_isic", conf)
        trained = self._train(session)
        run = TrainedRun.of(session.returned(trained, "train"))
        findings = read_findings(session.store(), run, self._name)
        inferred, reproduction = self._reproduce(session, findings)
        measured = (self._measure(session, findings, *each) for each in external.items())
        return Results(
            archive=self._plan.data.name,
            command=self._plan.command(),
            params=_texts(self._plan.params),
            machine=Machine.here(),
            validation=_validation(session.returned(ingested, "validate")),
            findings=findings,
            reproduction=reproduction,
            times=(
                _times(session, ingested, "publish_manifest"),
                _times(session, trained, "train"),
                _times(session, inferred, "resolve"),
            ),
            external=tuple(measured),
        )

    def _train(self, session: Session) -> "RunOutcome":
        conf = {"dataset": self._name, "model": self._name, **self._plan.params}
        try:
            return session.trigger("train_model", conf)
        except RunFailedError as error:
            if not error.failed_in("gate"):
                raise
            run = TrainedRun.of(session.returned(error.outcome, "train"))
            raise NotAcceptedError(self._refusal(session.store(), run)) from error

    def _refusal(self, store: Store, run: TrainedRun) -> str:
        candidacy = TrainingKeys(run.training).candidacy(self._name)
        body = store.get_if_present(candidacy.gate)
        if body is not None:
            self._tell(f"\n{GateResult.model_validate_json(body).table()}\n")
        return (
            "the gate refused promotion, so there is no model to infer with: "
            f"the report is {store.address(candidacy.report)}"
        )

    def _reproduce(self, session: Session, findings: Findings) -> "tuple[RunOutcome, Reproduction]":
        """Let batch inference score copies of the test split's originals."""
        store, examples = session.store(), findings.examples
        test = read_split(store, examples, "test")
        loads: dict[str, Load] = {
            key.rsplit("/", 1)[-1]: partial(store.get_verified, key, sha256)
            for key, sha256 in zip(test["key"], test["sha256"], strict=True)
        }
        prefix = f"{self._name}/test-{examples.fingerprint}/"
        outcome, predictions = self._infer(session, findings, prefix, loads)
        scores = read_scores(store, TrainingKeys(findings.promotion.training).scores)
        return outcome, compare(test, scores, predictions)

    def _measure(
        self, session: Session, findings: Findings, name: str, folder: Path
    ) -> ExternalFigures:
        taxonomy = Taxonomy(malignant=findings.model.malignant_classes)
        labelled: tuple[LabelledImage, ...] = read_labelled(folder, taxonomy)
        loads: dict[str, Load] = {image.path.name: image.path.read_bytes for image in labelled}
        prefix = f"{self._name}/external/{name}/"
        _, predictions = self._infer(session, findings, prefix, loads)
        familiar = set(read_manifest(session.store(), findings.dataset)["sha256"])
        return measure(name, labelled, predictions, familiar)

    def _infer(
        self, session: Session, findings: Findings, prefix: str, loads: Mapping[str, Load]
    ) -> "tuple[RunOutcome, pd.DataFrame]":
        inbox = session.store(INBOX_BUCKET)
        inbox.ensure_bucket()
        _fill(inbox, prefix, loads)
        self._tell(f"\n{len(loads)} images are under {inbox.address(prefix)}")
        promotion = findings.promotion
        model = f"{promotion.model}/{promotion.version}"
        conf: dict[str, JsonValue] = {"prefix": inbox.address(prefix), "model": model}
        outcome = session.trigger("batch_inference", conf)
        plan = _batch_plan(session.returned(outcome, "resolve"))
        body = session.store().get(f"{plan.output}predictions.parquet")
        return outcome, pd.read_parquet(io.BytesIO(body))

    def _report(self, results: Results) -> AcceptanceReport:
        section = render(results)
        kept = self._folder / "results.md"
        kept.write_text(section, encoding="utf-8")
        reproduction = results.reproduction
        if reproduction.problems:
            raise NotAcceptedError(f"{reproduction.verdict()}; what was found is in {kept}")
        if self._page:
            write_section(self._page, section)
        return AcceptanceReport(
            reproduction.verdict(), _headline(results.findings), kept, self._page
        )


def _fill(inbox: Store, prefix: str, loads: Mapping[str, Load]) -> None:
    def put(item: tuple[str, Load]) -> str | None:
        name, load = item
        return None if inbox.put_immutable(prefix + name, load(), "image/jpeg") else name

    taken = [name for name in concurrently(put, loads.items(), _COPIES_AT_ONCE) if name]
    if taken:
        raise IntegrityError(
            f"{inbox.address(prefix)} holds other images of the same names, such as {taken[0]}: "
            "delete what is under it"
        )


def _batch_plan(returned: JsonValue) -> BatchPlan:
    match returned:
        case [{"plan": dict(plan)}, *_]:
            return BatchPlan(**plan)
    raise IntegrityError(f"the task `resolve` returned {returned!r}: it should hold a plan")


def _validation(returned: JsonValue) -> str:
    match returned:
        case {"validation": str(sentence)}:
            return sentence
    raise IntegrityError(f"the task `validate` returned {returned!r}: it should hold a sentence")


def _times(session: Session, outcome: "RunOutcome", task: str) -> DagTimes:
    return dag_times(outcome.dag_id, session.runs_like(outcome, task))


def _headline(findings: Findings) -> str:
    from dermascan.assessment.measurement import headline  # noqa: PLC0415  # matplotlib

    return headline(findings.evaluation)


def _texts(params: Mapping[str, JsonValue]) -> tuple[str, ...]:
    return tuple(f"{name}={value}" for name, value in params.items())


def _quoted_value(word: str) -> str:
    name, _, value = word.partition("=")
    return f"{name}={shlex.quote(value)}"
