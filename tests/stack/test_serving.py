from pydantic import SecretStr

from dermascan.settings import StorageSettings, settings_from_environment
from dermascan.stack import serving

STORAGE = StorageSettings(
    bucket="lesions",
    endpoint_url="http://127.0.0.1:8444",
    access_key_id="who",
    secret_access_key=SecretStr("whisper"),
)


def test_launch_hands_over_the_storage_by_environment_and_nothing_secret_on_the_command_line():
    inherited = {"AWS_PROFILE": "private", "DERMASCAN_SERVING_IMAGES": "8", "PATH": "/bin"}

    launched = serving.launch(STORAGE, 8090, inherited)

    assert settings_from_environment(launched.environment).storage == STORAGE
    assert launched.command[-4:] == ["--host", "127.0.0.1", "--port", "8090"]
    assert "whisper" not in " ".join(launched.command)
    assert "AWS_PROFILE" not in launched.environment
    assert launched.environment["DERMASCAN_SERVING_IMAGES"] == "8"
