import re
from pathlib import Path

import pandas as pd
import pytest
from pages import HOSTILE, Page, full_evaluation, image_table, robustness
from scored_tables import scored_table

from dermascan import DISCLAIMER
from dermascan.errors import InputError
from dermascan.evaluation import REQUIRED_COLUMNS, Comparison, Estimate, compare, evaluate
from dermascan.gate import ChampionComparison, Comparability, GateResult, check, load_rules
from dermascan.reporting import (
    GalleryItem,
    LearningCurve,
    ReportContext,
    choose_gallery,
    evaluation_report,
)
from dermascan.reporting.gallery import PICTURE_BYTES_LIMIT

RULES = load_rules(Path(__file__).parents[2] / "include" / "gate.yaml")
CONTEXT = ReportContext("A title", "A subtitle", (("Epochs", "12"),), "Somebody (CC0)")
THRESHOLD = 0.3
PICTURE = b"\xff\xd8" + bytes(10_000)
HISTORY = (
    LearningCurve("seed 0", (0, 1, 2), (None, 1.0, 0.8), (1.2, 0.9, 0.9), (0.7, None, 0.9), 2),
    LearningCurve("seed 1", (0, 1), (None, 1.1), (1.2, 1.0), (0.7, 0.8)),
)


def gallery(table: pd.DataFrame, picture: bytes = PICTURE) -> list[GalleryItem]:
    rows = table.set_index("isic_id")
    return [
        GalleryItem(
            name, rows["lesion_class"][name], "nv", rows["p_malignant"][name], picture, picture
        )
        for name in choose_gallery(table, THRESHOLD).isic_ids
    ]


def comparison(table: pd.DataFrame) -> Comparison:
    other = scored_table(len(table), seed=9, skill=1.0).assign(
        **{name: table[name] for name in ("isic_id", "lesion_id", "lesion_class")}
    )
    return compare(table, other, THRESHOLD, THRESHOLD, resamples=50)


def against_champion(
    malignant: Comparison, comparability: Comparability = Comparability.SAME_IMAGES
) -> ChampionComparison:
    """Make a comparison whose melanoma ROC AUC differs by an amount that nothing else has."""
    melanoma = malignant.model_copy(update={"difference": Estimate(value=0.0777)})
    return ChampionComparison(
        version=20260901120000,
        comparability=comparability,
        malignant=malignant,
        melanoma=melanoma,
    )


def verdict(table: pd.DataFrame) -> GateResult:
    return check(full_evaluation(table), against_champion(comparison(table)), RULES)


def full_report() -> str:
    table = image_table()
    return evaluation_report(
        full_evaluation(table),
        table,
        verdict(table),
        CONTEXT,
        gallery=gallery(table),
        comparison=against_champion(comparison(table)),
        history=HISTORY,
    )


@pytest.fixture(scope="module")
def report() -> str:
    return full_report()


@pytest.fixture(scope="module")
def page(report) -> Page:
    return Page(report)


def section(report: str, anchor: str) -> str:
    """Return the words between one heading and the next."""
    found = re.search(rf'<h2 id="{anchor}">.*?(?=<h2|</main>)', report, re.DOTALL)
    assert found, anchor
    return " ".join(re.sub(r"<[^>]+>", " ", found[0]).split()).replace(" ,", ",")


def test_report_is_a_well_formed_page_that_loads_nothing(report, page):
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert "script" not in page.tags
    assert not re.search(r"url\((?!#)|@import", report)
    assert len(page.identities) == len(set(page.identities))


def test_every_link_within_the_page_leads_somewhere(page):
    links = {address.removeprefix("#") for address in page.addresses if address.startswith("#")}
    assert len(links) >= 13
    assert links <= set(page.identities)


def test_every_figure_has_a_label_of_its_own_in_the_colours_of_the_page(report, page):
    assert page.tags.count("svg") == 10
    labels = re.findall(r'<svg role="img" aria-label="([^"]+)"', report)
    assert len(set(labels)) == 10
    assert not re.search(r"#0[1-6]0[1-6]0[1-6]", report)
    assert "prefers-color-scheme: dark" in report


def test_report_is_the_same_again(report):
    assert full_report() == report


def test_report_escapes_metadata(report, page):
    assert "<script" not in report
    assert HOSTILE in page.text


def test_report_says_what_it_is_not_and_where_it_comes_from(page):
    assert DISCLAIMER in page.text
    for shown in ("A title", "A subtitle", "Epochs", "12"):
        assert shown in page.words


def test_headline_shows_value_and_interval(report):
    auc = full_evaluation(image_table()).malignant.roc_auc
    words = section(report, "headline")
    assert f"ROC AUC {auc.value:.3f}" in words
    assert f"{auc.low:.3f} to {auc.high:.3f}" in words


def test_headline_in_words_counts_of_a_hundred(report):
    found = full_evaluation(image_table()).malignant.sensitivity
    assert f"finds {100 * found.value:.0f} (95 % interval" in section(report, "headline")


def test_operating_points_are_numbered_as_in_the_figure(report):
    words = section(report, "discrimination")
    for number, target in enumerate(("80 % specificity", "90 % specificity"), start=1):
        assert f"{number} {target}" in words


def test_calibration_shows_before_and_after(report):
    evaluation = full_evaluation(image_table())
    words = section(report, "calibration")
    for figures in (evaluation.uncalibrated, evaluation.calibrated):
        assert f"{figures.cross_entropy.value:.3f}" in words
    assert evaluation.uncalibrated.ece != evaluation.calibrated.ece


def test_confusion_shows_counts_with_shares_and_names_the_commonest_mix_up(report):
    confusion = full_evaluation(image_table()).confusion
    most = max(n for i, row in enumerate(confusion) for j, n in enumerate(row) if i != j)
    words = section(report, "classes")
    first = re.search(
        r"Share: of the images of the true class\. (\w+) taken for (\w+) (\d+)", words
    )
    assert int(first[3]) == most
    assert f"{confusion[0][0]} {100 * confusion[0][0] / sum(confusion[0]):.0f} %" in words


def test_slices_name_and_mark_the_worst(report):
    table = image_table()
    worst = full_evaluation(table).worst_slice
    assert worst is not None
    words = section(report, "slices")
    assert f": {worst.name}, with a ROC AUC of {worst.roc_auc.value:.3f}" in words
    assert report.count('<tr class="worst">') == 1
    assert re.search(rf"{re.escape(worst.name)} worst {worst.images} \({worst.malignant}\)", words)


@pytest.mark.parametrize(
    ("loss", "words"),
    [(0.03, "0.030 below that"), (-0.01, "0.010 above that"), (-0.0001, "the same as that")],
)
def test_headline_says_in_words_how_far_the_worst_slice_is_from_the_whole(loss, words):
    table = image_table()
    evaluation = full_evaluation(table)
    worst = evaluation.worst_slice.model_copy(update={"loss": loss})

    page = Page(
        evaluation_report(
            evaluation.model_copy(update={"worst_slice": worst}), table, None, CONTEXT
        )
    )

    assert f"of them malignant, {words} of all images." in page.text


def test_slices_without_a_large_one_name_none():
    table = image_table(30)
    evaluation = full_evaluation(table)
    assert evaluation.worst_slice is None
    text = evaluation_report(evaluation, table, None, CONTEXT)
    assert "No slice has enough" in section(text, "slices")
    assert '<tr class="worst">' not in text


def test_robustness_shows_every_corruption_and_the_mean_loss(report):
    words = section(report, "robustness")
    assert "their ROC AUC is 0.900" in words
    assert "costs 0.060 of ROC AUC (0.020 to 0.100), measured on 120 test images, 30 of" in words
    assert "blur 0.890 -0.010 0.880 -0.020 0.870 -0.030 n/a" in words
    assert "JPEG 0.870 -0.030" in words


@pytest.mark.parametrize(
    ("passed", "shown"),
    [(True, "follow the image"), (False, "Do not read the maps"), (None, "is not defined")],
)
def test_explanation_check_says_whether_maps_may_be_read(passed, shown):
    table = image_table(30)
    evaluation = full_evaluation(table)
    checked = evaluation.explanation.model_copy(update={"passed": passed})
    evaluation = evaluation.model_copy(update={"explanation": checked})
    text = evaluation_report(evaluation, table, None, CONTEXT)
    assert shown in section(text, "explanation")


def test_gallery_shows_each_image_with_truth_answer_score_and_credit(report):
    table = image_table()
    words = section(report, "gallery")
    for item in gallery(table):
        shown = f"{item.isic_id} {100 * item.p_malignant:.1f} % is {item.truth}"
        assert shown in words
    assert "Images: Somebody (CC0)." in words


def test_gallery_pairs_each_image_with_its_overlay(page):
    assert page.tags.count("img") == 2 * len(gallery(image_table()))


def test_gallery_of_large_pictures_leaves_out_what_would_exceed_three_megabytes():
    table = image_table()
    items = gallery(table, bytes(200_000))
    text = evaluation_report(full_evaluation(table), table, None, CONTEXT, gallery=items)
    assert len(text) < 3_000_000
    assert Page(text).tags.count("img") == PICTURE_BYTES_LIMIT // 200_000
    assert "no picture" in text


def test_gallery_without_overlays_shows_one_picture_each():
    table = image_table()
    items = [
        GalleryItem(each.isic_id, each.truth, each.likeliest, each.p_malignant, each.image_jpeg)
        for each in gallery(table)
    ]
    text = evaluation_report(full_evaluation(table), table, None, CONTEXT, gallery=items)
    assert Page(text).tags.count("img") == len(items)


def test_comparison_shows_both_models_and_the_difference(report):
    found = comparison(image_table())
    words = section(report, "comparison")
    assert f"ROC AUC {found.roc_auc:.3f} against {found.other_roc_auc:.3f}" in words
    assert f"{found.difference.value:+.3f} {found.difference.low:+.3f} to" in words
    assert "the champion is version 20260901120000" in words
    assert "DeLong" in words
    assert "melanoma against the rest +0.078" in words
    matched = found.sensitivity_at_90_specificity_difference
    assert f"Sensitivity at 90 % specificity {matched.value:+.3f}" in words
    own = found.specificity_difference
    assert f"Specificity, each at its own threshold {own.value:+.3f}" in words


@pytest.mark.parametrize(
    ("comparability", "caveat"),
    [
        (Comparability.OTHER_DATASET, "may have been among its training images"),
        (Comparability.OTHER_CLASSES, "calls other classes malignant"),
    ],
)
def test_comparison_that_does_not_decide_says_why_and_tests_nothing(comparability, caveat):
    table = image_table(30)
    champion = against_champion(comparison(table), comparability)
    text = evaluation_report(full_evaluation(table), table, None, CONTEXT, comparison=champion)
    words = section(text, "comparison")
    assert caveat in words
    assert "does not decide" in words
    assert "DeLong" not in words


def test_comparison_that_is_not_defined_says_so():
    table = image_table(30)
    nothing = Comparison(
        images=30,
        lesions=20,
        roc_auc=None,
        other_roc_auc=None,
        difference=Estimate(),
        delong_p=None,
        sensitivity_at_90_specificity_difference=Estimate(),
        sensitivity_difference=Estimate(),
        specificity_difference=Estimate(),
        balanced_accuracy_difference=Estimate(),
    )
    champion = against_champion(nothing)
    text = evaluation_report(full_evaluation(table), table, None, CONTEXT, comparison=champion)
    assert "ROC AUC n/a against n/a; DeLong's test of the difference: n/a" in section(
        text, "comparison"
    )


def test_gate_shows_every_rule_and_the_page_begins_with_those_not_met(report, page):
    result = verdict(image_table())
    words = section(report, "gate")
    for rule in result.results:
        assert rule.name in words
        assert " ".join(rule.why.split()) in page.words
    unmet = [rule.name for rule in result.results if not rule.passed]
    assert unmet
    assert "; ".join(unmet) in page.words[: page.words.index("In figures")]


def test_cost_is_shown_in_units_of_people(report):
    words = section(report, "efficiency")
    for shown in ("16.0 MB", "40.0 ms", "12.5 ms", "Throughput 80", "2 cores"):
        assert shown in words


def test_report_of_a_bare_evaluation_says_what_was_not_measured():
    table = scored_table(60)
    text = evaluation_report(evaluate(table, THRESHOLD, resamples=9), table, None, CONTEXT)
    for anchor in ("robustness", "explanation", "efficiency"):
        assert "Not measured in this evaluation." in section(text, anchor)
    page = Page(text)
    for absent in ("gate", "comparison", "gallery", "learning"):
        assert absent not in page.identities
        assert f"#{absent}" not in page.addresses


def test_report_of_no_image_says_not_defined():
    nothing = pd.DataFrame(columns=list(REQUIRED_COLUMNS))
    page = Page(evaluation_report(evaluate(nothing, THRESHOLD), nothing, None, CONTEXT))
    assert "svg" not in page.tags
    assert page.text.count("Not defined on this test set.") == 7
    assert "Gate" not in page.text


def test_report_of_benign_images_only_draws_what_is_defined():
    benign = scored_table().query("lesion_class == 'nv'")
    page = Page(evaluation_report(evaluate(benign, 0.3, resamples=9), benign, None, CONTEXT))
    assert "ROC curve with the operating points" not in page.labels
    assert "Distribution of scores for malignant and benign images" in page.labels


def test_report_of_undefined_robustness_draws_no_line():
    table = scored_table(60)
    undefined = robustness().model_copy(
        update={
            "corruptions": tuple(
                each.model_copy(update={"roc_auc": Estimate(), "auc_lost": None})
                for each in robustness().corruptions
            ),
            "mean_auc_lost_at_3": Estimate(),
        }
    )
    evaluation = evaluate(table, THRESHOLD, resamples=9).model_copy(
        update={"robustness": undefined}
    )
    words = section(evaluation_report(evaluation, table, None, CONTEXT), "robustness")
    assert "costs n/a of ROC AUC" in words
    assert "Not defined on this test set." in words


def test_report_with_the_scores_of_other_images_is_refused():
    table = scored_table(60)
    evaluation = evaluate(table, THRESHOLD, resamples=2)
    with pytest.raises(InputError, match="other images"):
        evaluation_report(evaluation, table.iloc[1:], None, CONTEXT)
