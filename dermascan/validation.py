"""Great Expectations suites over a dataset's manifest, their verdict, and Data Docs for it.

Suites are YAML files, one a suite. `validate` evaluates them over the manifest with the
columns of `with_cross_row_columns` added, column by column, and keeps under
`reports/validation/<dataset>/<manifest>/<suites>/` first the Data Docs and then
`result.json`, which makes the validation complete.
"""

import gc
import html
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import jinja2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from dermascan.dataset import (
    MANIFEST_SCHEMA,
    DatasetPointer,
    number_values,
    open_parquet,
    read_columns,
    row_groups,
)
from dermascan.errors import InputError, ValidationFailedError
from dermascan.fingerprint import fingerprint, sha256_hex
from dermascan.layout import DatasetKeys
from dermascan.memory import give_back_memory
from dermascan.storage import Store

if TYPE_CHECKING:
    from great_expectations.core import ExpectationSuite, ExpectationSuiteValidationResult
    from great_expectations.datasource.fluent.interfaces import Batch

    _Column = pd.Series[Any]

logger = logging.getLogger(__name__)

STEP_VERSION = 1
EXAMPLES = 10
SUITES_HEX_DIGITS = 12

SHOWN_VALUES = 3
SHOWN_CHARACTERS = 60

_GX_HEAD = re.compile(r"<head>.*?</head>", re.DOTALL)
_GX_REMOTE = re.compile(r"<script\b.*?</script>|<footer>.*?</footer>|<img\b[^>]*>", re.DOTALL)

Severity = Literal["critical", "warning"]


# Suites


class _ExpectationMeta(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    why: str = Field(min_length=1)


class SuiteExpectation(BaseModel):
    """One entry of a suite file.

    Attributes:
        name: what must be true, in words; unique in its suite.
        type: class name in `great_expectations.expectations`.
        kwargs: that class's arguments.
        severity: a broken `critical` expectation makes the data unusable.
        meta: why the expectation is there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    type: str = Field(pattern=r"^Expect[A-Za-z]+$")
    kwargs: dict[str, JsonValue] = {}
    severity: Severity
    meta: _ExpectationMeta

    def expected(self) -> str:
        """Return the expectation as Great Expectations is told it."""
        arguments = (f"{key}={json.dumps(value)}" for key, value in self.kwargs.items())
        return f"{self.type}({', '.join(arguments)})"


class Suite(BaseModel):
    """A suite file; `name` is the file's name without its ending."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9_-]+$")  # stands in the address of a page
    expectations: tuple[SuiteExpectation, ...] = Field(min_length=1)

    def by_name(self) -> dict[str, SuiteExpectation]:
        """Return the expectations by their names."""
        return {expectation.name: expectation for expectation in self.expectations}


def load_suites(folder: Path) -> tuple[Suite, ...]:
    """Read the suites of a folder, in the order of their file names.

    Raises:
        InputError: there is none, or one is not a suite.
    """
    return tuple(_parse_suite(path) for path in _suite_files(folder))


def suites_hash(folder: Path) -> str:
    """Name the content of a folder's suites, and the version of this step that applies them."""
    files = {path.name: sha256_hex(path.read_bytes()) for path in _suite_files(folder)}
    return fingerprint({"step": STEP_VERSION, "files": files})[:SUITES_HEX_DIGITS]


def _suite_files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise InputError(f"{folder} holds no expectation suite: name a folder with *.yaml files")
    return files


def _parse_suite(path: Path) -> Suite:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        suite = Suite.model_validate({**content, "name": path.stem})
    except (yaml.YAMLError, ValidationError, TypeError) as error:
        raise InputError(f"{path} is not an expectation suite, correct it: {error}") from error
    if len(suite.by_name()) < len(suite.expectations):
        raise InputError(f"{path} gives two expectations one name: name each of them differently")
    return suite


# Facts about a row that other rows decide


def with_cross_row_columns(manifest: pq.ParquetFile, names: Sequence[str]) -> pd.DataFrame:
    """Return columns of a manifest, or those that suites need and no single row of it says.

    Args:
        manifest: columns as in `dermascan.dataset.MANIFEST_SCHEMA`.
        names: of these columns, or of
            `shorter_side`: pixels;
            `aspect`: longer by shorter side, at least 1;
            `isic_id_in_key`: the image identifier that stands in `key`;
            `images_of_class`: images of the row's lesion class;
            `patients_of_lesion`, `classes_of_lesion`: distinct, known ones;
            `images_of_content`, `lesions_of_content`, `classes_of_content`: the same for the
            images with the row's `sha256`;
            `images_of_picture`, `lesions_of_picture`, `classes_of_picture`: the same for its
            `perceptual_hash`.

    Returns:
        All rows, in their order. Age, width, height and what no single row says are nullable
        numbers, null where the row has no value to measure or to group by.
    """
    said = read_columns(manifest, [name for name in names if name in MANIFEST_SCHEMA.names])
    nullable = said.columns.intersection(["age_approx", "width", "height"])
    made = {name: _MADE[name](manifest) for name in names if name in _MADE}
    return said.astype(dict.fromkeys(nullable, "Int64")).assign(**made)[list(names)]


def _shorter_side(manifest: pq.ParquetFile) -> "_Column":
    return with_cross_row_columns(manifest, ["width", "height"]).min(axis=1, skipna=False)


def _aspect(manifest: pq.ParquetFile) -> "_Column":
    sides = with_cross_row_columns(manifest, ["width", "height"])
    return sides.max(axis=1, skipna=False) / sides.min(axis=1, skipna=False)


def _isic_id_in_key(manifest: pq.ParquetFile) -> "_Column":
    chunks = [
        pc.struct_field(pc.extract_regex(chunk, r"/(?P<name>[^/.]+)\.[^/]*$"), "name")
        for table in row_groups(manifest, ["key"])
        for chunk in table["key"].chunks
    ]
    return cast("_Column", pa.chunked_array(chunks, pa.string()).to_pandas())


def _images(group: str, manifest: pq.ParquetFile) -> "_Column":
    """Count the rows of each row's group."""
    groups = number_values(manifest, group)
    return _of_group(groups, groups[groups >= 0])


def _distinct(group: str, column: str, manifest: pq.ParquetFile) -> "_Column":
    """Count the distinct values of a column in each row's group."""
    groups, values = number_values(manifest, group), number_values(manifest, column)
    known = (groups >= 0) & (values >= 0)
    pairs = np.unique(groups[known].astype(np.int64) << 32 | values[known])
    return _of_group(groups, pairs >> 32)


def _of_group(groups: NDArray[np.int32], found: NDArray[np.integer]) -> "_Column":
    """Tell each row how often its group was found, nothing where it is of none (-1)."""
    counts = np.bincount(found, minlength=len(groups) + 1)
    return pd.Series(pd.arrays.IntegerArray(counts[groups], groups < 0))


_MADE: Mapping[str, Callable[[pq.ParquetFile], "_Column"]] = {
    "shorter_side": _shorter_side,
    "aspect": _aspect,
    "isic_id_in_key": _isic_id_in_key,
    "images_of_class": partial(_images, "lesion_class"),
    "patients_of_lesion": partial(_distinct, "lesion_id", "patient_id"),
    "classes_of_lesion": partial(_distinct, "lesion_id", "lesion_class"),
    "images_of_content": partial(_images, "sha256"),
    "lesions_of_content": partial(_distinct, "sha256", "lesion_id"),
    "classes_of_content": partial(_distinct, "sha256", "lesion_class"),
    "images_of_picture": partial(_images, "perceptual_hash"),
    "lesions_of_picture": partial(_distinct, "perceptual_hash", "lesion_id"),
    "classes_of_picture": partial(_distinct, "perceptual_hash", "lesion_class"),
}
_COLUMNS = (*MANIFEST_SCHEMA.names, *_MADE)


# The verdict


class ExpectationOutcome(BaseModel):
    """What became of one expectation.

    Attributes:
        suite: the suite's name.
        name: what must be true, in words.
        severity: `critical` or `warning`.
        success: whether it held.
        observed: what the data said, in words.
        expected: the expectation as Great Expectations was told it.
        why: why it is expected.
        unexpected_count: rows that broke it; 0 for expectations on the whole table.
        example_ids: `isic_id`s of up to 10 of these rows.
    """

    model_config = ConfigDict(frozen=True)

    suite: str
    name: str
    severity: Severity
    success: bool
    observed: str
    expected: str
    why: str
    unexpected_count: int
    example_ids: tuple[str, ...]

    def sentence(self) -> str:
        """Say what was expected and what was found."""
        examples = f", such as {', '.join(self.example_ids)}" if self.example_ids else ""
        return f"{self.suite}: {self.name}: {self.observed}{examples}"


class ValidationResult(BaseModel):
    """What `result.json` says of one manifest under one version of the suites.

    Attributes:
        dataset: the dataset's name.
        manifest: the manifest's fingerprint.
        suites: the suites' hash.
        images: rows of the manifest.
        success: no critical expectation was broken.
        expectations: every expectation's outcome, in the suites' order.
        data_docs: key of the Data Docs' first page.
        great_expectations: version of the library that judged.
    """

    model_config = ConfigDict(frozen=True)

    dataset: str
    manifest: str
    suites: str
    images: int
    success: bool
    expectations: tuple[ExpectationOutcome, ...]
    data_docs: str
    great_expectations: str

    def broken(self, severity: Severity) -> tuple[ExpectationOutcome, ...]:
        """Return the outcomes of broken expectations of one severity."""
        return tuple(o for o in self.expectations if not o.success and o.severity == severity)

    def summary(self) -> str:
        """Say in one sentence how the validation ended."""
        held = sum(outcome.success for outcome in self.expectations)
        return (
            f"dataset {self.dataset!r} ({self.images} images) "
            f"{'is valid' if self.success else 'is NOT valid'}: {held} of "
            f"{len(self.expectations)} expectations hold (broken: "
            f"{len(self.broken('critical'))} critical, {len(self.broken('warning'))} warning)"
        )

    def require(self) -> None:
        """Do nothing if the data may be used.

        Raises:
            ValidationFailedError: a critical expectation is broken; the message lists
                each with counts and example ids.
        """
        if self.success:
            return
        lines = [f"  {outcome.sentence()} ({outcome.why})" for outcome in self.broken("critical")]
        remedy = (
            f"Data Docs: {self.data_docs}. Correct the rows in the archive or narrow the query, "
            "then ingest again; if an expectation is wrong, change its suite"
        )
        raise ValidationFailedError(
            "\n".join([f"{self.summary()}. Broken and critical:", *lines, remedy])
        )


# Validation


def validate(store: Store, pointer: DatasetPointer, suites: Path) -> ValidationResult:
    """Judge a published manifest, once for each version of the suites.

    Broken warnings are logged; call `ValidationResult.require` to fail on critical ones.

    Args:
        store: the bucket that holds the dataset.
        pointer: which manifest.
        suites: folder with one YAML file a suite.

    Raises:
        InputError: a suite is not usable.
    """
    done = latest_result(store, pointer, suites)
    if done is not None:
        logger.info("validated already, nothing to do: %s", done.summary())
        return done
    keys = _ValidationKeys.of(pointer, suites)
    loaded = load_suites(suites)
    with open_parquet(store, pointer.manifest_key) as manifest:
        images, judged = manifest.metadata.num_rows, _judge(manifest, loaded)
    result = ValidationResult(
        dataset=pointer.dataset,
        manifest=pointer.fingerprint,
        suites=keys.suites,
        images=images,
        success=all(o.success for o in judged.outcomes if o.severity == "critical"),
        expectations=judged.outcomes,
        data_docs=keys.data_docs + "index.html",
        great_expectations=judged.great_expectations,
    )
    for path, page in {**judged.pages, "index.html": _index_page(result)}.items():
        store.put(keys.data_docs + path, page.encode(), "text/html; charset=utf-8")
    for outcome in result.broken("warning"):
        logger.warning("%s", outcome.sentence())
    logger.info("%s; Data Docs: %s", result.summary(), store.address(result.data_docs))
    return _kept(store, keys.result, result)


def latest_result(store: Store, pointer: DatasetPointer, suites: Path) -> ValidationResult | None:
    """Return the verdict on a manifest under the suites as they are now, None if there is none."""
    data = store.get_if_present(_ValidationKeys.of(pointer, suites).result)
    return None if data is None else ValidationResult.model_validate_json(data)


@dataclass(frozen=True)
class _ValidationKeys:
    suites: str
    result: str
    data_docs: str

    @classmethod
    def of(cls, pointer: DatasetPointer, folder: Path) -> "_ValidationKeys":
        suites = suites_hash(folder)
        prefix = f"{DatasetKeys(pointer.dataset).validation(pointer.fingerprint)}{suites}/"
        return cls(suites, f"{prefix}result.json", f"{prefix}data_docs/")


def _kept(store: Store, key: str, result: ValidationResult) -> ValidationResult:
    data = result.model_dump_json(indent=1).encode()
    if store.put_if_absent(key, data, "application/json"):
        return result
    return ValidationResult.model_validate_json(store.get(key))


# Great Expectations


@dataclass(frozen=True)
class _Judgement:
    outcomes: tuple[ExpectationOutcome, ...]
    pages: Mapping[str, str]  # HTML by path below the Data Docs' first page
    great_expectations: str


def _judge(manifest: pq.ParquetFile, suites: Iterable[Suite]) -> _Judgement:
    logging.getLogger("great_expectations").setLevel(logging.WARNING)  # hundreds of lines at INFO
    import great_expectations  # noqa: PLC0415  # takes 7 s to import

    outcomes: list[ExpectationOutcome] = []
    pages: dict[str, str] = {}
    with _no_garbage_yet():
        for suite in suites:
            native = _native_suite(suite)
            validated = _joined([_validated(manifest, part) for part in _by_column(suite)])
            outcomes += _outcomes(suite, validated, manifest)
            pages |= _suite_pages(native, validated)
    return _Judgement(tuple(outcomes), pages, great_expectations.__version__)


@contextmanager
def _no_garbage_yet() -> Iterator[None]:
    """Spare the garbage collector what is there when the block begins: 0.1 s each time."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _by_column(suite: Suite) -> list[Suite]:
    """Divide a suite by the column that expectations are about, as Great Expectations orders it."""
    parts: dict[str, list[SuiteExpectation]] = {}
    for expectation in suite.expectations:
        parts.setdefault(str(expectation.kwargs.get("column")), []).append(expectation)
    return [suite.model_copy(update={"expectations": tuple(part)}) for part in parts.values()]


def _validated(manifest: pq.ParquetFile, part: Suite) -> "ExpectationSuiteValidationResult":
    """Let Great Expectations, which takes its table whole, see only the columns that it needs."""
    frame = with_cross_row_columns(manifest, _named_columns(part))
    give_back_memory()  # what Great Expectations made of the table before
    validated = _batch(frame).validate(
        _native_suite(part),
        result_format={"result_format": "SUMMARY", "partial_unexpected_count": EXAMPLES},
    )
    frame.drop(columns=frame.columns, inplace=True)  # noqa: PD002  # it is kept till the next one
    return validated


def _named_columns(suite: Suite) -> list[str]:
    """Return the columns that a suite speaks of; all if it speaks of which columns there are."""
    if any("TableColumn" in expectation.type for expectation in suite.expectations):
        return list(_COLUMNS)
    said = " ".join(expectation.expected() for expectation in suite.expectations)
    return [name for name in _COLUMNS if name in said]


def _joined(
    parts: Sequence["ExpectationSuiteValidationResult"],
) -> "ExpectationSuiteValidationResult":
    """Return what Great Expectations would say of the parts of one suite together."""
    from great_expectations.core import (  # noqa: PLC0415  # takes 7 s to import
        ExpectationSuiteValidationResult,
    )
    from great_expectations.validator.validation_statistics import (  # noqa: PLC0415  # likewise
        calc_validation_statistics,
    )

    results = [result for part in parts for result in part.results]
    statistics = calc_validation_statistics(results)._asdict()
    return ExpectationSuiteValidationResult(
        success=statistics.pop("success"),
        results=results,
        suite_name=parts[-1].suite_name,
        statistics=statistics,
        meta=parts[-1].meta,
        batch_id=parts[-1].batch_id,
    )


def _batch(frame: pd.DataFrame) -> "Batch":
    """Hand a table to Great Expectations: in memory, silent, without Data Docs of its own."""
    import great_expectations as gx  # noqa: PLC0415  # takes 7 s to import
    from great_expectations.data_context.types.base import (  # noqa: PLC0415  # likewise
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )
    from great_expectations.execution_engine import (  # noqa: PLC0415  # likewise
        pandas_execution_engine,
    )

    # Smaller tables get a fingerprint, for which each cell becomes a Python object.
    pandas_execution_engine.HASH_THRESHOLD = 0
    config = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
        progress_bars=ProgressBarsConfig(globally=False),
        analytics_enabled=False,
    )
    context = gx.get_context(mode="ephemeral", project_config=config)
    asset = context.data_sources.add_pandas("manifest").add_dataframe_asset("images")
    definition = asset.add_batch_definition_whole_dataframe("all")
    return definition.get_batch({"dataframe": frame})


def _native_suite(suite: Suite) -> "ExpectationSuite":
    import great_expectations as gx  # noqa: PLC0415  # takes 7 s to import
    from great_expectations import expectations  # noqa: PLC0415  # likewise

    native = []
    for expectation in suite.expectations:
        made = getattr(expectations, expectation.type, None)
        if made is None:
            raise InputError(
                f"suite {suite.name!r}: Great Expectations has no {expectation.type}: "
                "use one of the classes in great_expectations.expectations"
            )
        meta = {"name": expectation.name}
        notes = f"{expectation.severity}: {expectation.name}. {expectation.meta.why}"
        severity = expectation.severity
        try:
            native.append(made(**expectation.kwargs, meta=meta, notes=notes, severity=severity))
        except (TypeError, ValueError) as error:
            message = f"suite {suite.name!r}: {expectation.name!r} has unusable kwargs: {error}"
            raise InputError(message) from error
    return gx.ExpectationSuite(name=suite.name, expectations=native)


def _outcomes(
    suite: Suite, validated: "ExpectationSuiteValidationResult", manifest: pq.ParquetFile
) -> list[ExpectationOutcome]:
    isic_ids = read_columns(manifest, ["isic_id"])["isic_id"]
    results = {found.expectation_config.meta["name"]: found for found in validated.results}
    return [
        _outcome(suite.name, expectation, results[expectation.name].to_json_dict(), isic_ids)
        for expectation in suite.expectations
    ]


def _outcome(
    suite: str,
    expectation: SuiteExpectation,
    found: Mapping[str, Any],
    isic_ids: "pd.Series[str]",
) -> ExpectationOutcome:
    problem = _exception_text(found["exception_info"])
    if problem is not None:
        raise InputError(
            f"suite {suite!r}: {expectation.name!r} cannot be evaluated, correct it: {problem}"
        )
    facts = _Facts.model_validate(found["result"])
    return ExpectationOutcome(
        suite=suite,
        name=expectation.name,
        severity=expectation.severity,
        success=found["success"],
        observed=facts.observed(),
        expected=expectation.expected(),
        why=expectation.meta.why,
        unexpected_count=facts.unexpected_count,
        example_ids=facts.example_ids(isic_ids),
    )


def _exception_text(info: Mapping[str, Any]) -> str | None:
    """Find the messages in what Great Expectations says of exceptions, by metric or not."""
    by_metric = [entry for entry in info.values() if isinstance(entry, Mapping)]
    raised = [entry for entry in by_metric or [info] if entry["raised_exception"]]
    return "; ".join(str(entry["exception_message"]) for entry in raised) or None


class _Facts(BaseModel):
    """What Great Expectations says of the data under one expectation."""

    observed_value: JsonValue = None  # of a whole column or table; the rest is of single rows
    element_count: int = 0
    unexpected_count: int = 0
    partial_unexpected_list: list[JsonValue] = []
    partial_unexpected_index_list: list[int] = []  # numbers of rows

    def observed(self) -> str:
        if "observed_value" in self.model_fields_set:
            return f"observed {json.dumps(self.observed_value)}"
        share = 100 * self.unexpected_count / max(self.element_count, 1)
        text = f"{self.unexpected_count} of {self.element_count} images break it ({share:.2f} %)"
        values = list(dict.fromkeys(map(_shortened, self.partial_unexpected_list)))
        return f"{text} with {', '.join(values[:SHOWN_VALUES])}" if values else text

    def example_ids(self, isic_ids: "pd.Series[str]") -> tuple[str, ...]:
        found = isic_ids.iloc[self.partial_unexpected_index_list]
        return tuple(dict.fromkeys(found.fillna("None")))


def _shortened(value: JsonValue) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


# Data Docs


def _suite_pages(
    suite: "ExpectationSuite", validated: "ExpectationSuiteValidationResult"
) -> dict[str, str]:
    """Render a suite and its validation as Great Expectations does, at addresses of our own."""
    from great_expectations.core.expectation_validation_result import (  # noqa: PLC0415  # slow
        expectationSuiteValidationResultSchema,
    )
    from great_expectations.render.renderer.page_renderer import (  # noqa: PLC0415  # slow
        ExpectationSuitePageRenderer,
        ValidationResultsPageRenderer,
    )
    from great_expectations.render.view import DefaultJinjaPageView  # noqa: PLC0415  # slow

    # Rendering takes plain numbers only, as a stored and loaded result has them, and puts
    # values of the data into tables as if they were HTML.
    content = validated.to_json_dict()
    for found in content["results"]:
        found["result"] = _escaped(found["result"])
    plain = expectationSuiteValidationResultSchema.load(content)
    view = DefaultJinjaPageView()
    validation = view.render(ValidationResultsPageRenderer().render(plain))
    expectations = view.render(ExpectationSuitePageRenderer().render(suite))
    return {
        f"validations/{suite.name}.html": _self_contained(validation, suite.name),
        f"expectations/{suite.name}.html": _self_contained(expectations, suite.name),
    }


def _escaped(value: JsonValue) -> JsonValue:
    if isinstance(value, str):
        return html.escape(value)
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    return value


def _self_contained(page: str, title: str) -> str:
    """Make a page of Great Expectations readable without a network.

    As they come, the pages fetch style sheets, icons and scripts from six other hosts, and
    without these show neither what passed nor what failed. The head is replaced, scripts and
    pictures are dropped, and a policy forbids any request that would be left.
    """
    page = _GX_HEAD.sub(lambda _: _head(title), page, count=1)
    page = _GX_REMOTE.sub("", page)
    page = page.replace('href="../../../../', 'href="../')  # pages lie one folder deep here
    return page.replace(" / __none__", "")  # the run, which has no name


def _head(title: str) -> str:
    template = _templates().from_string(_HEAD)
    return template.render(title=title, style=_STYLE)


def _index_page(result: ValidationResult) -> str:
    template = _templates().from_string(_INDEX)
    suites = list(dict.fromkeys(outcome.suite for outcome in result.expectations))
    head = _head(f"Validation of {result.dataset}")
    return template.render(result=result, suites=suites, head=head)


def _templates() -> jinja2.Environment:
    return jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)


# What the pages of Great Expectations need of the style sheets that they would fetch.
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 1400px; padding: 1rem;
       color: #1d2733; background: #fff; }
a { color: #0b5cad; text-decoration: none; }
h1 { font-size: 1.5rem; }
h2, h5 { font-size: 1.1rem; margin: .3rem 0; } h6, .h6 { font-size: .95rem; margin: .3rem 0; }
[style*="color"] { color: inherit !important; }
table { border-collapse: collapse; margin: .5rem 0 1rem; }
th, td { border: 1px solid #d5dbe1; padding: .35rem .6rem; text-align: left; vertical-align: top; }
ul, ol { list-style: none; margin: 0; padding: 0; }
code { overflow-wrap: anywhere; }
.breadcrumb { display: flex; gap: .6rem; }
.container-fluid > .row { display: flex; gap: 2rem; align-items: flex-start; }
.ge-section > .row { display: block; }
.col-lg-2 { flex: 0 0 15rem; } .col-lg-10 { flex: 1; min-width: 0; }
.alert { background: #eef2f6; padding: .4rem .7rem; }
.badge { background: #e4eaf0; border-radius: 3px; padding: 0 .3em; font-family: monospace; }
.card { border: 1px solid #d5dbe1; margin: 0 0 1rem; padding: .4rem .7rem; }
.card:has(.btn-group-toggle), [data-toggle="collapse"] { display: none; }
.table-responsive { overflow-x: auto; }
.fas { font-style: normal; font-weight: bold; }
.fa-check-circle::before { content: "\\2713 passed"; }
.fa-times::before { content: "\\2717 broken"; }
.fa-exclamation-triangle::before { content: "\\26A0 error"; }
.text-success, .held { color: #1b7837; } .text-danger, .critical { color: #b2182b; }
.warning { color: #9a6700; } .verdict { font-weight: bold; white-space: nowrap; }
@media (max-width: 800px) { .container-fluid > .row { display: block; } }
"""

_HEAD = """<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>{{ style | safe }}</style>
</head>"""

_INDEX = """<!DOCTYPE html>
<html lang="en">
{{ head | safe }}
<body>
<h1>Validation of {{ result.dataset }}</h1>
<p>{{ result.summary() }}.</p>
<p>Manifest <code>{{ result.manifest }}</code>, suites <code>{{ result.suites }}</code>,
judged by Great Expectations {{ result.great_expectations }}.</p>
{% for suite in suites %}
<h2>{{ suite }}</h2>
<p><a href="validations/{{ suite }}.html">What was found</a> |
<a href="expectations/{{ suite }}.html">What is expected</a></p>
<table>
<tr><th>Verdict</th><th>Expectation</th><th>Observed</th><th>Examples</th><th>Why</th></tr>
{% set outcomes = result.expectations | selectattr("suite", "eq", suite) %}
{% for outcome in outcomes | sort(attribute="success") %}
<tr>
<td class="verdict {{ "held" if outcome.success else outcome.severity }}">
{%- if outcome.success %}&#10003; holds{% else %}&#10007; {{ outcome.severity }}{% endif %}</td>
<td>{{ outcome.name }}</td>
<td>{{ outcome.observed }}</td>
<td>{{ outcome.example_ids | join(", ") }}</td>
<td>{{ outcome.why }}</td>
</tr>
{% endfor %}
</table>
{% endfor %}
</body>
</html>
"""
