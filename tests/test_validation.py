import io
import json
import logging
import posixpath
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import active_parts

from dermascan import validation
from dermascan.dataset import (
    MANIFEST_SCHEMA,
    DatasetPointer,
    encode_manifest,
    manifest_fingerprint,
    publish,
)
from dermascan.errors import InputError, TransientError, ValidationFailedError
from dermascan.layout import DatasetKeys
from dermascan.storage import Store
from dermascan.taxonomy import LESION_CLASSES
from dermascan.validation import (
    ExpectationOutcome,
    ValidationResult,
    latest_result,
    load_suites,
    validate,
    with_cross_row_columns,
)

SUITES = Path(__file__).parents[1] / "include" / "expectations"
IMAGES_PER_CLASS = 40
KEY_ENDINGS = (".jpg", ".jpeg", ".png", ".0123456789abcdef.jpg")
HOSTILE = "<form action=//x><img src=x onerror=alert(1)>"
HOSTILE_AS_TEXT = "&lt;form action=//x&gt;&lt;img src=x onerror=alert(1)&gt;"

TINY_SUITE = """
expectations:
  - name: ages are human
    type: ExpectColumnValuesToBeBetween
    kwargs: {column: age_approx, max_value: 120}
    severity: critical
    meta:
      why: Nobody is older.
  - name: sexes are known
    type: ExpectColumnValuesToNotBeNull
    kwargs: {column: sex}
    severity: warning
    meta:
      why: Figures by sex need it.
"""


def isic_id(row: int) -> str:
    return f"ISIC_{row:07d}"


def manifest() -> pd.DataFrame:
    """Return a manifest with nothing wrong: two images a lesion, one lesion a patient."""
    rows = [
        {
            "isic_id": isic_id(i),
            "key": f"raw/small/images/{isic_id(i)}{KEY_ENDINGS[i % 4]}",
            "sha256": f"{i:064x}",
            "size": 50_000 + i,
            "copyright_license": "CC-BY",
            "attribution": "Somebody",
            "patient_id": f"IP_{i // 2:07d}",
            "lesion_id": f"IL_{i // 2:07d}",
            "image_type": "dermoscopic",
            "age_approx": 5 * (i % 18),
            "sex": ("female", "male", None)[i % 3],
            "anatom_site_general": ("head/neck", "lower extremity", None)[i % 3],
            "metadata_json": "{}",
            "lesion_class": LESION_CLASSES[i // IMAGES_PER_CLASS],
            "format": "JPEG",
            "width": 600,
            "height": 450,
            "sharpness": 40.0 + i,
            "brightness": 150.0,
            "clipped_fraction": 0.01,
            "perceptual_hash": f"{i:016x}",
        }
        for i in range(IMAGES_PER_CLASS * len(LESION_CLASSES))
    ]
    return pd.DataFrame(rows, columns=MANIFEST_SCHEMA.names).astype(object)


def opened(frame: pd.DataFrame) -> pq.ParquetFile:
    return pq.ParquetFile(io.BytesIO(encode_manifest(frame)))


def judge(frame: pd.DataFrame) -> validation._Judgement:
    return validation._judge(opened(frame), load_suites(SUITES))


def broken(judgement: validation._Judgement) -> set[str]:
    return {outcome.name for outcome in judgement.outcomes if not outcome.success}


def suite_of(*expectations: tuple[str, dict[str, object]]) -> validation.Suite:
    rest = {"severity": "warning", "meta": {"why": "To see."}}
    entries = [
        {"name": f"{number}", "type": kind, "kwargs": kwargs} | rest
        for number, (kind, kwargs) in enumerate(expectations)
    ]
    return validation.Suite.model_validate({"name": "own", "expectations": entries})


def test_suites_judge_columns_apart_as_great_expectations_judges_them_together(
    monkeypatch: pytest.MonkeyPatch,
):
    wrong = manifest()
    wrong.loc[0, "sex"], wrong.loc[1, "width"], wrong.loc[2, "isic_id"] = "neither", 20_000, None
    apart = judge(wrong)
    monkeypatch.setattr(validation, "_by_column", lambda suite: [suite])

    together = judge(wrong)

    assert apart.outcomes == together.outcomes
    assert {name: without_chance(page) for name, page in apart.pages.items()} == {
        name: without_chance(page) for name, page in together.pages.items()
    }


def without_chance(page: str) -> str:
    """Return a page of Data Docs without its random identifiers and the time it was made."""
    return re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d{8}T\d{6}\.\d{6}Z", "", page)


def test_suites_see_no_columns_but_those_that_they_speak_of(monkeypatch: pytest.MonkeyPatch):
    seen, batch = [], validation._batch

    def recorded(frame: pd.DataFrame) -> object:
        seen.append(list(frame.columns))
        return batch(frame)

    monkeypatch.setattr(validation, "_batch", recorded)
    condition = {"row_condition": 'sex == "male"', "condition_parser": "pandas"}
    suite = suite_of(
        ("ExpectColumnValuesToNotBeNull", {"column": "sharpness"}),
        ("ExpectColumnValuesToNotBeNull", {"column": "lesion_class", **condition}),
        ("ExpectColumnValuesToBeBetween", {"column": "sharpness", "min_value": 1}),
    )

    validation._judge(opened(manifest()), [suite])

    assert seen == [["sharpness"], ["sex", "lesion_class"]]


def test_suites_that_speak_of_which_columns_there_are_see_all():
    names = [*MANIFEST_SCHEMA.names, *validation._MADE]
    suite = suite_of(("ExpectTableColumnsToMatchOrderedList", {"column_list": names}))

    judged = validation._judge(opened(manifest()), [suite])

    assert broken(judged) == set()


def published(store: Store, frame: pd.DataFrame) -> DatasetPointer:
    name = manifest_fingerprint(frame)
    pointer = DatasetPointer(
        "small", name, DatasetKeys("small").manifest(name), len(frame), 0, 0, ""
    )
    publish(store, pointer, frame)
    return pointer


def tiny_suites(folder: Path, content: str = TINY_SUITE) -> Path:
    (folder / "tiny.yaml").write_text(content)
    return folder


# What is made wrong in which row of `manifest()` ...
CHANGES: dict[int, dict[str, object]] = {
    0: {"copyright_license": None},
    2: {"copyright_license": " "},
    4: {"copyright_license": "nobody's"},
    6: {"attribution": None},
    8: {"attribution": ""},
    10: {"attribution": None, "copyright_license": "CC-0"},
    12: {"patient_id": "IP_9999999"},
    14: {"lesion_class": "nv"},
    16: {"age_approx": 200},
    18: {"sex": HOSTILE},
    20: {"anatom_site_general": "moon"},
    22: {"key": "elsewhere/ISIC_0000022.jpg"},
    24: {"key": "raw/small/images/ISIC_0000025.jpeg"},
    26: {"sha256": f"{28:064x}"},
    30: {"sha256": f"{279:064x}"},
    32: {"sha256": f"{33:064x}"},
    34: {"sharpness": None},
    36: {"format": None},
    38: {"format": "GIF"},
    40: {"width": 16},
    42: {"size": 0},
    44: {"perceptual_hash": f"{46:016x}"},
    48: {"perceptual_hash": "xyz"},
    50: {"sha256": "abc"},
    52: {"brightness": None},
    54: {"clipped_fraction": 1.5},
    56: {"perceptual_hash": f"{278:016x}"},
    58: {"lesion_class": "wart"},
    59: {"lesion_class": "wart"},
    60: {"isic_id": "ISIC_0000061"},
    62: {"width": None},
    64: {"isic_id": "ISIC 64", "key": "raw/small/images/ISIC 64.jpg"},
    66: {"key": None},
    68: {"perceptual_hash": None},
    70: {"sha256": None},
}
# ... and which expectations notice it, in the rows of which `isic_id`s.
NOTICED: dict[str, set[str]] = {
    "every image has a licence": {isic_id(0)},
    "no licence is blank": {isic_id(2)},
    "licences are those of the archive": {isic_id(2), isic_id(4)},
    "every image that must be attributed says to whom": {isic_id(6)},
    "no attribution that is needed is blank": {isic_id(8)},
    "a lesion has one patient": {isic_id(12), isic_id(13)},
    "a lesion has one class": {isic_id(14), isic_id(15)},
    "ages are between 0 and 120 years": {isic_id(16)},
    "sex is one that the archive knows": {isic_id(18)},
    "sites are ones that the archive knows": {isic_id(20)},
    "keys have the layout of the raw area": {isic_id(22), "ISIC 64"},
    "the key belongs to the row's identifier": {isic_id(24), isic_id(61)},
    "no key occurs twice": {isic_id(24), isic_id(25)},
    "no image is there twice": {isic_id(i) for i in (26, 28, 30, 279, 32, 33)},
    "no image is of two lesions": {isic_id(i) for i in (26, 28, 30, 279)},
    "no image has two classes": {isic_id(30), isic_id(279)},
    "every image has its sharpness measured": {isic_id(34)},
    "every image was decoded": {isic_id(36)},
    "images are JPEG or PNG": {isic_id(38)},
    "the shorter side has 32 pixels": {isic_id(40)},
    "the longer side is at most eight times the shorter": {isic_id(40)},
    "files have 1 byte to 50 MiB": {isic_id(42)},
    "images that look the same are of one lesion": {isic_id(i) for i in (44, 46, 56, 278)},
    "images that look the same are of one class": {isic_id(56), isic_id(278)},
    "perceptual hashes have 16 hexadecimal digits": {isic_id(48)},
    "SHA-256 has 64 hexadecimal digits": {isic_id(50)},
    "every image has its exposure measured": {isic_id(52)},
    "clipped shares are shares": {isic_id(54)},
    "lesion classes are those of the taxonomy": {isic_id(58), isic_id(59)},
    "every class has twenty images": {isic_id(58), isic_id(59)},
    "no identifier occurs twice": {isic_id(61)},
    "every image has a size": {isic_id(62)},
    "identifiers can stand in a key": {"ISIC 64"},
    "every image has a key": {isic_id(66)},
    "every image has a perceptual hash": {isic_id(68)},
    "every image has a SHA-256": {isic_id(70)},
}
WARNINGS = {
    "licences are those of the archive",
    "a lesion has one class",
    "no image is there twice",
    "images that look the same are of one lesion",
    "images that look the same are of one class",
    "every class has twenty images",
}


# The suites


@pytest.fixture(scope="module")
def judgement() -> validation._Judgement:
    frame = manifest()
    for row, cells in CHANGES.items():
        for column, value in cells.items():
            frame.loc[row, column] = value
    return judge(frame)


@pytest.fixture(scope="module")
def outcomes(judgement: validation._Judgement) -> dict[str, ExpectationOutcome]:
    return {outcome.name: outcome for outcome in judgement.outcomes}


def test_suites_when_nothing_is_wrong_hold():
    assert broken(judge(manifest())) == set()


@pytest.mark.parametrize(("name", "ids"), NOTICED.items(), ids=list(NOTICED))
def test_suites_when_rows_are_wrong_name_these_rows(
    outcomes: dict[str, ExpectationOutcome], name: str, ids: set[str]
):
    outcome = outcomes[name]

    assert not outcome.success
    assert set(outcome.example_ids) == ids
    assert outcome.unexpected_count >= len(outcome.example_ids) == len(ids)
    assert outcome.severity == ("warning" if name in WARNINGS else "critical")


def test_suites_when_rows_are_wrong_blame_nothing_else(judgement: validation._Judgement):
    assert broken(judgement) == set(NOTICED)


def test_suites_when_most_rows_are_poor_break_what_allows_a_few():
    frame = manifest().assign(
        metadata_errors="age_approx: not a number",
        lesion_class=["mel"] * 15 + [None] * 265,
        image_type="TBP tile: close-up",
        lesion_id=[f"IL_{i % 15}" for i in range(15)] + [None] * 265,
        age_approx=None,
        sex=None,
        anatom_site_general=None,
        width=300,
        height=100,
        sharpness=0.2,
        brightness=3.0,
        clipped_fraction=0.97,
        perceptual_hash="0" * 16,
    )

    assert broken(judge(frame)) == {
        "metadata of most images is valid",
        "metadata of nearly all images is valid",
        "at least half of the images have a class",
        "nine in ten images have a class",
        "there are two classes or more",
        "every class has twenty images",
        "images are dermoscopic",
        "half of the images name their lesion",
        "half of the ages are known",
        "half of the sexes are known",
        "a third of the sites are known",
        "the shorter side has what the network sees",
        "the longer side is at most twice the shorter",
        "images are not empty",
        "images are sharp",
        "images are neither black nor white",
        "images are well exposed",
        "most images have detail in most places",
        "images have detail nearly everywhere",
        "few images look the same",
        "images that look the same are of one lesion",
    }


def test_suites_when_many_lesions_have_two_classes_break_a_critical_expectation():
    frame = manifest()
    frame.loc[0:38:2, "lesion_class"] = "nv"

    assert broken(judge(frame)) == {"nearly every lesion has one class", "a lesion has one class"}


def test_suites_when_there_are_no_images_break():
    assert broken(judge(manifest()[:0])) == {"there are images", "there are two classes or more"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("expectations: []", "not an expectation suite"),
        ("- a list", "not an expectation suite"),
        ("expectations: [", "not an expectation suite"),
        (TINY_SUITE.replace("critical", "fatal"), "severity"),
        (TINY_SUITE.replace("why: Nobody is older.", "{}"), "why"),
        (TINY_SUITE.replace("sexes are known", "ages are human"), "two expectations one name"),
    ],
)
def test_load_suites_when_file_is_no_suite_names_the_file(
    tmp_path: Path, content: str, message: str
):
    with pytest.raises(InputError, match=rf"(?s)tiny\.yaml.*{message}"):
        load_suites(tiny_suites(tmp_path, content))


def test_load_suites_when_folder_is_empty_says_so(tmp_path: Path):
    with pytest.raises(InputError, match="no expectation suite"):
        load_suites(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ExpectColumnValuesToNotBeNull", "ExpectMiracles", "has no ExpectMiracles"),
        ("{column: sex}", "{column: sex, mostly: 7}", "unusable kwargs"),
        ("{column: sex}", "{column: gender}", '"gender" in BatchData does not exist'),
    ],
)
def test_suites_when_an_expectation_cannot_be_evaluated_are_refused(
    tmp_path: Path, old: str, new: str, message: str
):
    suites = load_suites(tiny_suites(tmp_path, TINY_SUITE.replace(old, new)))

    with pytest.raises(InputError, match=message):
        validation._judge(opened(manifest()), suites)


# Columns that other rows decide


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["p", "q", None])), max_size=12))
def test_with_cross_row_columns_when_lesions_repeat_counts_their_known_patients(
    pairs: list[tuple[str, str | None]],
):
    frame = manifest()[: len(pairs)].assign(
        lesion_id=[lesion for lesion, _ in pairs], patient_id=[patient for _, patient in pairs]
    )

    found = with_cross_row_columns(opened(frame), ["patients_of_lesion"]).iloc[:, 0].tolist()

    known = Counter(lesion for lesion, patient in set(pairs) if patient is not None)
    assert found == [known[lesion] for lesion, _ in pairs]


def test_with_cross_row_columns_when_a_row_has_nothing_to_group_by_gives_null():
    frame = manifest()
    frame.loc[0, ["lesion_id", "sha256", "perceptual_hash", "lesion_class", "key", "width"]] = None

    row = with_cross_row_columns(opened(frame), list(validation._MADE)).iloc[0]

    assert row.isna().all()


# Validating a published manifest


@pytest.fixture
def ages_wrong(store: Store) -> DatasetPointer:
    frame = manifest()
    frame.loc[3, "age_approx"] = 200
    return published(store, frame)


def test_validate_when_data_is_good_publishes_result_and_data_docs(store: Store):
    pointer = published(store, manifest())

    result = validate(store, pointer, SUITES)

    result.require()
    prefix = f"{DatasetKeys('small').validation(pointer.fingerprint)}{result.suites}/"
    plain = json.loads(store.get(f"{prefix}result.json"))
    assert plain["success"] is True
    assert plain["images"] == 280
    assert plain["expectations"][0].keys() == ExpectationOutcome.model_fields.keys()
    assert result.data_docs == f"{prefix}data_docs/index.html"
    assert _content_type(store, result.data_docs) == "text/html; charset=utf-8"
    assert _content_type(store, f"{prefix}result.json") == "application/json"
    assert latest_result(store, pointer, SUITES) == result


def test_data_docs_when_opened_without_network_lack_nothing(
    store: Store, ages_wrong: DatasetPointer
):
    result = validate(store, ages_wrong, SUITES)

    root = posixpath.dirname(result.data_docs)
    pages = {found.key: store.get(found.key).decode() for found in store.list(f"{root}/")}
    assert len(pages) == 5
    for key, page in pages.items():
        assert not re.findall(r"<(?:script|link|img|iframe)\b|url\(|@import", page), key
        assert "default-src 'none'" in page
        for link in re.findall(r'href="([^"#]+)"', page):
            target = posixpath.normpath(posixpath.join(posixpath.dirname(key), link))
            assert link.startswith("https://greatexpectations.io") or target in pages
    assert "ages are between 0 and 120 years" in pages[result.data_docs]
    assert isic_id(3) in pages[result.data_docs]


def _active_parts(page: str) -> list[str]:
    """Return what could run or load something, less what Great Expectations itself puts there.

    Those are links between pages of the folder and to its maker, and a switch whose script the
    pages' policy does not let run.
    """
    own = re.compile(
        r"<a href='((\.\./|[a-z_]+/)*[a-z_]+\.html(#[\w-]*)?|https://greatexpectations\.io[^']*)'>"
        r"|<label onclick='\w+Validations\(\)'>|<input>"
    )
    return [part for part in active_parts(page) if not own.fullmatch(part)]


def test_data_docs_when_metadata_is_hostile_show_it_as_text(judgement: validation._Judgement):
    page = judgement.pages["validations/metadata.html"]

    assert _active_parts(page) == []
    assert HOSTILE_AS_TEXT in page


def test_index_page_when_metadata_is_hostile_shows_it_as_text(
    outcomes: dict[str, ExpectationOutcome],
):
    outcome = outcomes["sex is one that the archive knows"]
    result = _result([outcome])

    page = validation._index_page(result)

    assert _active_parts(page) == []
    assert HOSTILE_AS_TEXT in page


def test_validate_when_called_again_does_no_work(
    store: Store,
    ages_wrong: DatasetPointer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    first = validate(store, ages_wrong, tiny_suites(tmp_path))
    monkeypatch.setattr(validation, "_judge", None)
    caplog.set_level(logging.INFO, "dermascan.validation")

    second = validate(store, ages_wrong, tmp_path)

    assert second == first
    assert "nothing to do" in caplog.text


def test_validate_when_suites_change_validates_again(
    store: Store, ages_wrong: DatasetPointer, tmp_path: Path
):
    strict = validate(store, ages_wrong, tiny_suites(tmp_path))
    tiny_suites(tmp_path, TINY_SUITE.replace("max_value: 120", "max_value: 200"))
    before = latest_result(store, ages_wrong, tmp_path)

    lenient = validate(store, ages_wrong, tmp_path)

    assert (strict.success, before, lenient.success) == (False, None, True)
    assert latest_result(store, ages_wrong, tiny_suites(tmp_path)) == strict


def test_validate_when_killed_before_the_end_leaves_no_result(
    store: Store, ages_wrong: DatasetPointer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def put(key: str, data: bytes, content_type: str) -> str:
        if key.endswith("index.html"):
            raise TransientError("killed")
        return Store.put(store, key, data, content_type)

    monkeypatch.setattr(store, "put", put)

    with pytest.raises(TransientError):
        validate(store, ages_wrong, tiny_suites(tmp_path))

    assert latest_result(store, ages_wrong, tmp_path) is None


def test_validate_when_a_warning_is_broken_logs_it_and_succeeds(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    result = validate(store, published(store, manifest()), tiny_suites(tmp_path))

    result.require()
    line = next(r for r in caplog.records if r.levelno == logging.WARNING).getMessage()
    assert line.startswith("tiny: sexes are known: 93 of 280 images break it (33.21 %)")
    assert isic_id(2) in line


# The verdict


def _result(outcomes: list[ExpectationOutcome]) -> ValidationResult:
    return ValidationResult(
        dataset="small",
        manifest="f" * 24,
        suites="a" * 12,
        images=280,
        success=all(o.success or o.severity == "warning" for o in outcomes),
        expectations=tuple(outcomes),
        data_docs="docs/index.html",
        great_expectations="1",
    )


def _content_type(store: Store, key: str) -> str:
    return store._s3.head_object(Bucket=store.bucket, Key=key)["ContentType"]


def test_require_when_critical_expectations_are_broken_lists_counts_and_examples(
    outcomes: dict[str, ExpectationOutcome],
):
    result = _result(list(outcomes.values()))

    with pytest.raises(ValidationFailedError) as caught:
        result.require()

    message = str(caught.value)
    assert "ages are between 0 and 120 years: 1 of 280 images break it (0.36 %) with 200" in message
    assert "such as ISIC_0000012, ISIC_0000013" in message
    assert "no image is there twice" not in message  # a warning
    assert "docs/index.html" in message
    assert message.count("\n") == len(result.broken("critical")) + 1


def test_summary_when_expectations_are_broken_counts_them_by_severity(
    outcomes: dict[str, ExpectationOutcome],
):
    critical = len(NOTICED) - len(WARNINGS)

    summary = _result(list(outcomes.values())).summary()

    assert "is NOT valid" in summary
    assert f"(broken: {critical} critical, {len(WARNINGS)} warning)" in summary


def test_module_when_imported_does_not_import_great_expectations():
    program = "import dermascan.validation, sys; sys.exit('great_expectations' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
