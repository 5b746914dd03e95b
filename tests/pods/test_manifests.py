"""What deploy/kubernetes must keep to."""

import json
import re
import subprocess
import sys

import kubernetes_validate
import pytest
import yaml
from pods.manifests import (
    KUSTOMIZATION,
    PROJECT,
    VALUES,
    kinds,
    may_connect,
    may_leave,
    pod_specs,
    pod_template,
    resources,
    secret_references,
)

from dermascan import __version__
from dermascan.stack import airflow

DOCUMENT = (PROJECT / "docs" / "how-to" / "kubernetes.md").read_text()
EACH_POD = pytest.mark.parametrize("name", sorted(pod_specs()))
VERSIONS = ("1.30", kubernetes_validate.latest_version())
API_SERVER, SCHEDULER, DAG_PROCESSOR, TRIGGERER, WORKER = (
    {"tier": "airflow", "release": "airflow", "component": component}
    for component in ("api-server", "scheduler", "dag-processor", "triggerer", "worker")
)
API, MLFLOW, SETUP = (
    {"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "dermascan"}
    for name in ("dermascan-api", "mlflow", "dermascan-setup")
)


@pytest.mark.parametrize("version", VERSIONS)
def test_objects_are_valid_by_the_schemas_of_kubernetes(version):
    for each in [*resources(), yaml.safe_load(pod_template())]:
        kubernetes_validate.validate(each, version, strict=True)


@EACH_POD
def test_pod_is_what_the_restricted_pod_security_standard_lets_in(name):
    spec = pod_specs()[name]
    (container,) = spec["containers"]

    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 10001
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not [volume for volume in spec["volumes"] if "hostPath" in volume]


@EACH_POD
def test_pod_has_no_rights_in_kubernetes_and_has_limits(name):
    spec = pod_specs()[name]

    assert spec["automountServiceAccountToken"] is False
    for amounts in spec["containers"][0]["resources"].values():
        assert amounts.keys() == {"cpu", "memory", "ephemeral-storage"}
    assert all(v["emptyDir"]["sizeLimit"] for v in spec["volumes"] if "emptyDir" in v)


@pytest.mark.parametrize("name", sorted(kinds("Deployment")))
def test_server_says_when_it_is_alive_and_when_it_is_ready(name):
    (container,) = pod_specs()[name]["containers"]

    paths = {
        probe: container[f"{probe}Probe"]["httpGet"]["path"]
        for probe in ("startup", "liveness", "readiness")
    }
    expected = {
        "dermascan-api": {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"},
        "mlflow": dict.fromkeys(("startup", "liveness", "readiness"), "/health"),
    }
    assert paths == expected[name]


@pytest.mark.parametrize("kind", ["Service", "PodDisruptionBudget"])
def test_selector_finds_the_pods_that_it_is_for(kind):
    deployments = kinds("Deployment")

    for name, each in kinds(kind).items():
        selector = each["spec"]["selector"]
        wanted = selector.get("matchLabels", selector)
        assert wanted.items() <= deployments[name]["spec"]["template"]["metadata"]["labels"].items()


def test_only_the_autoscaler_sets_how_many_servers_answer():
    (autoscaler,) = kinds("HorizontalPodAutoscaler").values()

    assert "replicas" not in kinds("Deployment")["dermascan-api"]["spec"]
    assert autoscaler["spec"]["scaleTargetRef"]["name"] == "dermascan-api"
    assert autoscaler["spec"]["minReplicas"] > 1


def test_every_secret_is_named_and_made_by_the_documented_commands():
    used = secret_references([*resources(), VALUES, yaml.safe_load(pod_template())])
    used |= {(each["secretName"], each["secretKey"]) for each in VALUES["secret"]}
    used |= {("dermascan-api", "key")}  # mounted as a file
    used |= {("dermascan-airflow", k) for k in ("connection", "fernet-key", "api-secret-key")}
    used |= {("dermascan-airflow", "jwt-secret")}
    made = set()
    for name, rest in re.findall(r"create secret generic (\S+)((?:[^\n]*\\\n)+[^\n]*)", DOCUMENT):
        made |= {(name, key) for key in re.findall(r"--from-literal=([\w-]+)=", rest)}

    assert used == made
    assert not kinds("Secret")


def test_release_is_the_one_of_the_image():
    tags = {VALUES["defaultAirflowTag"], *(each["newTag"] for each in KUSTOMIZATION["images"])}
    lock = (PROJECT / "pyproject.toml").read_text()

    assert tags == {__version__}
    assert f"apache-airflow=={VALUES['airflowVersion']}" in lock
    assert (
        f"useradd --uid {VALUES['uid']} --gid {VALUES['gid']}"
        in (PROJECT / "Dockerfile").read_text()
    )


def test_airflow_is_configured_as_in_the_embedded_stack_where_both_are_alike():
    config = {
        section: {name: str(value) for name, value in options.items()}
        for section, options in airflow.EVERYWHERE.items()
    }

    del config["core"]["hostname_callable"]  # pods have addresses that others can reach, no names
    for section, options in config.items():
        assert options.items() <= VALUES["config"][section].items()
    (container,) = pod_specs()["task"]["containers"]
    environment = {each["name"]: each.get("value") for each in container["env"]}
    assert airflow.FOR_TASKS.items() <= environment.items()


def test_option_of_airflow_is_one_that_airflow_knows():
    code = (
        "import sys, json; from airflow.configuration import conf;"
        "known = conf.configuration_description;"
        "known = {f'{s}.{o}' for s in known for o in known[s]['options']};"
        "print(json.dumps(sorted({*sys.argv[1:]} - known)))"
    )
    asked = [f"{s}.{o}" for s, options in VALUES["config"].items() for o in options]
    command = [sys.executable, "-c", code, *asked]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert json.loads(done.stdout.splitlines()[-1]) == []


@pytest.mark.parametrize("part", ["scheduler", "dagProcessor", "triggerer"])
def test_part_of_airflow_runs_no_script_of_the_official_image(part):
    assert VALUES[part]["logGroomerSidecar"] == {"enabled": False}
    probes = {"livenessProbe", "startupProbe"} if part == "scheduler" else {"livenessProbe"}
    assert {probe: VALUES[part][probe]["command"][0] for probe in probes} == dict.fromkeys(
        probes, "airflow"
    )


def test_task_finds_airflows_configuration_and_writes_logs_where_there_is_room():
    (container,) = pod_specs()["task"]["containers"]
    (home,) = [each["value"] for each in container["env"] if each["name"] == "AIRFLOW_HOME"]
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}

    assert mounts["config"] == f"{home}/airflow.cfg"
    assert mounts["logs"] == f"{home}/logs"
    assert "airflowHome" not in VALUES  # the chart's own parts have its default, /opt/airflow
    assert f"AIRFLOW_HOME={home}" in (PROJECT / "Dockerfile").read_text()


def test_task_is_given_no_key_of_airflow_and_no_database():
    names = {each["name"] for each in pod_specs()["task"]["containers"][0]["env"]}

    assert not [n for n in names if re.search("SQL|FERNET|JWT|SECRET_KEY|PASSWORD", n)]


@pytest.mark.parametrize(
    ("source", "target", "port"),
    [
        (WORKER, API_SERVER, 8080),
        (WORKER, MLFLOW, 5000),
        (SETUP, API_SERVER, 8080),
        (API_SERVER, TRIGGERER, 8794),
    ],
)
def test_network_lets_through_what_is_needed(source, target, port):
    assert may_connect(source, target, port)


@pytest.mark.parametrize(
    ("source", "target", "port"),
    [(API, MLFLOW, 5000), (API, API_SERVER, 8080), (WORKER, API, 8090), (MLFLOW, API_SERVER, 8080)],
)
def test_network_stops_what_nobody_needs(source, target, port):
    assert not may_connect(source, target, port)


@pytest.mark.parametrize(
    ("port", "pods"),
    [
        (443, [API_SERVER, SCHEDULER, TRIGGERER, WORKER, API, MLFLOW, SETUP]),
        (5432, [API_SERVER, SCHEDULER, DAG_PROCESSOR, TRIGGERER, MLFLOW]),
        (6443, [API_SERVER, SCHEDULER]),
        (9092, [TRIGGERER]),
        (9093, [TRIGGERER]),
        (80, []),
    ],
)
def test_network_lets_out_those_alone_who_need_it(port, pods):
    everybody = [API_SERVER, SCHEDULER, DAG_PROCESSOR, TRIGGERER, WORKER, API, MLFLOW, SETUP]

    assert [pod for pod in everybody if may_leave(pod, port)] == [
        pod for pod in everybody if pod in pods
    ]
