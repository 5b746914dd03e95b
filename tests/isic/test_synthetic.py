import csv
import io
from collections import Counter, defaultdict
from dataclasses import fields, replace
from itertools import islice

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isic_metadata.metadata import MetadataBatch, MetadataRow
from PIL import Image

from dermascan.errors import InputError
from dermascan.isic import drawing, synthetic
from dermascan.taxonomy import LESION_CLASSES, Taxonomy

SKIN = drawing.Skin(
    melanin=0.1, blood=0.2, sun_damage=0.3, hairiness=0.0, hair_colour=(0.1, 0.1, 0.1)
)
VIEW = drawing.View(
    angle=0.0,
    millimetre=50.0,
    shift=(0.0, 0.0),
    light=(1.0, 1.0, 1.0),
    gradient=0.0,
    gradient_angle=0.0,
    vignette=0.0,
    aperture=0.0,
    hairs=0,
    bubbles=0,
    ruler=False,
    blur=0.5,
    grain=0.0,
)
NEVUS = drawing.LesionAppearance(radius=2.0, melanin=1.0, network=0.5)


def _rows(plan):
    return list(csv.DictReader(io.StringIO(synthetic.encode_metadata(plan).decode(), newline="")))


def _random(seed=0):
    return np.random.default_rng(seed)


def _picture(looks=NEVUS, view=VIEW, skin=SKIN, lesion=1, around=2):
    return drawing.draw_picture(skin, looks, view, _random(lesion), _random(around))


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    directory = tmp_path_factory.mktemp("archive") / "drawn"
    return synthetic.write_archive(directory, images=12, seed=3)


# what is planned


@pytest.mark.parametrize("seed", [0, 1, 7, 1234])
def test_plan_archive_with_60_images_has_every_class(seed):
    classes = {image.lesion.lesion_class for image in synthetic.plan_archive(60, seed)}

    assert classes == set(LESION_CLASSES)


def test_plan_archive_with_1000_images_keeps_the_shares_of_classes():
    counts = Counter(image.lesion.lesion_class for image in synthetic.plan_archive(1000, 5))

    for name, share in synthetic.CLASS_SHARES.items():
        assert counts[name] / 1000 == pytest.approx(share, abs=0.01)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 80), st.integers(0, 80), st.integers(0, 2**32))
def test_plan_archive_when_larger_begins_with_the_smaller(images, more, seed):
    larger = synthetic.plan_archive(images + more, seed)

    assert larger[:images] == synthetic.plan_archive(images, seed)


def test_plan_archive_gives_a_quarter_of_lesions_several_images():
    per_lesion = Counter(image.lesion.number for image in synthetic.plan_archive(2000, 1))
    several = sum(count > 1 for count in per_lesion.values()) / len(per_lesion)

    assert 0.2 < several < 0.3
    assert max(per_lesion.values()) == 3


def test_plan_archive_gives_a_lesion_one_patient_and_some_patients_several_lesions():
    patients = defaultdict(set)
    lesions = defaultdict(set)
    for image in synthetic.plan_archive(500, 1):
        patients[image.lesion.lesion_id].add(image.lesion.patient.patient_id)
        lesions[image.lesion.patient.patient_id].add(image.lesion.lesion_id)

    assert {len(ids) for ids in patients.values()} == {1}
    assert {len(ids) for ids in lesions.values()} == {1, 2, 3}


@pytest.mark.parametrize(
    ("images", "seed", "complaint"),
    [(0, 1, "0 images"), (-3, 1, "-3 images"), (1_000_001, 1, "1000000"), (5, -1, "seed -1")],
)
def test_plan_archive_with_argument_out_of_range_names_it(images, seed, complaint):
    with pytest.raises(InputError, match=complaint):
        synthetic.plan_archive(images, seed)


def test_plan_lesions_with_other_seed_differ():
    first, second = (list(islice(synthetic.plan_lesions(seed), 20)) for seed in (1, 2))

    assert first != second


# the metadata


def test_metadata_of_1000_images_is_valid_for_isic_metadata():
    rows = _rows(synthetic.plan_archive(1000, 11))

    MetadataBatch(items=[MetadataRow(**row) for row in rows])


def test_metadata_diagnosis_maps_to_the_class_that_is_drawn():
    plan = synthetic.plan_archive(500, 2)

    mapped = [
        Taxonomy().lesion_class([row["diagnosis_1"], row["diagnosis_2"], row["diagnosis_3"]])
        for row in _rows(plan)
    ]

    assert mapped == [image.lesion.lesion_class for image in plan]


def test_metadata_says_that_it_is_synthetic():
    for row in _rows(synthetic.plan_archive(20, 2)):
        assert row["image_manipulation"] == "synthetic"
        assert row["copyright_license"] == "CC-0"
        assert "not a patient" in row["attribution"]


@pytest.mark.parametrize(
    "column", ["sex", "age_approx", "anatom_site_general", "fitzpatrick_skin_type", "diagnosis_3"]
)
def test_metadata_has_holes_but_not_only_holes(column):
    empty = sum(row[column] == "" for row in _rows(synthetic.plan_archive(1000, 4))) / 1000

    assert 0 < empty < 0.6


def test_metadata_malignant_lesions_come_with_age():
    ages = defaultdict(list)
    for row in _rows(synthetic.plan_archive(1000, 4)):
        if row["age_approx"]:
            ages[row["diagnosis_1"]].append(int(row["age_approx"]))

    assert np.mean(ages["Malignant"]) > np.mean(ages["Benign"]) + 5


def test_invent_patient_skin_tone_does_not_tell_the_class():
    tones = {
        name: np.mean([synthetic.invent_patient(i, name, 1).skin.melanin for i in range(50)])
        for name in LESION_CLASSES
    }

    assert len(set(tones.values())) == 1


# the folder


def test_write_archive_writes_the_layout_of_the_official_client(archive):
    written = {
        str(path.relative_to(archive.directory))
        for path in archive.directory.rglob("*")
        if path.is_file()
    }

    images = {f"ISIC_{9_000_000 + i}.jpg" for i in range(12)}
    assert written == images | {"metadata.csv", "attribution.txt", "licenses/CC-0.txt"}
    rows = list(csv.DictReader((archive.directory / "metadata.csv").open(newline="")))
    assert {f"{row['isic_id']}.jpg" for row in rows} == images


def test_write_archive_images_are_marked_jpegs_of_the_stated_size(archive):
    with Image.open(archive.directory / "ISIC_9000000.jpg") as image:
        image.load()

        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (600, 450))
        assert image.info["comment"].decode() == synthetic.ATTRIBUTION


def test_write_archive_with_same_arguments_gives_the_same_bytes(archive, tmp_path):
    synthetic.write_archive(tmp_path, images=5, seed=3)

    for path in tmp_path.glob("*.jpg"):
        assert path.read_bytes() == (archive.directory / path.name).read_bytes()


def test_write_archive_when_complete_does_nothing_and_says_so(archive, caplog):
    caplog.set_level("INFO")
    before = {p: p.stat().st_mtime_ns for p in archive.directory.rglob("*")}

    again = synthetic.write_archive(archive.directory, images=12, seed=3)

    assert again == replace(archive, drawn=0)
    assert "nothing to do" in caplog.text
    assert {p: p.stat().st_mtime_ns for p in archive.directory.rglob("*")} == before


@pytest.mark.parametrize(("images", "seed"), [(12, 4), (11, 3), (13, 3)])
def test_write_archive_with_other_arguments_names_the_folder(archive, images, seed):
    with pytest.raises(InputError, match=str(archive.directory)):
        synthetic.write_archive(archive.directory, images=images, seed=seed)


def test_write_archive_with_file_in_the_way_names_it(tmp_path):
    (tmp_path / "taken").write_text("")

    with pytest.raises(InputError, match="taken is not a folder"):
        synthetic.write_archive(tmp_path / "taken", images=1, seed=0)


def test_write_archive_with_foreign_images_leaves_them_alone(tmp_path):
    photograph = tmp_path / "ISIC_0024306.jpg"
    photograph.write_bytes(b"a photograph")

    with pytest.raises(InputError, match="other images"):
        synthetic.write_archive(tmp_path, images=1, seed=0)

    assert [path.name for path in tmp_path.iterdir()] == [photograph.name]


def test_write_archive_when_an_image_is_missing_draws_only_that_again(tmp_path):
    synthetic.write_archive(tmp_path, images=3, seed=8)
    lost = tmp_path / "ISIC_9000001.jpg"
    original = lost.read_bytes()
    lost.unlink()

    again = synthetic.write_archive(tmp_path, images=3, seed=8)

    assert again.drawn == 1
    assert lost.read_bytes() == original


def test_write_archive_when_interrupted_has_no_metadata_and_starts_anew(tmp_path, monkeypatch):
    drawn_before = synthetic.draw_jpeg

    def killed_at_the_third(image, seed):
        if image.isic_id.endswith("2"):
            raise KeyboardInterrupt
        return drawn_before(image, seed)

    monkeypatch.setattr(synthetic, "draw_jpeg", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        synthetic.write_archive(tmp_path, images=4, seed=8)
    assert not (tmp_path / "metadata.csv").exists()
    monkeypatch.undo()

    assert synthetic.write_archive(tmp_path, images=4, seed=8).drawn == 4
    assert (tmp_path / "metadata.csv").exists()


# the pictures


def test_traits_name_fields_of_the_appearance():
    known = {field.name for field in fields(drawing.LesionAppearance)}

    assert set(drawing.TRAITS) == set(drawing.LOOKALIKES) == set(LESION_CLASSES)
    assert all(set(traits) <= known for traits in drawing.TRAITS.values())
    assert set(drawing.STRUCTURES) <= known


@pytest.mark.parametrize("lesion_class", LESION_CLASSES)
def test_sample_appearance_stays_within_the_ranges_of_class_and_lookalikes(lesion_class):
    looks = drawing.sample_appearance(lesion_class, _random())

    for field in fields(looks):
        allowed = [
            drawing.TRAITS[name][field.name]
            for name in (lesion_class, *drawing.LOOKALIKES[lesion_class])
            if field.name in drawing.TRAITS[name]
        ]
        value = getattr(looks, field.name)
        in_a_range = any(trait.low <= value <= trait.high for trait in allowed)
        assert in_a_range or value == field.default


@pytest.mark.parametrize("structure", drawing.STRUCTURES)
def test_draw_lesion_with_a_structure_shows_it(structure):
    plain = drawing.LesionAppearance(radius=2.0, melanin=0.8, blood=0.3)

    without = drawing.draw_lesion(plain, _random(4))
    with_it = drawing.draw_lesion(replace(plain, **{structure: 1.0}), _random(4))

    assert with_it.shape == (5, drawing.FRAME, drawing.FRAME)
    assert with_it.dtype == np.float32
    assert np.abs(with_it - without).max() > 0.1


@pytest.mark.parametrize("lesion_class", LESION_CLASSES)
def test_draw_lesion_stays_within_its_frame(lesion_class):
    looks = drawing.sample_appearance(lesion_class, _random(3))
    lesion = drawing.draw_lesion(replace(looks, ulcer=1.0, streaks=1.0), _random(3))

    rim = np.concatenate([lesion[:, 0], lesion[:, -1], lesion[:, :, 0], lesion[:, :, -1]], axis=1)
    assert lesion.min() >= 0
    assert rim.max() < 0.1


def test_draw_picture_nevus_is_darker_than_the_skin_around_it():
    picture = _picture().astype(float)

    middle = picture[200:250, 275:325].mean()
    corner = picture[:40, :40].mean()
    assert picture.shape == (drawing.HEIGHT, drawing.WIDTH, 3)
    assert middle < 0.7 * corner


def test_draw_picture_twice_of_one_lesion_shows_it_turned():
    quarter = replace(VIEW, angle=np.pi / 2)
    straight, turned = (
        cv2.GaussianBlur(_picture(view=view)[:, 75:525].astype(np.float32).mean(2), (0, 0), 6)
        for view in (VIEW, quarter)
    )

    same = np.corrcoef(np.rot90(straight, -1).ravel(), turned.ravel())[0, 1]
    assert same > 0.95
    assert same > np.corrcoef(straight.ravel(), turned.ravel())[0, 1]


def test_draw_picture_skin_gets_darker_from_type_one_to_six():
    brightness = [
        _picture(skin=replace(SKIN, melanin=melanin))[:60].mean()
        for melanin in drawing.SKIN_MELANIN.values()
    ]

    assert brightness == sorted(brightness, reverse=True)


@pytest.mark.parametrize(
    "change",
    [
        {"hairs": 20},
        {"bubbles": 8},
        {"ruler": True},
        {"aperture": 0.9},
        {"vignette": 0.5},
        {"gradient": 0.3},
        {"light": (0.9, 1.0, 1.1)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_draw_picture_with_something_of_the_view_shows_it(change):
    without = _picture().astype(int)

    with_it = _picture(view=replace(VIEW, **change)).astype(int)

    assert (np.abs(with_it - without) > 12).mean() > 0.002


def test_shine_through_gives_each_pigment_its_colour():
    def colour(**densities):
        pigments = np.array(drawing.Pigments(**densities), np.float32).reshape(5, 1, 1)
        return drawing.shine_through(pigments)[0, 0]

    bare, brown, blue, red = (colour(), colour(melanin=1), colour(deep=1), colour(blood=1))

    assert bare.min() > 0.85
    assert brown[0] > brown[1] > brown[2]
    assert blue[2] > blue[0]
    assert red[0] > 2 * red[1]
