import socket

import pytest

from dermascan.errors import InputError
from dermascan.stack import doctor, ports, storage_checks
from dermascan.stack.embedded import EmbeddedStack
from dermascan.stack.layout import StackPaths
from dermascan.stack.ports import Ports

GIB = doctor.GIB
ALL_OK = {"S3 access": "ok", "S3 permissions": "ok", "S3 cannot promise": "ok"} | {
    check.name: "ok" for check in storage_checks.STORAGE_CHECKS
}


@pytest.fixture
def stack(tmp_path):
    paths = StackPaths.of_project(tmp_path)
    paths.create()
    return EmbeddedStack(paths)


@pytest.mark.parametrize(
    ("version", "level"),
    [((3, 10), "problem"), ((3, 11), "ok"), ((3, 13), "ok"), ((3, 14), "problem")],
)
def test_check_python_when_out_of_range_says_which_to_use(version, level):
    finding = doctor.check_python(version)

    assert finding.level == level
    assert ("make PYTHON=" in finding.remedy) == finding.is_problem


@pytest.mark.parametrize(("free", "level"), [(1, "problem"), (5, "warning"), (50, "ok")])
def test_check_disk_when_little_is_free_says_so(tmp_path, free, level):
    assert doctor.check_disk(tmp_path, free * GIB).level == level


@pytest.mark.parametrize(
    ("total", "available", "level"),
    [(2, 2, "problem"), (6, 5, "warning"), (32, 1, "warning"), (16, 10, "ok")],
)
def test_check_memory_when_short_says_so(total, available, level):
    assert doctor.check_memory(total * GIB, available * GIB).level == level


def test_check_ports_when_one_is_taken_names_it_and_the_option(stack):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        s3, mlflow = ports.any_free(), ports.any_free()
        ports.save(stack.paths.ports, Ports(airflow=port, s3=s3, mlflow=mlflow))

        findings = {finding.check: finding for finding in doctor.check_ports(stack)}

    taken = findings[f"port {port} (Airflow)"]
    assert taken.is_problem
    assert "--airflow-port" in taken.remedy
    assert findings[f"port {mlflow} (MLflow)"].level == "ok"


def test_examine_storage_when_the_server_is_sound_finds_no_problem_and_cleans_up(store):
    settings = store.settings.model_copy(update={"bucket": store.bucket})

    findings = doctor.examine_storage(settings)

    assert {finding.check: finding.level for finding in findings} == ALL_OK
    assert list(store.list("")) == []


def test_examine_storage_when_a_check_breaks_down_reports_it_and_goes_on(store, monkeypatch):
    def explode(_store, _prefix):
        raise OSError("reset by peer")

    checks = [
        storage_checks.StorageCheck("first", explode, "mend it"),
        storage_checks.StorageCheck("second", storage_checks.ranged_read, ""),
    ]
    monkeypatch.setattr(storage_checks, "STORAGE_CHECKS", checks)
    settings = store.settings.model_copy(update={"bucket": store.bucket})

    _, _, first, second, _ = doctor.examine_storage(settings)

    assert first.is_problem
    assert "reset by peer" in first.detail
    assert first.remedy == "mend it"
    assert second.level == "ok"


def test_examine_own_storage_when_the_bucket_is_missing_says_so(storage_settings):
    keys = {
        "AWS_ACCESS_KEY_ID": storage_settings.access_key_id,
        "AWS_SECRET_ACCESS_KEY": storage_settings.secret_access_key.get_secret_value(),
    }

    (finding,) = doctor.examine_own_storage(storage_settings.endpoint_url, "not-there", keys)

    assert finding.is_problem
    assert "not-there" in finding.detail


def test_examine_own_storage_when_no_bucket_is_named_asks_for_one():
    with pytest.raises(InputError, match="--bucket"):
        doctor.examine_own_storage("http://127.0.0.1:1", None, {})


def test_examine_embedded_storage_when_nothing_runs_tries_a_server_of_its_own(stack):
    findings = doctor.examine_embedded_storage(stack)

    assert {finding.check: finding.level for finding in findings} == ALL_OK
    assert stack.since("s3") is None
