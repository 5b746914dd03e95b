"""What a person is shown who decides about a promotion, and what their answer must hold."""

from collections.abc import Iterator, Mapping

from dermascan.assessment.head_to_head import read_comparison
from dermascan.assessment.measurement import headline
from dermascan.errors import PermanentError
from dermascan.evaluation import Estimate, Evaluation
from dermascan.gate import ChampionComparison, GateResult, Outcome
from dermascan.layout import TrainingKeys
from dermascan.storage import Store

APPROVE = "Approve"
_WORDS = {
    Outcome.PASSED: "met",
    Outcome.FAILED: "**not met**",
    Outcome.SHOWN: "shown, does not decide",
}


def approval_request(
    store: Store, training: str, model: str, verdict: GateResult, page: str | None
) -> str:
    """Return, as Markdown, all that a decision about a promotion should rest on.

    Args:
        store: the bucket.
        training: fingerprint of the training run; it must have been judged.
        model: the model's name.
        verdict: of the gate.
        page: the training's page in MLflow, None if there is none.
    """
    keys = TrainingKeys(training)
    candidacy = keys.candidacy(model)
    evaluation = Evaluation.model_validate_json(store.get(keys.evaluation))
    compared = None
    if verdict.champion_version is not None:
        compared = read_comparison(store, training, model, verdict.champion_version)
    parts = (
        headline(evaluation),
        _comparison(model, compared) if compared else verdict.comparison_note,
        "\n".join(_rules(verdict)),
        "\n".join(_links(page)),
        f"Report: `{store.address(candidacy.report)}`",
        f"Model card: `{store.address(candidacy.card_html)}`",
    )
    return "\n\n".join(part for part in parts if part)


def _rules(verdict: GateResult) -> Iterator[str]:
    yield "| rule of the gate | needed | got | |"
    yield "|---|---|---|---|"
    for result in verdict.results:
        cells = (result.name, result.needed, result.got, _WORDS[result.outcome])
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _comparison(model: str, compared: ChampionComparison) -> str:
    risk, melanoma = compared.malignant, compared.melanoma
    rows = (
        ("ROC AUC, malignant against benign", risk.roc_auc, risk.other_roc_auc, risk.difference),
        ("ROC AUC, melanoma", melanoma.roc_auc, melanoma.other_roc_auc, melanoma.difference),
        (
            "Sensitivity at 90 % specificity",
            None,
            None,
            risk.sensitivity_at_90_specificity_difference,
        ),
        ("Balanced accuracy", None, None, risk.balanced_accuracy_difference),
    )
    champion = f"champion {model} {compared.version}"
    lines = [
        f"| on {risk.images} images | candidate | {champion} | difference (95 % interval) |",
        "|---|---|---|---|",
        *(
            f"| {name} | {_figure(ours)} | {_figure(theirs)} | {_difference(difference)} |"
            for name, ours, theirs, difference in rows
        ),
    ]
    return "\n".join([*lines, "", compared.note])


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _difference(estimate: Estimate) -> str:
    if estimate.value is None:
        return "not defined"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:+.3f}"
    return f"{estimate.value:+.3f} ({estimate.low:+.3f} to {estimate.high:+.3f})"


def _links(page: str | None) -> Iterator[str]:
    if page:
        yield f"- [Evaluation report]({page}/artifacts/report.html)"
        yield f"- [Model card]({page}/artifacts/card.html)"
        yield f"- [MLflow run]({page})"


def read_approver(answer: Mapping[str, object] | None) -> str:
    """Return the name of the user who approved.

    Args:
        answer: what Airflow's approval task returned: the options that were chosen, and the
            user as `responded_by_user` with `id` and `name`.

    Raises:
        PermanentError: nobody approved; the time may have run out, or the task was marked as
            successful by hand.
    """
    user = answer.get("responded_by_user") if answer else None
    if not answer or answer.get("chosen_options") != [APPROVE] or not isinstance(user, Mapping):
        raise PermanentError(
            "nobody approved this promotion: clear the task `approval`, and decide on Airflow's "
            "page of required actions"
        )
    return str(user.get("name") or user.get("id"))
