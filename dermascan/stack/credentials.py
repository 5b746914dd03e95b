"""The secrets of one embedded stack, generated once and kept in its private folder."""

import base64
import json
import secrets
from pathlib import Path

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from dermascan.errors import InputError
from dermascan.stack.layout import StackPaths, write_private

ADMIN = "admin"


class Credentials(BaseModel):
    """Everything secret that the parts of the stack share."""

    model_config = ConfigDict(frozen=True)

    fernet_key: SecretStr
    jwt_secret: SecretStr
    api_secret_key: SecretStr
    s3_access_key_id: str
    s3_secret_access_key: SecretStr

    @classmethod
    def generate(cls) -> "Credentials":
        """Draw new secrets from the operating system's random numbers."""
        return cls(
            fernet_key=SecretStr(base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()),
            jwt_secret=SecretStr(secrets.token_urlsafe(64)),
            api_secret_key=SecretStr(secrets.token_urlsafe(32)),
            s3_access_key_id=f"dermascan-{secrets.token_hex(6)}",
            s3_secret_access_key=SecretStr(secrets.token_urlsafe(30)),
        )

    def as_json(self) -> str:
        """Return the secrets in clear, for the private file."""
        values = {
            name: value.get_secret_value() if isinstance(value, SecretStr) else value
            for name, value in self
        }
        return json.dumps(values, indent=1)


def load_or_create(paths: StackPaths) -> Credentials:
    """Return the stack's secrets, generating on first use whatever is missing.

    Raises:
        InputError: a file of secrets is there but damaged.
    """
    if not paths.credentials.exists():
        write_private(paths.credentials, Credentials.generate().as_json())
    if not paths.airflow_passwords.exists():
        write_private(paths.airflow_passwords, json.dumps({ADMIN: secrets.token_urlsafe(15)}))
    return load(paths)


def load(paths: StackPaths) -> Credentials:
    """Read the stack's secrets.

    Raises:
        InputError: the stack has never been started, or its file is damaged.
    """
    text = _read(paths.credentials)
    try:
        return Credentials.model_validate_json(text)
    except ValidationError as error:
        raise InputError(
            f"{paths.credentials} is damaged: restore it, or run `dermascan down` and "
            f"delete {paths.state} to begin again without the stored data"
        ) from error


def admin_password(paths: StackPaths) -> SecretStr:
    """Return the password of Airflow's user `admin`.

    Raises:
        InputError: the stack has never been started, or its file is damaged.
    """
    try:
        return SecretStr(json.loads(_read(paths.airflow_passwords))[ADMIN])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f'{paths.airflow_passwords} is damaged: write {{"{ADMIN}": "a password"}} into it '
            "and start the stack again"
        ) from error


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist: start the stack with `dermascan up`") from error
