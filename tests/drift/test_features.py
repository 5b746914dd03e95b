import numpy as np
import pytest

from dermascan.drift.features import (
    APPEARANCE_FEATURES,
    COMPONENTS,
    REFERENCE_FILE,
    Reference,
    ReferenceMaker,
    appearance,
    decode_reference,
    encode_reference,
    read_reference,
)
from dermascan.errors import IntegrityError

DIMENSIONS = 40


def images_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(60, 200, (count, 24, 32, 3), dtype=np.uint8)


def embeddings_of(count: int, seed: int = 0) -> np.ndarray:
    scale = np.linspace(3, 0.1, DIMENSIONS)
    return (np.random.default_rng(seed).normal(size=(count, DIMENSIONS)) * scale).astype(np.float32)


def made_of(count: int) -> Reference | None:
    maker = ReferenceMaker()
    for start in range(0, count, 32):
        number = min(32, count - start)
        maker.add(images_of(number, start), embeddings_of(number, start))
    return maker.reference()


def named(values: np.ndarray) -> dict[str, float]:
    return dict(zip(APPEARANCE_FEATURES, values.tolist(), strict=True))


def test_appearance_of_a_plain_image_is_its_colour_without_spread_or_edges():
    found = named(appearance(np.full((24, 32, 3), (255, 0, 0), np.uint8)))
    assert found["lightness"] == pytest.approx(53.2, abs=0.1)  # CIELAB of sRGB red
    assert found["redness"] == pytest.approx(80.1, abs=0.1)
    assert found["yellowness"] == pytest.approx(67.2, abs=0.1)
    assert found["spread of lightness"] == pytest.approx(0, abs=1e-3)
    assert found["sharpness"] == pytest.approx(-6)


def test_appearance_when_light_changes_moves_lightness_and_not_sharpness_order():
    image = images_of(1)[0]
    blurred = np.repeat(np.repeat(image[::4, ::4], 4, axis=0), 4, axis=1)
    assert named(appearance(image // 2))["lightness"] < named(appearance(image))["lightness"]
    assert named(appearance(blurred))["sharpness"] < named(appearance(image))["sharpness"]


def test_reference_uses_one_half_for_components_and_the_other_as_sample():
    reference = made_of(101)
    assert reference
    assert reference.sample.shape == (50, len(APPEARANCE_FEATURES) + COMPONENTS + 1)
    products = reference.components @ reference.components.T
    np.testing.assert_allclose(products, np.eye(COMPONENTS), atol=1e-5)


def test_reference_of_equal_images_is_equal():
    one, other = made_of(64), made_of(64)
    assert one
    assert other
    assert encode_reference(one) == encode_reference(other)


def test_reference_of_too_few_images_is_none():
    assert made_of(3) is None
    assert ReferenceMaker().reference() is None


def test_features_describe_images_as_the_sample_is_described():
    reference = made_of(64)
    assert reference
    images = np.concatenate([images_of(32, 0), images_of(32, 32)])
    embeddings = np.concatenate([embeddings_of(32, 0), embeddings_of(32, 32)])
    rows = {tuple(row) for row in reference.features(images, embeddings).round(3).tolist()}
    assert {tuple(row) for row in reference.sample.round(3).tolist()} <= rows


def test_features_of_an_embedding_beside_the_components_show_its_distance():
    reference = made_of(64)
    assert reference
    beside = np.linalg.svd(reference.components)[2][-1]
    near, far = reference.mean + 0.1 * beside, reference.mean + 10 * beside
    found = reference.features(images_of(2), np.stack([near, far]).astype(np.float32))
    np.testing.assert_allclose(found[:, -1], [-1, 1], atol=1e-3)
    np.testing.assert_allclose(found[:, 7:-1], 0, atol=1e-4)


def test_reference_when_written_and_read_is_the_same(tmp_path):
    reference = made_of(64)
    assert reference
    (tmp_path / REFERENCE_FILE).write_bytes(encode_reference(reference))
    found = read_reference(tmp_path)
    assert found
    np.testing.assert_array_equal(found.sample, reference.sample)
    np.testing.assert_array_equal(found.components, reference.components)


def test_read_reference_when_there_is_none_gives_none(tmp_path):
    assert read_reference(tmp_path) is None


@pytest.mark.parametrize("data", [b"", b"no archive", b"PK\x03\x04cut off"])
def test_decode_reference_when_damaged_refuses(data):
    with pytest.raises(IntegrityError, match=REFERENCE_FILE):
        decode_reference(data)
