"""deploy/kubernetes as files: what is applied, and the values for Airflow's chart."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).resolve().parents[2]
FOLDER = PROJECT / "deploy" / "kubernetes"
VALUES = yaml.safe_load((FOLDER / "airflow-values.yaml").read_text())
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())


def resources() -> Iterator[dict[str, Any]]:
    for name in KUSTOMIZATION["resources"]:
        yield from yaml.safe_load_all((FOLDER / name).read_text())


def kinds(kind: str) -> dict[str, Any]:
    return {r["metadata"]["name"]: r for r in resources() if r["kind"] == kind}


def pod_specs() -> dict[str, Any]:
    """Return the specifications of the pods that are ours, and of a task's, by name."""
    owners = kinds("Deployment") | kinds("Job")
    found = {name: owner["spec"]["template"]["spec"] for name, owner in owners.items()}
    return {**found, "task": yaml.safe_load(pod_template())["spec"]}


def pod_template() -> str:
    """Return the template of tasks' pods, as the chart fills it in."""
    filled = {
        '{{ include "airflow_config" . }}': "airflow-config",
        "{{ .Values.defaultAirflowRepository }}": VALUES["defaultAirflowRepository"],
        "{{ .Values.defaultAirflowTag }}": VALUES["defaultAirflowTag"],
    }
    text: str = VALUES["podTemplate"]
    for placeholder, value in filled.items():
        assert placeholder in text
        text = text.replace(placeholder, value)
    assert "{{" not in text
    return text


def secret_references(value: Any) -> set[tuple[str, str]]:
    """Return name and key of every Secret that is read by key."""
    if isinstance(value, Mapping):
        here = {(value["name"], value["key"])} if value.keys() == {"name", "key"} else set()
        return here.union(*map(secret_references, value.values()))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return set().union(*map(secret_references, value))
    return set()


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    same = selector.get("matchLabels", {}).items() <= labels.items()
    among = selector.get("matchExpressions", [])
    assert all(each["operator"] == "In" for each in among)
    return same and all(labels.get(each["key"]) in each["values"] for each in among)


def may_connect(source: Mapping[str, str], target: Mapping[str, str], port: int) -> bool:
    """Tell whether the network policies let one pod of the namespace reach another."""
    out = _allowed("egress", "to", source, target, port)
    return out and _allowed("ingress", "from", target, source, port)


def may_leave(source: Mapping[str, str], port: int) -> bool:
    """Tell whether the network policies let a pod reach addresses outside the cluster."""
    return _allowed("egress", "to", source, None, port)


def _allowed(
    way: str, peers: str, pod: Mapping[str, str], other: Mapping[str, str] | None, port: int
) -> bool:
    rules = [
        rule
        for policy in kinds("NetworkPolicy").values()
        if selects(policy["spec"]["podSelector"], pod)
        for rule in policy["spec"].get(way, [])
    ]
    return any(
        port in {each["port"] for each in rule["ports"]}
        and any(_matches(peer, other) for peer in rule[peers])
        for rule in rules
    )


def _matches(peer: Mapping[str, Any], other: Mapping[str, str] | None) -> bool:
    if other is None:
        return "ipBlock" in peer
    return "podSelector" in peer and selects(peer["podSelector"], other)
