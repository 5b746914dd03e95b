import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermascan.dataset import MANIFEST_SCHEMA
from dermascan.isic.metadata import ParsedMetadata, parse_metadata
from dermascan.isic.records import ImageRecord
from dermascan.taxonomy import Taxonomy

NEVUS = {
    "diagnosis_1": "Benign",
    "diagnosis_2": "Benign melanocytic proliferations",
    "diagnosis_3": "Nevus",
}
INVASIVE_SCC = {
    "diagnosis_1": "Malignant",
    "diagnosis_2": "Malignant epidermal proliferations",
    "diagnosis_3": "Squamous cell carcinoma, Invasive",
}
FIELDS = [
    "age",
    "age_approx",
    "anatom_site",
    "anatom_site_1",
    "anatom_site_general",
    "anatom_site_special",
    "clin_size_long_diam_mm",
    "concomitant_biopsy",
    "dermoscopic_type",
    "diagnosis",
    *(f"diagnosis_{level}" for level in range(1, 6)),
    "diagnosis_confirm_type",
    "fitzpatrick_skin_type",
    "image_type",
    "lesion_id",
    "mel_thick_mm",
    "mel_ulcer",
    "patient_id",
    "personal_hx_mm",
    "rcm_case_id",
    "sex",
    "tbp_tile_type",
    "self",
    "unstructured",
]
VALUES = st.sampled_from(
    [
        "Benign",
        "Nevus",
        "RCM: tile",
        "histopathology",
        "1mm",
        "1.2.3",
        "nanmm",
        "1e999cm",
        "85+",
        ":",
    ]
)


def parsed(**metadata):
    record = ImageRecord("ISIC_0000001", "https://files.test/a.jpg", 1, "jpg", "CC-0", "", metadata)
    return parse_metadata(record)


def test_parse_metadata_of_a_whole_row_keeps_every_value():
    found = parsed(
        **NEVUS,
        patient_id="IP_1",
        lesion_id="IL_1",
        diagnosis_confirm_type="histopathology",
        image_type="dermoscopic",
        age_approx=45,
        sex="female",
        anatom_site_general="lower extremity",
        fitzpatrick_skin_type="II",
        pixels_x=1024,
    )

    assert found == ParsedMetadata(
        **NEVUS,
        patient_id="IP_1",
        lesion_id="IL_1",
        diagnosis_confirm_type="histopathology",
        image_type="dermoscopic",
        age_approx=45,
        sex="female",
        anatom_site_general="lower extremity",
        fitzpatrick_skin_type="II",
        lesion_class="nv",
        errors=(),
    )


def test_parsed_metadata_has_exactly_the_manifests_isic_columns():
    columns = MANIFEST_SCHEMA.names
    isic = columns[columns.index("patient_id") : columns.index("metadata_errors")]

    assert set(ParsedMetadata.model_fields) == {*isic, "lesion_class", "errors"}


@pytest.mark.parametrize("nothing", [None, "", "  ", math.nan])
def test_parse_metadata_when_values_are_missing_has_neither_values_nor_errors(nothing):
    found = parsed(**dict.fromkeys(FIELDS, nothing))

    assert found == ParsedMetadata()


def test_parse_metadata_when_the_diagnosis_is_unknown_keeps_the_rest():
    found = parsed(diagnosis_1="Benign", diagnosis_2="Dragon pox", sex="male", age_approx=5)

    assert found == ParsedMetadata(
        sex="male", age_approx=5, errors=("diagnosis 'Benign:Dragon pox' is not valid",)
    )


def test_parse_metadata_when_a_level_is_skipped_does_not_guess_it():
    found = parsed(diagnosis_1="Benign", diagnosis_3="Nevus")

    assert found.diagnosis_1 is None
    assert found.lesion_class is None
    assert found.errors == ("diagnosis 'Benign::Nevus' is not valid",)


def test_parse_metadata_when_several_values_are_wrong_names_each():
    found = parsed(**NEVUS, sex="unknown", image_type="painting", fitzpatrick_skin_type=3)

    assert found == ParsedMetadata(
        **NEVUS,
        lesion_class="nv",
        errors=(
            "sex 'unknown' is not valid",
            "fitzpatrick_skin_type 3 is not valid",
            "image_type 'painting' is not valid",
        ),
    )


@pytest.mark.parametrize(
    ("given_age", "age"),
    [(0, 0), (45, 45), ("45", 45), (45.0, 45), ("45.0", 45), ("85+", 85), (100, 85), (120, 85)],
)
def test_parse_metadata_when_the_age_is_plausible_keeps_it_up_to_the_oldest_group(given_age, age):
    assert parsed(age_approx=given_age) == ParsedMetadata(age_approx=age)


@pytest.mark.parametrize("age", [-5, 121, 45.5, "45+", "old", True, 10**30])
def test_parse_metadata_when_the_age_is_not_plausible_says_so(age):
    assert parsed(age_approx=age) == ParsedMetadata(
        errors=(f"age_approx {age!r} is not an age of 0 to 120 years",)
    )


def test_parse_metadata_when_the_exact_age_is_given_does_not_take_it_for_the_approximate_one():
    assert parsed(age=47) == ParsedMetadata()


def test_parse_metadata_when_the_site_is_unknown_says_so():
    found = parsed(anatom_site_general="Tail")

    assert found == ParsedMetadata(errors=("anatom_site_general 'Tail' is not valid",))


def test_parse_metadata_when_letters_differ_in_case_uses_the_archives_spelling():
    found = parsed(anatom_site_general="Head/Neck", sex="Male")

    assert (found.anatom_site_general, found.sex) == ("head/neck", "male")


def test_parse_metadata_when_identifiers_are_numbers_makes_them_text():
    found = parsed(patient_id=12, lesion_id=7)

    assert (found.patient_id, found.lesion_id) == ("12", "7")


def test_parse_metadata_when_two_fields_contradict_keeps_neither():
    found = parsed(**NEVUS, mel_ulcer=True, sex="male")

    assert found == ParsedMetadata(
        sex="male",
        errors=(
            "mel_ulcer True contradicts diagnosis 'Benign:Benign melanocytic proliferations:Nevus'",
        ),
    )


def test_parse_metadata_when_a_field_lacks_its_companion_drops_that_field_only():
    found = parsed(rcm_case_id="R1", sex="male")

    assert found == ParsedMetadata(
        sex="male", errors=("rcm_case_id 'R1' is not valid without image_type",)
    )


def test_parse_metadata_when_a_value_is_very_long_shortens_it_in_the_error():
    (error,) = parsed(sex="x" * 100_000).errors

    assert len(error) < 200


def test_parse_metadata_takes_the_class_from_the_taxonomy_it_is_given():
    record = ImageRecord("ISIC_0000001", "", 1, "jpg", "CC-0", "", INVASIVE_SCC)

    classes = [parse_metadata(record, t).lesion_class for t in (None, Taxonomy(scc_as=None))]

    assert classes == ["akiec", None]


@given(
    st.dictionaries(
        st.sampled_from(FIELDS) | st.text(max_size=5),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | VALUES,
        max_size=12,
    )
)
def test_parse_metadata_whatever_the_row_says_returns_and_accounts_for_it(metadata):
    found = parsed(**metadata)

    assert (found.age_approx is None) or 0 <= found.age_approx <= 85
    for field in ("sex", "image_type", "fitzpatrick_skin_type"):
        value = metadata.get(field)
        said = isinstance(value, str) and value.strip()
        lost = said and getattr(found, field) is None
        assert not lost or any(field in error for error in found.errors)
