import stat

import pytest
from compose.specification import read_environment
from typer.testing import CliRunner

from dermascan.cli import app
from dermascan.errors import InputError
from dermascan.stack.compose import prepare, write_environment


def test_write_environment_when_new_draws_secrets_for_their_owner_alone(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    one = write_environment(tmp_path / "one")
    other = read_environment(write_environment(tmp_path / "other", "seaweedfs"))

    found = read_environment(one)
    assert stat.S_IMODE(one.stat().st_mode) == 0o600
    assert found["COMPOSE_PROFILES"] == "minio"
    assert other["COMPOSE_PROFILES"] == "seaweedfs"
    secrets = [name for name in found if name != "COMPOSE_PROFILES"]
    assert all(found[name] != other[name] for name in secrets)
    assert min(len(found[name]) for name in secrets) >= 16
    assert not set("".join(found.values())) & set("\"'$#:@/\\ ")  # safe in URLs and JSON


def test_write_environment_when_there_is_one_keeps_it(tmp_path):
    written = write_environment(tmp_path).read_text()

    with pytest.raises(InputError, match="exists and is kept"):
        write_environment(tmp_path)

    assert (tmp_path / ".env").read_text() == written


def test_command_writes_the_file_of_the_project_and_does_not_show_secrets(tmp_path):
    (tmp_path / "dags").mkdir()
    done = CliRunner().invoke(app, ["--project", str(tmp_path), "compose", "env"])

    assert done.exit_code == 0
    secrets = [v for v in read_environment(tmp_path / ".env").values() if v != "minio"]
    assert not [secret for secret in secrets if secret in done.output]


def test_prepare_when_a_variable_is_missing_names_it(storage_settings):
    secret = storage_settings.secret_access_key
    environment = {
        "DERMASCAN_BUCKET": "prepared",
        "AWS_ENDPOINT_URL": storage_settings.endpoint_url,
        "AWS_ACCESS_KEY_ID": storage_settings.access_key_id,
        "AWS_SECRET_ACCESS_KEY": secret.get_secret_value(),
    }

    with pytest.raises(InputError, match="DERMASCAN_AIRFLOW_URL, AIRFLOW_ADMIN_PASSWORD"):
        prepare(environment)
