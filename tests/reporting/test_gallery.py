import pandas as pd
import pytest
from scored_tables import binary_table

from dermascan.reporting import GalleryItem, choose_gallery
from dermascan.reporting.gallery import walls
from dermascan.taxonomy import Taxonomy

MALIGNANT = Taxonomy().malignant


@pytest.fixture
def table() -> pd.DataFrame:
    malignant = [True, True, True, True, False, False, False, False]
    return binary_table(malignant, [0.1, 0.2, 0.5, 0.9, 0.05, 0.3, 0.6, 0.8])


def named(*numbers: int) -> tuple[str, ...]:
    return tuple(f"ISIC_{number:07d}" for number in numbers)


def item(name: str, truth: str, p_malignant: float) -> GalleryItem:
    return GalleryItem(name, truth, "nv", p_malignant, b"jpeg")


def test_most_certain_errors_and_right_answers_come_first(table):
    choice = choose_gallery(table, 0.5)
    assert choice.false_negatives == named(0, 1)
    assert choice.false_positives == named(7, 6)
    assert choice.true_positives == named(3, 2)
    assert choice.true_negatives == named(4, 5)


def test_limits_hold_for_each_kind(table):
    choice = choose_gallery(table, 0.5, wrong=1, right=0)
    assert choice.isic_ids == named(0, 7)


def test_a_score_at_the_threshold_is_called_malignant(table):
    assert named(2)[0] in choose_gallery(table, 0.5).true_positives
    assert named(2)[0] in choose_gallery(table, 0.500001).false_negatives


def test_of_a_lesion_only_the_most_certain_image_is_chosen(table):
    table["lesion_id"] = ["same", "same", "c", "d", "e", "f", "", ""]
    choice = choose_gallery(table, 0.5)
    assert choice.false_negatives == named(0)
    assert choice.false_positives == named(7, 6)


def test_other_malignant_classes_make_other_errors(table):
    choice = choose_gallery(table, 0.5, taxonomy=Taxonomy(malignant=("nv",)))
    assert choice.false_negatives == named(4, 5)


def test_an_empty_table_has_nothing_to_look_at(table):
    assert choose_gallery(table.iloc[:0], 0.5).isic_ids == ()


def test_walls_sort_images_by_what_became_of_them():
    items = [
        item("a", "nv", 0.6),
        item("b", "mel", 0.2),
        item("c", "mel", 0.1),
        item("d", "nv", 0.9),
    ]
    found = {
        wall.title: [each.isic_id for each in wall.pictures]
        for wall in walls(items, 0.5, MALIGNANT)
    }
    assert found == {"Malignant, called benign": ["c", "b"], "Benign, called malignant": ["d", "a"]}


def test_walls_keep_pictures_with_their_images():
    items = [
        GalleryItem("a", "nv", "mel", 0.6, b"first"),
        GalleryItem("b", "nv", "mel", 0.9, b"second", b"over"),
    ]
    (wall,) = walls(items, 0.5, MALIGNANT)
    assert [each.image for each in wall.pictures] == [
        "data:image/jpeg;base64,c2Vjb25k",
        "data:image/jpeg;base64,Zmlyc3Q=",
    ]
    assert wall.pictures[0].overlay == "data:image/jpeg;base64,b3Zlcg=="
    assert wall.pictures[1].overlay is None
