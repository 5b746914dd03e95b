import pandas as pd
import pytest
from scored_tables import scored_table

from dermascan.acceptance.reproduction import SCORES, TOLERANCE, Reproduction, compare
from dermascan.inference.batch import PREDICTIONS_SCHEMA

IMAGES = 20


@pytest.fixture
def scores() -> pd.DataFrame:
    return scored_table(IMAGES)


@pytest.fixture
def test_split(scores) -> pd.DataFrame:
    keys = [f"raw/made-up/images/{name}.jpg" for name in scores["isic_id"]]
    return scores[["isic_id"]].assign(key=keys, sha256=[f"{i:064x}" for i in range(IMAGES)])


@pytest.fixture
def predictions(scores, test_split) -> pd.DataFrame:
    """Return what batch inference makes of copies, in another order."""
    table = scores[["isic_id", *SCORES]].assign(
        image_key=[f"new/{name}.jpg" for name in scores["isic_id"]],
        sha256=test_split["sha256"],
        status="ok",
        reason=None,
    )
    return table.reindex(columns=PREDICTIONS_SCHEMA.names).iloc[::-1].reset_index(drop=True)


def test_compare_when_all_scores_are_the_same_finds_no_problem(test_split, scores, predictions):
    found = compare(test_split, scores, predictions)

    assert found.problems == ()
    assert (found.images, found.scored, found.largest) == (IMAGES, IMAGES, 0.0)
    assert "20 of 20 test images scored, none rejected" in found.verdict()


@pytest.mark.parametrize("column", SCORES)
def test_compare_when_one_score_differs_names_score_and_image(
    test_split, scores, predictions, column
):
    row = predictions.index[predictions["isic_id"] == "ISIC_0000007"]
    predictions.loc[row, column] += 3e-4

    found = compare(test_split, scores, predictions)

    assert found.where == f"{column} of ISIC_0000007"
    assert found.largest == pytest.approx(3e-4)
    assert "differs by 0.0003" in found.verdict()


def test_compare_when_scores_differ_by_less_than_the_tolerance_says_by_how_much(
    test_split, scores, predictions
):
    predictions.loc[3, "p_nv"] -= TOLERANCE / 2

    found = compare(test_split, scores, predictions)

    assert found.problems == ()
    assert "largest difference 5e-05" in found.verdict()


@pytest.mark.parametrize("side", ["predicted", "evaluated"])
def test_compare_when_a_score_is_no_number_does_not_take_it_for_equal(
    test_split, scores, predictions, side
):
    (predictions if side == "predicted" else scores).loc[0, "p_mel"] = float("nan")

    assert "p_mel" in compare(test_split, scores, predictions).verdict()


def test_compare_when_an_image_was_rejected_gives_the_reason(test_split, scores, predictions):
    predictions.loc[0, ["status", "reason", *SCORES]] = ["rejected", "truncated: no end"] + [
        None
    ] * len(SCORES)

    found = compare(test_split, scores, predictions)

    assert found.rejected == ("ISIC_0000019 (truncated: no end)",)
    assert found.scored == IMAGES - 1
    assert found.problems


def test_compare_when_an_image_has_no_prediction_names_it(test_split, scores, predictions):
    found = compare(test_split, scores, predictions.iloc[1:])

    assert found.missing == ("ISIC_0000019",)
    assert found.problems


def test_compare_when_something_else_was_scored_too_names_it(test_split, scores, predictions):
    other = predictions.iloc[[0]].assign(image_key="new/ISIC_0000099.jpg")

    found = compare(test_split, scores, pd.concat([predictions, other]))

    assert found.unexpected == ("new/ISIC_0000099.jpg",)
    assert found.problems


def test_compare_when_the_evaluation_left_an_image_out_names_it(test_split, scores, predictions):
    found = compare(test_split, scores.iloc[1:], predictions)

    assert found.unevaluated == ("ISIC_0000000",)
    assert found.problems


def test_compare_when_the_bytes_are_others_says_so_even_if_the_scores_agree(
    test_split, scores, predictions
):
    predictions.loc[0, "sha256"] = "f" * 64

    found = compare(test_split, scores, predictions)

    assert found.changed == ("ISIC_0000019",)
    assert found.problems


def test_compare_when_nothing_was_scored_does_not_call_that_equal(test_split, scores, predictions):
    found = compare(test_split, scores, predictions.iloc[:0])

    assert found.largest is None
    assert "there is no score to compare" in found.verdict()


def test_verdict_when_many_images_are_concerned_names_the_first_few():
    names = tuple(f"ISIC_{i:07d}" for i in range(8))
    found = Reproduction(8, 0, (), names, (), (), (), None, "")

    assert "ISIC_0000004 and 3 more" in found.verdict()
    assert "ISIC_0000005" not in found.verdict()
