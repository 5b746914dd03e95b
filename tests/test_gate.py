from pathlib import Path

import pandas as pd
import pytest
import yaml

from dermascan.errors import GateFailedError, InputError
from dermascan.evaluation import (
    CLASS_COLUMNS,
    REQUIRED_COLUMNS,
    Estimate,
    Evaluation,
    MalignantFigures,
    evaluate,
)
from dermascan.gate import (
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


def with_auc(
    value: float | None,
    low: float | None = None,
    high: float | None = None,
    test_set: str = "these images",
    dataset: str | None = "made-up",
) -> Evaluation:
    """Make an evaluation of which only the AUC of malignant against benign is known."""
    evaluation = nothing_known(dataset)
    auc = Estimate(value=value, low=low, high=high)
    risk: MalignantFigures = evaluation.malignant.model_copy(update={"roc_auc": auc})
    return evaluation.model_copy(update={"malignant": risk, "test_set": test_set})


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


@pytest.mark.parametrize(("auc", "passed"), [(0.95, True), (0.89, True), (0.8899, False)])
def test_champion_on_the_same_images_is_compared_by_the_margin_alone(auc, passed):
    champion = with_auc(0.90, low=0.80, high=0.98)
    result = check(with_auc(auc, low=0.5, high=1.0), champion, non_inferior(0.01))
    assert (result.champion, result.passed) == (Comparability.SAME_IMAGES, passed)


@pytest.mark.parametrize(("auc", "passed"), [(0.841, True), (0.839, False)])
def test_champion_on_other_images_of_the_dataset_leaves_room_for_chance(auc, passed):
    champion = with_auc(0.90, low=0.87, high=0.93, test_set="fewer images")
    candidate = with_auc(auc, low=auc - 0.04, high=auc + 0.04)
    result = check(candidate, champion, non_inferior(0.01))  # 0.90 - 0.01 - hypot(0.03, 0.04)
    assert (result.champion, result.passed) == (Comparability.SAME_DATASET, passed)


def test_champion_on_another_dataset_is_shown_and_does_not_decide():
    champion = with_auc(0.99, test_set="easier images", dataset="easy")
    result = check(with_auc(0.60), champion, non_inferior())
    assert result.champion is Comparability.OTHER_DATASET
    assert result.results[-1].outcome is Outcome.SHOWN
    assert result.passed
    assert "another dataset" in result.table()


def test_champion_without_the_figure_does_not_decide():
    assert check(with_auc(0.6), with_auc(None), non_inferior()).results[-1].outcome is Outcome.SHOWN


def test_candidate_without_the_figure_is_inferior_unless_the_rule_says_otherwise():
    champion = with_auc(0.9)
    assert not check(with_auc(None), champion, non_inferior()).passed
    assert check(with_auc(None), champion, non_inferior(if_undefined="pass")).passed


def test_figure_without_interval_is_compared_with_no_room_for_chance():
    champion = nothing_known().model_copy(update={"test_set": "other", "images": 100})
    rules = non_inferior(margin=1, metric="images")
    candidates = (champion.model_copy(update={"test_set": "", "images": n}) for n in (99, 98))
    assert [check(each, champion, rules).passed for each in candidates] == [True, False]


def test_require_with_a_failed_rule_raises_with_the_whole_table():
    result = check(with_auc(0.7), None, floor(name="tells them apart", why="It must."))
    with pytest.raises(GateFailedError) as raised:
        require(result)
    for text in ("tells them apart", "at least 0.8500", "0.7000", "FAIL", "It must."):
        assert text in str(raised.value)


def test_require_with_rules_that_are_met_lets_through():
    require(check(with_auc(0.9), None, floor()))


def test_gate_result_survives_json():
    result = check(with_auc(None), with_auc(0.9), non_inferior(), champion_version=7)
    assert GateResult.model_validate_json(result.model_dump_json()) == result
    assert result.champion_version == 7


def test_gate_result_written_before_it_named_the_champion_can_be_read():
    result = check(with_auc(0.9), None, floor())
    old = result.model_dump_json(exclude={"champion_version"})
    assert GateResult.model_validate_json(old) == result


def test_own_rules_pass_a_model_that_has_learnt_and_fail_one_that_has_not():
    rules = load_rules(RULES_FILE)
    learnt = evaluate(table_of_certain_answers(right=12, wrong=1), 0.5)
    guessing = evaluate(table_of_certain_answers(right=6, wrong=7), 0.5)
    assert check(learnt, None, rules).passed, check(learnt, None, rules).table()
    assert check(learnt, learnt, rules).passed
    assert not check(guessing, None, rules).passed
    assert not check(guessing, learnt, rules).results[-4].passed


def test_own_rules_fail_where_nothing_is_defined():
    assert not any(r.passed for r in check(nothing_known(), None, load_rules(RULES_FILE)).results)


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


def test_load_rules_with_a_bad_comparison_with_the_champion_names_the_rule(rules_file):
    write_rule(rules_file)
    rule = {"name": "worse", "metric": "accuracy", "margin": -1, "why": "because"}
    rules_file.write_text(rules_file.read_text() + yaml.safe_dump({"non_inferiority": [rule]}))
    with pytest.raises(InputError, match=r"rule 'worse' margin"):
        load_rules(rules_file)
