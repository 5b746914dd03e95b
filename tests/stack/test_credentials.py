import base64
import json

import pytest

from dermascan.errors import InputError
from dermascan.stack import credentials
from dermascan.stack.layout import StackPaths


@pytest.fixture
def paths(tmp_path):
    paths = StackPaths.of_project(tmp_path)
    paths.create()
    return paths


def test_load_or_create_when_called_again_returns_the_same(paths):
    first = credentials.load_or_create(paths)
    password = credentials.admin_password(paths)

    assert credentials.load_or_create(paths) == first
    assert credentials.admin_password(paths) == password


def test_load_or_create_when_new_writes_private_files_with_secrets_of_their_own(paths, tmp_path):
    keys = credentials.load_or_create(paths)
    other = StackPaths.of_project(tmp_path / "other")
    other.create()

    assert credentials.load_or_create(other).s3_secret_access_key != keys.s3_secret_access_key
    for file in (paths.credentials, paths.airflow_passwords):
        assert file.stat().st_mode & 0o777 == 0o600
    assert len(base64.urlsafe_b64decode(keys.fernet_key.get_secret_value())) == 32
    assert "**" in repr(keys)


def test_admin_password_when_the_user_changed_it_is_the_new_one(paths):
    credentials.load_or_create(paths)
    paths.airflow_passwords.write_text(json.dumps({"admin": "chosen"}))

    credentials.load_or_create(paths)

    assert credentials.admin_password(paths).get_secret_value() == "chosen"


def test_load_when_never_started_says_how(paths):
    with pytest.raises(InputError, match="dermascan up"):
        credentials.load(paths)


@pytest.mark.parametrize("text", ["", "{}", "not json"])
def test_load_when_damaged_names_the_file(paths, text):
    paths.credentials.write_text(text)
    paths.airflow_passwords.write_text(text)

    with pytest.raises(InputError, match=r"credentials\.json is damaged"):
        credentials.load(paths)
    with pytest.raises(InputError, match=r"passwords\.json is damaged"):
        credentials.admin_password(paths)
