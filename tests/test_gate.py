from pathlib import Path

import pandas as pd
import pytest
import yaml

from dermascan.errors import GateFailedError, InputError
from dermascan.evaluation import (
    CLASS_COLUMNS,
    REQUIRED_COLUMNS,
    Comparison,
    Efficiency,
    Estimate,
    Evaluation,
    ExplanationCheck,
    MalignantFigures,
    Robustness,
    compare,
    evaluate,
)
from dermascan.gate import (
    ChampionComparison,
    Comparability,
    FloorRule,
    GateResult,
    GateRules,
    NonInferiorityRule,
    Outcome,
    check,
    load_rules,
    require,
)
from dermascan.taxonomy import LESION_CLASSES

RULES_FILE = Path(__file__).parents[1] / "include" / "gate.yaml"


def nothing_known(dataset: str | None = "made-up") -> Evaluation:
    return evaluate(pd.DataFrame(columns=list(REQUIRED_COLUMNS)), 0.5, dataset=dataset)


def with_auc(value: float | None, low: float | None = None, images: int = 0) -> Evaluation:
    """Make an evaluation of which only the AUC of malignant against benign is known."""
    evaluation = nothing_known()
    figures = {"roc_auc": Estimate(value=value, low=low), "images": images}
    risk: MalignantFigures = evaluation.malignant.model_copy(update=figures)
    return evaluation.model_copy(update={"malignant": risk})


def against_champion(
    value: float | None,
    low: float | None = None,
    high: float | None = None,
    comparability: Comparability = Comparability.SAME_IMAGES,
) -> ChampionComparison:
    """Make a comparison in which all figures differ alike."""
    difference = Estimate(value=value, low=low, high=high)
    comparison = Comparison(
        images=100,
        lesions=100,
        roc_auc=None,
        other_roc_auc=None,
        difference=difference,
        delong_p=None,
        sensitivity_at_90_specificity_difference=difference,
        sensitivity_difference=difference,
        specificity_difference=difference,
        balanced_accuracy_difference=difference,
    )
    return ChampionComparison(
        version=7, comparability=comparability, malignant=comparison, melanoma=comparison
    )


def measured(evaluation: Evaluation, **changes: float | None) -> Evaluation:
    """Add what is measured beside the scores, all of it fine unless changed."""
    figures = {"lost": 0.04, "randomised": 0.05, "repeated": 0.9, "at_3": 120}
    figures |= {"milliseconds": 12.0, "bytes": 15_000_000} | changes
    parts = {
        "robustness": Robustness(
            images=50,
            corruptions=(),
            images_at_3=figures["at_3"],
            malignant_at_3=figures["at_3"],
            mean_auc_lost_at_3=Estimate(value=figures["lost"]),
        ),
        "explanation": ExplanationCheck(
            images=20,
            similarity_randomised=figures["randomised"],
            similarity_repeated=figures["repeated"],
            passed=True,
        ),
        "efficiency": Efficiency(
            bytes=figures["bytes"],
            milliseconds_per_image=figures["milliseconds"],
            milliseconds_single=figures["milliseconds"],
            cores=2,
        ),
    }
    return evaluation.model_copy(update=parts)


def floor(**fields: object) -> GateRules:
    values = {"name": "auc", "metric": "malignant.roc_auc", "comparison": "at_least"}
    rule = FloorRule.model_validate(values | {"threshold": 0.85, "why": "because"} | fields)
    return GateRules(rules=(rule,))


def non_inferior(margin: float = 0.01, **fields: object) -> GateRules:
    values = {"name": "auc", "metric": "malignant.roc_auc", "margin": margin, "why": "because"}
    rule = NonInferiorityRule.model_validate(values | fields)
    always = floor(metric="images", threshold=0).rules
    return GateRules(rules=always, non_inferiority=(rule,))


def table_of_certain_answers(right: int, wrong: int) -> pd.DataFrame:
    """Make lesions of all classes, of each of which some are mistaken for another risk."""
    rows = []
    for name in LESION_CLASSES:
        for i in range(right + wrong):
            other = "nv" if name in {"mel", "bcc", "akiec"} else "mel"
            answer = name if i < right else other
            scores = dict.fromkeys(CLASS_COLUMNS, 0.02) | {f"p_{answer}": 0.88}
            identity = {"isic_id": f"{name}-{i}", "lesion_id": f"{name}-{i}", "lesion_class": name}
            risk = sum(scores[f"p_{each}"] for each in ("mel", "bcc", "akiec"))
            rows.append({**identity, **scores, "p_malignant": risk})
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("comparison", "below", "equal", "above"),
    [
        ("at_least", False, True, True),
        ("above", False, False, True),
        ("at_most", True, True, False),
        ("below", True, False, False),
    ],
)
def test_floor_compares_as_its_name_says(comparison, below, equal, above):
    rules = floor(comparison=comparison)
    passed = [check(with_auc(auc), None, rules).passed for auc in (0.8499, 0.85, 0.8501)]
    assert passed == [below, equal, above]


def test_floor_relative_to_another_figure_adds_the_threshold_to_it():
    rules = floor(metric="accuracy", relative_to="majority_rate", threshold=0.1)
    guessing = nothing_known().model_copy(update={"majority_rate": 0.7})
    better, worse = (
        guessing.model_copy(update={"accuracy": Estimate(value=value)}) for value in (0.8, 0.799)
    )
    assert check(better, None, rules).passed
    result = check(worse, None, rules).results[0]
    assert (result.outcome, result.needed) == (
        Outcome.FAILED,
        "at least 0.8000 (majority_rate 0.7000 +0.1)",
    )


def test_floor_with_an_undefined_figure_fails_and_says_so():
    result = check(with_auc(None), None, floor()).results[0]
    assert (result.outcome, result.got) == (Outcome.FAILED, "not defined on this test set")


def test_floor_with_an_undefined_figure_passes_if_the_rule_says_so():
    assert check(with_auc(None), None, floor(if_undefined="pass")).passed


def test_floor_relative_to_an_undefined_figure_fails():
    rules = floor(relative_to="majority_rate")
    assert not check(with_auc(0.99), None, rules).passed


@pytest.mark.parametrize(
    ("images", "auc", "outcome"),
    [
        (99, 0.5, Outcome.SHOWN),
        (100, 0.5, Outcome.FAILED),
        (100, 0.9, Outcome.PASSED),
        (99, None, Outcome.SHOWN),
    ],
)
def test_floor_with_a_condition_binds_only_where_it_holds(images, auc, outcome):
    rules = floor(when={"metric": "malignant.images", "at_least": 100})
    result = check(with_auc(auc, images=images), None, rules)
    assert result.results[0].outcome is outcome
    assert result.passed is (outcome is not Outcome.FAILED)


def test_floor_that_does_not_bind_says_where_it_would():
    rules = floor(when={"metric": "malignant.images", "at_least": 100})
    shown = check(with_auc(0.5, images=20), None, rules).results[0]
    assert shown.needed == "at least 0.8500, where malignant.images is at least 100"


def test_floor_whose_condition_is_undefined_does_not_bind():
    rules = floor(when={"metric": "worst_slice.images", "at_least": 1})
    assert check(with_auc(0.5), None, rules).results[0].outcome is Outcome.SHOWN


@pytest.mark.parametrize("value", [0.3, -0.3])
def test_floor_on_the_absolute_value_binds_on_both_sides(value):
    rules = floor(comparison="at_most", threshold=0.3, absolute=True)
    assert check(with_auc(value), None, rules).passed
    beyond = check(with_auc(1.01 * value), None, rules).results[0]
    assert (beyond.passed, beyond.needed) == (False, "absolute value at most 0.3000")
    assert not check(with_auc(None), None, rules).passed


PROOF = {"metric": "malignant.images", "at_least": 100}


@pytest.mark.parametrize(
    ("low", "high", "proven", "unrefuted"),
    [
        (-0.009, -0.001, True, True),  # a loss, but below the margin
        (-0.010, -0.001, True, True),
        (-0.011, -0.001, False, False),  # a loss that may exceed the margin
        (-0.011, 0.0, False, True),  # no loss is shown
        (-0.200, 0.1, False, True),
        (-0.200, -0.1, False, False),
        (0.001, 0.1, True, True),
    ],
)
def test_champion_is_matched_by_proof_from_enough_images_on_and_unless_refuted_below(
    low, high, proven, unrefuted
):
    champion = against_champion((low + high) / 2, low, high)
    rules = non_inferior(0.01, proof_when=PROOF)
    assert check(with_auc(0.9, images=100), champion, rules).passed is proven
    assert check(with_auc(0.9, images=99), champion, rules).passed is unrefuted


def test_champion_rule_without_a_condition_always_asks_for_proof():
    champion = against_champion(-0.05, -0.2, 0.1)
    assert not check(with_auc(0.9, images=3), champion, non_inferior(0.01)).passed


@pytest.mark.parametrize(("value", "passed"), [(0.0, True), (-0.01, True), (-0.02, False)])
def test_champion_comparison_without_interval_is_judged_by_the_difference(value, passed):
    assert check(with_auc(0.9), against_champion(value), non_inferior(0.01)).passed is passed


@pytest.mark.parametrize(
    ("metric", "at_fault"),
    [
        ("malignant.roc_auc", "difference"),
        ("malignant.sensitivity_at_90_specificity", "sensitivity_at_90_specificity_difference"),
        ("balanced_accuracy", "balanced_accuracy_difference"),
    ],
)
def test_champion_rule_looks_at_its_own_figure(metric, at_fault):
    loss = {at_fault: Estimate(value=-0.3, low=-0.4, high=-0.2)}
    fine = against_champion(0.1, 0.05, 0.15)
    worse = fine.model_copy(update={"malignant": fine.malignant.model_copy(update=loss)})
    assert check(with_auc(0.9), fine, non_inferior(metric=metric)).passed
    assert not check(with_auc(0.9), worse, non_inferior(metric=metric)).passed
    assert check(with_auc(0.9), worse, non_inferior(metric="classes.mel.roc_auc")).passed


def test_champion_rule_says_what_was_found():
    result = check(with_auc(0.9), against_champion(-0.2, -0.3, -0.1), non_inferior(0.01)).results[1]
    assert result.needed == "loss shown to be at most 0.01"
    assert result.got == "-0.2000 (-0.3000 to -0.1000)"
    assert result.value == -0.2


def test_champion_rule_that_asks_for_no_proof_does_not_claim_it():
    rules = non_inferior(0.01, proof_when=PROOF)
    result = check(with_auc(0.9, images=99), against_champion(-0.05, -0.2, 0.1), rules).results[1]
    assert result.needed == "no loss shown that may exceed 0.01 (malignant.images below 100)"


@pytest.mark.parametrize(
    "comparability", [Comparability.OTHER_DATASET, Comparability.OTHER_CLASSES]
)
def test_champion_that_is_not_comparable_is_shown_and_does_not_decide(comparability):
    champion = against_champion(-0.2, -0.3, -0.1, comparability)
    result = check(with_auc(0.60), champion, non_inferior())
    assert result.champion is comparability
    assert result.results[-1].outcome is Outcome.SHOWN
    assert result.passed
    assert "does not decide" in result.table()


def test_champion_comparison_that_is_undefined_fails_unless_the_rule_says_otherwise():
    champion = against_champion(None)
    assert not check(with_auc(None), champion, non_inferior()).passed
    assert check(with_auc(None), champion, non_inferior(if_undefined="pass")).passed


def test_require_with_a_failed_rule_raises_with_the_whole_table():
    result = check(with_auc(0.7), None, floor(name="tells them apart", why="It must."))
    with pytest.raises(GateFailedError) as raised:
        require(result)
    for text in ("tells them apart", "at least 0.8500", "0.7000", "FAIL", "It must."):
        assert text in str(raised.value)


def test_require_with_rules_that_are_met_lets_through():
    require(check(with_auc(0.9), None, floor()))


def test_gate_result_survives_json():
    result = check(with_auc(None), against_champion(0.1), non_inferior())
    assert GateResult.model_validate_json(result.model_dump_json()) == result
    assert result.champion_version == 7


def test_gate_result_written_before_it_named_the_champion_can_be_read():
    result = check(with_auc(0.9), None, floor())
    old = result.model_dump_json(exclude={"champion_version"})
    assert GateResult.model_validate_json(old) == result


@pytest.mark.parametrize(("right", "wrong"), [(12, 1), (60, 2)])
def test_own_rules_pass_a_model_that_has_learnt_on_a_small_and_on_a_large_test_set(right, wrong):
    rules = load_rules(RULES_FILE)
    learnt = measured(evaluate(table_of_certain_answers(right, wrong), 0.5))
    result = check(learnt, None, rules)
    assert result.passed, result.table()
    assert any(r.outcome is Outcome.SHOWN for r in result.results) is (right == 12)


def test_own_rules_fail_a_model_that_guesses():
    rules = load_rules(RULES_FILE)
    guessing = measured(evaluate(table_of_certain_answers(right=6, wrong=7), 0.5))
    assert not check(guessing, None, rules).passed


def test_own_rules_on_a_large_test_set_stop_a_model_that_a_small_one_lets_pass():
    rules = load_rules(RULES_FILE)
    small = measured(evaluate(table_of_certain_answers(right=8, wrong=1), 0.5))
    large = measured(evaluate(table_of_certain_answers(right=48, wrong=6), 0.5))
    assert check(small, None, rules).passed, check(small, None, rules).table()
    failed = {r.metric for r in check(large, None, rules).results if not r.passed}
    assert "malignant.roc_auc.low" in failed


@pytest.mark.parametrize(
    ("change", "metric"),
    [
        ({"lost": 0.11}, "robustness.mean_auc_lost_at_3"),
        ({"lost": None}, "robustness.mean_auc_lost_at_3"),
        ({"randomised": 0.6}, "explanation.similarity_randomised"),
        ({"randomised": -0.9}, "explanation.similarity_randomised"),
        ({"repeated": 0.5}, "explanation.similarity_repeated"),
        ({"milliseconds": 301.0}, "efficiency.milliseconds_per_image"),
        ({"bytes": 300_000_000}, "efficiency.bytes"),
    ],
)
def test_own_rules_fail_a_model_for_each_thing_measured_beside_the_scores(change, metric):
    learnt = evaluate(table_of_certain_answers(right=40, wrong=2), 0.5)
    result = check(measured(learnt, **change), None, load_rules(RULES_FILE))
    assert [r.metric for r in result.results if not r.passed] == [metric]


def test_own_rules_show_the_loss_on_too_few_corrupted_images_and_fail_it_on_none():
    learnt = evaluate(table_of_certain_answers(right=40, wrong=2), 0.5)
    rules = load_rules(RULES_FILE)
    assert check(measured(learnt, lost=0.2, at_3=99), None, rules).passed
    unmeasured = measured(learnt).model_copy(update={"robustness": None})
    failed = [r.metric for r in check(unmeasured, None, rules).results if not r.passed]
    assert failed == ["robustness.images_at_3"]


@pytest.mark.parametrize("images", [32, 293])
def test_own_rules_pass_a_retraining_with_another_seed(images):
    half_widths = {"difference": 0.008, "balanced_accuracy_difference": 0.04}
    half_widths |= {"sensitivity_at_90_specificity_difference": 0.05}
    losses = {  # two standard errors lower by chance
        name: Estimate(value=-half, low=-2 * half, high=0.0) for name, half in half_widths.items()
    }
    seeds = against_champion(0.0, -0.012, 0.012)
    seeds = seeds.model_copy(update={"malignant": seeds.malignant.model_copy(update=losses)})
    results = check(with_auc(0.95, images=images), seeds, load_rules(RULES_FILE)).results
    assert all(r.passed for r in results if "against the champion" in r.name)


def test_own_rules_pass_a_model_against_itself_and_fail_it_against_a_much_better_one():
    rules = load_rules(RULES_FILE)
    good, poor = table_of_certain_answers(40, 2), table_of_certain_answers(32, 10)
    poor = poor.set_index("isic_id").loc[good["isic_id"]].reset_index()
    evaluation = measured(evaluate(good, 0.5))

    def against(table: pd.DataFrame, champion: pd.DataFrame) -> GateResult:
        comparison = compare(table, champion, 0.5, 0.5)
        champion_comparison = ChampionComparison(
            version=1,
            comparability=Comparability.SAME_IMAGES,
            malignant=comparison,
            melanoma=comparison,
        )
        return check(evaluation, champion_comparison, rules)

    assert against(good, good).passed
    assert against(good, poor).passed
    failed = [r.metric for r in against(poor, good).results if not r.passed]
    assert failed == [rule.metric for rule in rules.non_inferiority]


def test_own_rules_fail_where_nothing_is_defined():
    rules = load_rules(RULES_FILE)
    results = zip(rules.rules, check(nothing_known(), None, rules).results, strict=True)
    assert all(not result.passed for rule, result in results if rule.when is None)


@pytest.fixture
def rules_file(tmp_path: Path) -> Path:
    return tmp_path / "gate.yaml"


def write_rule(path: Path, **fields: object) -> None:
    rule = {"name": "auc", "metric": "malignant.roc_auc", "comparison": "at_least"}
    content = {"rules": [rule | {"threshold": 0.8, "why": "because"} | fields]}
    path.write_text(yaml.safe_dump(content))


@pytest.mark.parametrize(
    "fields",
    [
        {"metric": "malignant.auc"},
        {"metric": "dataset"},
        {"relative_to": "chance"},
        {"when": {"metric": "malignant.number", "at_least": 1}},
        {"when": {"metric": "malignant.images"}},
        {"metric": "slices.sex.femal.roc_auc", "if_undefined": "pass"},
        {"metric": "robustness.corruptions.blurr_3.auc_lost", "if_undefined": "pass"},
        {"comparison": "equals"},
        {"threshold": "high"},
        {"threshold": float("nan")},
        {"if_undefined": "ignore"},
        {"why": ""},
        {"wy": "typo"},
    ],
)
def test_load_rules_with_a_bad_rule_names_file_and_rule(rules_file, fields):
    write_rule(rules_file, **fields)
    with pytest.raises(InputError, match=r"gate\.yaml.*rule 'auc'"):
        load_rules(rules_file)


@pytest.mark.parametrize(
    "text", ["", "rules: [", "- 1", "rules: []", "rules: {a: 1}", "rules: [1]"]
)
def test_load_rules_with_a_malformed_file_names_it(rules_file, text):
    rules_file.write_text(text)
    with pytest.raises(InputError, match=r"gate\.yaml"):
        load_rules(rules_file)


def test_load_rules_without_a_file_names_it(rules_file):
    with pytest.raises(InputError, match=r"gate\.yaml"):
        load_rules(rules_file)


@pytest.mark.parametrize(
    "field", [{"margin": -1}, {"metric": "accuracy"}, {"metric": "malignant.sensitivity"}]
)
def test_load_rules_with_a_bad_comparison_with_the_champion_names_the_rule(rules_file, field):
    write_rule(rules_file)
    rule = {"name": "worse", "metric": "balanced_accuracy", "margin": 0, "why": "because"} | field
    rules_file.write_text(rules_file.read_text() + yaml.safe_dump({"non_inferiority": [rule]}))
    with pytest.raises(InputError, match=rf"rule 'worse' {next(iter(field))}"):
        load_rules(rules_file)


def test_load_rules_with_a_bad_condition_of_proof_names_the_rule(rules_file):
    write_rule(rules_file)
    rule = {"name": "worse", "metric": "balanced_accuracy", "margin": 0, "why": "because"}
    rule["proof_when"] = {"metric": "malignant.number", "at_least": 1}
    rules_file.write_text(rules_file.read_text() + yaml.safe_dump({"non_inferiority": [rule]}))
    with pytest.raises(InputError, match=r"rule 'worse'.*malignant\.number"):
        load_rules(rules_file)
