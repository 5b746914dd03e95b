import json

import pytest
from pydantic import ValidationError

from dermascan.errors import IntegrityError, NotFoundError
from dermascan.imaging import ImageSize, Preprocessing
from dermascan.model.calibration import Calibration
from dermascan.model.ensemble import TestTimeViews
from dermascan.model.metadata import ModelMetadata, read_metadata

PREPROCESSING = Preprocessing(image_size=ImageSize(24, 32))
METADATA = ModelMetadata(
    malignant_classes=("akiec", "bcc", "mel"),
    threshold=0.25,
    calibration=Calibration(temperature=1.5, malignant_slope=0.9),
    views=TestTimeViews(mirrors=True, zooms=(1.0, 0.8)),
    preprocessing=PREPROCESSING,
    dataset_fingerprint="d" * 24,
    training_fingerprint="t" * 24,
    network={"architecture": "small_cnn", "weights": "none", "dropout": 0.2},
    licences={"training data": "CC-0"},
)
FORMAT_1 = """{
  "format": 1,
  "classes": ["akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"],
  "malignant_classes": ["mel", "bcc", "akiec"],
  "threshold": 0.28244571255440537,
  "temperature": 0.19943903375477534,
  "preprocessing": {
    "image_size": "16x24",
    "colour_constancy": false,
    "hair_removal": false,
    "limits": {
      "max_bytes": 52428800, "max_pixels": 100000000, "min_side": 32, "max_aspect": 8.0
    }
  },
  "dataset_fingerprint": "ffffffffffffffffffffffff",
  "training_fingerprint": "8560db54310e61ccf65dd29c",
  "network": {"architecture": "small_cnn", "weights": "none", "dropout": 0.2},
  "inputs": {
    "serving_default": {
      "shape": [null, 16, 24, 3], "dtype": "float32", "meaning": "RGB, 0..255, channels last"
    },
    "serve_uint8": {
      "shape": [null, 16, 24, 3], "dtype": "uint8", "meaning": "RGB, 0..255, channels last"
    }
  },
  "outputs": {
    "probabilities": {
      "shape": [null, 7], "dtype": "float32", "meaning": "calibrated class probabilities"
    },
    "p_malignant": {"shape": [null], "dtype": "float32", "meaning": "0..1"},
    "embedding": {"shape": [null, 64], "dtype": "float32", "meaning": "features"}
  },
  "licences": {"training data": "CC-0"},
  "versions": {"python": "3.11.7", "dermascan": "0.1.0"},
  "intended_use": "Research and education. Not a medical device; not for diagnosis."
}"""


def written(folder, content):
    (folder / "metadata.json").write_text(content)
    return folder


def test_read_metadata_gives_back_what_was_written(tmp_path):
    assert read_metadata(written(tmp_path, METADATA.model_dump_json())) == METADATA


def test_metadata_on_disk_names_the_classes_in_order_and_the_preprocessing_plainly():
    plain = json.loads(METADATA.model_dump_json())

    assert plain["format"] == 3
    assert plain["classes"] == ["akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"]
    assert set(plain["class_names"]) == set(plain["classes"])
    assert plain["preprocessing"] == PREPROCESSING.as_plain()
    assert plain["calibration"]["temperature"] == 1.5
    assert plain["views"] == {"mirrors": True, "zooms": [1.0, 0.8]}
    assert plain["encoded_bytes"].startswith("not offered")


def test_read_metadata_of_format_1_gives_a_usable_description(tmp_path):
    metadata = read_metadata(written(tmp_path, FORMAT_1))

    assert metadata.calibration == Calibration(temperature=0.19943903375477534)
    assert metadata.temperature == 0.19943903375477534
    assert metadata.threshold == 0.28244571255440537
    assert metadata.views == TestTimeViews()
    assert metadata.networks == 1
    assert metadata.preprocessing == Preprocessing(ImageSize(16, 24), decoding="full")
    assert metadata.malignant_indices() == (4, 1, 0)
    images = metadata.signatures["serve_uint8"].inputs["images"]
    assert (images.shape, images.dtype) == ((None, 16, 24, 3), "uint8")
    assert metadata.signatures["serving_default"].outputs["probabilities"].shape == (None, 7)


def test_metadata_of_format_1_when_written_again_is_of_the_present_format():
    metadata = ModelMetadata.model_validate_json(FORMAT_1)

    assert ModelMetadata.model_validate_json(metadata.model_dump_json()) == metadata
    assert metadata.format == 3


def test_metadata_of_format_2_is_read_with_one_slope_for_both_groups():
    plain = json.loads(METADATA.model_dump_json()) | {"format": 2}
    del plain["calibration"]["benign_slope"]

    metadata = ModelMetadata.model_validate(plain)

    assert metadata.calibration.slopes == (0.9, 0.9)


def test_read_metadata_when_nothing_was_exported_says_so(tmp_path):
    with pytest.raises(NotFoundError, match=r"metadata\.json"):
        read_metadata(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[]",
        '{"threshold": 2}',
        METADATA.model_dump_json().replace('"format":3', '"format":4'),
        METADATA.model_dump_json().replace("24x32", "24"),
        FORMAT_1.replace("0.19943903375477534", "0"),
    ],
)
def test_read_metadata_when_damaged_refuses(tmp_path, content):
    with pytest.raises(IntegrityError, match="description"):
        read_metadata(written(tmp_path, content))


@pytest.mark.parametrize(
    "changes",
    [
        {"malignant_classes": ()},
        {"malignant_classes": ("melanoma",)},
        {"malignant_classes": METADATA.classes},
        {"calibration": Calibration(class_offsets=(1.0,))},
    ],
)
def test_metadata_when_classes_and_calibration_do_not_fit_refuses(changes):
    with pytest.raises(ValidationError):
        ModelMetadata.model_validate(METADATA.model_dump() | changes)
