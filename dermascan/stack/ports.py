"""Choose the ports of the stack: as asked, as last time, or the usual ones."""

import random
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dermascan.errors import InputError
from dermascan.stack.layout import write_private
from dermascan.stack.object_store import GRPC_PORT_OFFSET, LOOPBACK

INTERNAL_RANGE = range(11_000, 22_000)  # with the gRPC twins still below the ephemeral ports
HIGHEST_PORT = 65_535
HIGHEST_PORT_WITH_TWIN = HIGHEST_PORT - GRPC_PORT_OFFSET


class Ports(BaseModel):
    """The ports of one stack; the object storage's own also take the port 10,000 above."""

    model_config = ConfigDict(frozen=True)

    airflow: int = Field(default=8080, ge=1, le=HIGHEST_PORT)
    mlflow: int = Field(default=5000, ge=1, le=HIGHEST_PORT)
    s3: int = Field(default=8333, ge=1, le=HIGHEST_PORT_WITH_TWIN)
    serving: int = Field(default=8090, ge=1, le=HIGHEST_PORT)
    s3_master: int = Field(default=0, ge=0, le=HIGHEST_PORT_WITH_TWIN)
    s3_volume: int = Field(default=0, ge=0, le=HIGHEST_PORT_WITH_TWIN)
    s3_filer: int = Field(default=0, ge=0, le=HIGHEST_PORT_WITH_TWIN)

    @property
    def object_store(self) -> tuple[int, int, int, int]:
        """Ports for S3, master, volume and filer."""
        return self.s3, self.s3_master, self.s3_volume, self.s3_filer


@dataclass(frozen=True)
class PortWish:
    """A port that a user can choose."""

    field: str
    part: str
    option: str
    variable: str


WISHES = (
    PortWish("airflow", "Airflow", "--airflow-port", "DERMASCAN_AIRFLOW_PORT"),
    PortWish("s3", "S3", "--s3-port", "DERMASCAN_S3_PORT"),
    PortWish("mlflow", "MLflow", "--mlflow-port", "DERMASCAN_MLFLOW_PORT"),
    PortWish("serving", "API", "--serving-port", "DERMASCAN_SERVING_PORT"),
)
INTERNAL_FIELDS = ("s3_master", "s3_volume", "s3_filer")


def load(path: Path) -> Ports:
    """Return the ports of last time, or the usual ones.

    Raises:
        InputError: the file is damaged.
    """
    if not path.exists():
        return Ports()
    try:
        return Ports.model_validate_json(path.read_text())
    except ValidationError as error:
        raise InputError(f"{path} is damaged: delete it and choose ports again") from error


def save(path: Path, ports: Ports) -> None:
    """Remember the ports."""
    write_private(path, ports.model_dump_json(indent=1))


def choose(remembered: Ports, wanted: Mapping[str, int | None]) -> Ports:
    """Return the ports to use: those wanted, the others as remembered.

    Args:
        remembered: from `load`.
        wanted: field name of `Ports` -> port, None where the user named none.

    Raises:
        InputError: a port is out of range, or two parts would share one.
    """
    named = {field: port for field, port in wanted.items() if port is not None}
    try:
        ports = Ports.model_validate({**remembered.model_dump(), **named})
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            f"port {first['input']} for {first['loc'][0]} cannot be used: {first['msg']}"
        ) from error
    public = [getattr(ports, wish.field) for wish in WISHES]
    if len(set(public)) < len(public):
        names = ", ".join(wish.field for wish in WISHES)
        raise InputError(f"two parts cannot share a port ({names}: {public})")
    return ports


def require_free(ports: Ports, fields: Iterable[str]) -> None:
    """Make sure that nobody listens where a part wants to.

    Args:
        ports: the chosen ports.
        fields: the fields of `Ports` to look at, of those a user can choose.

    Raises:
        InputError: a port is taken; the message names it, its owner where the system
            tells, and how to choose another.
    """
    fields = set(fields)
    for wish in (wish for wish in WISHES if wish.field in fields):
        port = getattr(ports, wish.field)
        needed = (port, port + GRPC_PORT_OFFSET) if wish.field == "s3" else (port,)
        for number in needed:
            if not is_free(number):
                raise InputError(_taken(wish, port, number))


def with_internal_ports(ports: Ports) -> Ports:
    """Return the ports with free ones for the object storage's insides, kept if still free."""
    taken = {getattr(ports, wish.field) for wish in WISHES}
    chosen: dict[str, int] = {}
    for field in INTERNAL_FIELDS:
        port = getattr(ports, field)
        if port in taken or not _is_free_with_twin(port):
            port = _find(taken)
        chosen[field] = port
        taken.add(port)
    return ports.model_copy(update=chosen)


def any_free() -> int:
    """Return a port of the stack's own range that is free together with its gRPC twin."""
    return _find(set())


def is_free(port: int) -> bool:
    """Tell whether a server could listen on a port of loopback now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) != 0


def owner_of(port: int) -> str | None:
    """Describe the process that listens on a port, where the system tells us."""
    try:
        listening = [
            connection
            for connection in psutil.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
            and connection.laddr
            and connection.laddr.port == port
        ]
        pids = [connection.pid for connection in listening if connection.pid]
        if not pids:
            return None
        process = psutil.Process(pids[0])
        command = " ".join(process.cmdline())[:100] or process.name()
    except psutil.Error:
        return None
    return f"process {process.pid} (`{command}`)"


def _taken(wish: PortWish, port: int, number: int) -> str:
    owner = owner_of(number) or "another program"
    role = (
        f"{wish.part}'s port {number}"
        if number == port
        else (f"port {number}, which the S3 server needs beside {port},")
    )
    return (
        f"{role} is taken by {owner}: stop that, "
        f"or choose another port with {wish.option} or {wish.variable}"
    )


def _find(taken: set[int]) -> int:
    first = random.randrange(len(INTERNAL_RANGE))
    for offset in range(len(INTERNAL_RANGE)):
        port = INTERNAL_RANGE[(first + offset) % len(INTERNAL_RANGE)]
        if port not in taken and _is_free_with_twin(port):
            return port
    raise InputError(f"no free port between {INTERNAL_RANGE.start} and {INTERNAL_RANGE.stop}")


def _is_free_with_twin(port: int) -> bool:
    return port > 0 and is_free(port) and is_free(port + GRPC_PORT_OFFSET)
