"""What every service of docker-compose.yml, and the Dockerfile, must keep to."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from compose.processes import PROJECT
from compose.specification import interpolate, read_environment, services

from dermascan.settings import topic_from_environment
from dermascan.stack import airflow
from dermascan.stack.compose import write_environment

FILE = PROJECT / "docker-compose.yml"
DOCKERFILE = (PROJECT / "Dockerfile").read_text()
ENTRIES = yaml.safe_load(FILE.read_text())["services"]
EACH = pytest.mark.parametrize("name", sorted(ENTRIES))
SECRET = re.compile(r"PASSWORD|SECRET|FERNET|KEY")
STATEFUL = {"postgres", "redis", "minio", "seaweedfs", "kafka"}


@pytest.fixture(scope="module", params=["minio", "seaweedfs"])
def variables(request, tmp_path_factory):
    return read_environment(write_environment(tmp_path_factory.mktemp("env"), request.param))


def jobs() -> set[str]:
    needs = [need for entry in ENTRIES.values() for need in entry.get("depends_on", {}).items()]
    return {n for n, need in needs if need["condition"] == "service_completed_successfully"}


def test_file_is_valid_by_the_compose_specification(variables, tmp_path):
    plain = tmp_path / "docker-compose.yml"
    plain.write_text(yaml.safe_dump(interpolate(yaml.safe_load(FILE.read_text()), variables)))

    for path in (FILE, plain):
        command = [sys.executable, "-m", "check_jsonschema"]
        subprocess.run([*command, "--builtin-schema", "vendor.compose-spec", path], check=True)


@EACH
def test_service_says_whether_it_is_healthy_or_is_a_job(name):
    assert ("healthcheck" in ENTRIES[name]) != (name in jobs())


@EACH
def test_service_runs_as_an_ordinary_user_without_capabilities_on_a_read_only_root(name):
    entry = ENTRIES[name]

    assert entry["user"].split(":")[0] not in {"0", "root"}
    assert entry["cap_drop"] == ["ALL"]
    assert "cap_add" not in entry
    assert "no-new-privileges:true" in entry["security_opt"]
    assert entry["read_only"] is True
    assert entry["init"] is True
    assert "privileged" not in entry


@EACH
def test_service_has_limits_of_cores_memory_and_processes(name):
    assert ENTRIES[name]["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}


@EACH
def test_image_is_pinned_to_a_release(name):
    image, _, tag = ENTRIES[name]["image"].partition(":")
    assert image
    assert re.search(r"\d+\.\d+|RELEASE\.\d", tag), "a tag that moves"


def test_images_that_others_are_made_from_are_pinned():
    stages = set(re.findall(r"^FROM \S+ AS (\w+)", DOCKERFILE, re.MULTILINE))
    foreign = set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) - stages

    assert len(foreign) == 2
    assert all(re.search(r":(\d+\.\d+\.\d+|RELEASE\.\d)", image) for image in foreign)
    assert "--require-hashes" in DOCKERFILE


@EACH
def test_port_is_published_on_loopback_alone(name):
    assert "network_mode" not in ENTRIES[name]
    assert all(port.startswith("127.0.0.1:") for port in ENTRIES[name].get("ports", []))


@EACH
def test_volume_is_of_the_container_alone_unless_it_is_a_store(name):
    if name not in STATEFUL:
        for volume in ENTRIES[name].get("volumes", []):
            assert "source" not in volume, f"{name} shares a disk"


def test_no_secret_has_a_value_or_a_default():
    texts = list(texts_of(yaml.safe_load(FILE.read_text())))
    used = {found for text in texts for found in re.findall(r"\$\{(\w+)([^}]*)\}", text)}

    assert {name for name, _ in used if SECRET.search(name)}
    assert all(rest.startswith(":?") for name, rest in used if SECRET.search(name))
    for entry in ENTRIES.values():
        for name, value in entry["environment"].items():
            if SECRET.search(name) and not name.endswith("_FILE"):
                assert value.startswith("${"), name


def texts_of(value):
    if isinstance(value, dict):
        value = value.values()
    if isinstance(value, str):
        yield value
    elif not isinstance(value, int | float | bool | None):
        for item in value:
            yield from texts_of(item)


def test_generated_secrets_are_all_that_the_file_asks_for(variables):
    wanted = set(re.findall(r"\$\{(\w+):\?", FILE.read_text()))

    assert wanted == variables.keys() - {"COMPOSE_PROFILES"}
    with pytest.raises(KeyError):
        services(FILE, {"COMPOSE_PROFILES": "minio"})


def test_profile_starts_one_object_storage_under_the_name_that_all_use(variables):
    found = services(FILE, variables)

    (store,) = [service for service in found.values() if "s3" in service.names]
    assert store.name == variables["COMPOSE_PROFILES"]
    assert found.keys() | {"minio", "seaweedfs", "kafka"} == ENTRIES.keys()
    assert "kafka" not in found
    assert all(need in found for service in found.values() for need in service.needs)


def test_broker_starts_with_its_profile_where_airflow_and_the_storage_look_for_it(variables):
    chosen = {"COMPOSE_PROFILES": "minio,kafka", "DERMASCAN_KAFKA_TOPIC": "events"}
    found = services(FILE, variables | chosen)
    address = found["kafka"].environment["KAFKA_ADVERTISED_LISTENERS"].removeprefix("PLAINTEXT://")
    triggerer, minio = found["airflow-triggerer"].environment, found["minio"].environment

    connection = json.loads(triggerer["AIRFLOW_CONN_DERMASCAN_KAFKA"])
    assert connection["extra"]["bootstrap.servers"] == address
    assert minio["MINIO_NOTIFY_KAFKA_BROKERS_INCOMING"] == address
    assert topic_from_environment(triggerer) == minio["MINIO_NOTIFY_KAFKA_TOPIC_INCOMING"]


def test_notifications_are_off_unless_their_topic_is_named(variables):
    found = services(FILE, variables)

    assert topic_from_environment(found["airflow-triggerer"].environment) is None


def test_airflow_is_configured_as_in_the_embedded_stack_where_both_are_alike(variables):
    expected = {**airflow.variables(airflow.EVERYWHERE), **airflow.FOR_TASKS}
    mine = [s for s in services(FILE, variables).values() if "AIRFLOW_HOME" in s.environment]

    assert len(mine) == 7
    for service in mine:
        assert {name: service.environment.get(name) for name in expected} == expected


def test_connection_for_logs_is_of_the_kind_that_airflow_reads(variables):
    environment = services(FILE, variables)["worker"].environment
    connection = json.loads(environment["AIRFLOW_CONN_AIRFLOW_LOGS"])

    assert connection["password"] == variables["S3_SECRET_ACCESS_KEY"]
    assert environment["AIRFLOW__LOGGING__REMOTE_LOG_CONN_ID"] == "airflow_logs"


def test_workers_take_the_default_queue_and_the_queue_of_trainings():
    commands = {name: " ".join(ENTRIES[name]["command"]) for name in ("worker", "worker-train")}

    assert "--queues default" in commands["worker"]
    assert "--queues train --concurrency 1" in commands["worker-train"]
    assert ENTRIES["worker"]["deploy"]["replicas"] == 2


def test_image_copies_what_is_not_ignored_and_nothing_else():
    kept = re.findall(r"^!(\S+)$", (PROJECT / ".dockerignore").read_text(), re.MULTILINE)
    lines = [line for line in DOCKERFILE.splitlines() if re.match(r"COPY (?!--from)", line)]
    copied = {source for line in lines for source in line.split()[1:-1]}

    assert set(kept) == copied
    assert all((Path(PROJECT) / source).exists() for source in copied)


def test_executor_can_be_loaded_with_the_installed_celery():
    code = "from airflow.providers.celery.executors.celery_executor import CeleryExecutor"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr[-500:]
