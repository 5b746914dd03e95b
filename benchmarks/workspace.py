"""What a benchmark works with: images, a scratch folder, an object store, the peers' programs."""

import csv
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import SecretStr

from benchmarks.rounds import Tell
from dermascan.acceptance.unpacking import unpack
from dermascan.errors import InputError, TransientError
from dermascan.fingerprint import sha256_hex
from dermascan.isic.catalogue import METADATA_FILE
from dermascan.isic.synthetic import write_archive
from dermascan.settings import StorageSettings
from dermascan.stack.object_store import server_command, server_environment, write_identity
from dermascan.stack.ports import any_free
from dermascan.storage import Store

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
STARTUP_SECONDS = 60
ACCESS_KEY, REGION = "benchmark", "us-east-1"


@dataclass(frozen=True)
class Workspace:
    """The means of one run.

    Attributes:
        scratch: an empty folder that is deleted afterwards.
        cache: a folder that stays: the peers' environment, drawn and unpacked images.
        data: a tar or folder as the official client writes it; None to draw images.
        images: how many images are wanted; None for what the benchmark takes by itself.
        tell: shows progress.
    """

    scratch: Path
    cache: Path
    data: Path | None
    images: int | None
    tell: Tell

    def folder(self, images: int) -> Path:
        """Return a folder of exactly so many images with `metadata.csv`, real ones if there are.

        Args:
            images: unless the user wants another number.

        Raises:
            InputError: the archive has fewer.
        """
        wanted = self.images or images
        if self.data is None:
            drawn = self.cache / f"drawn-{wanted}"
            write_archive(drawn, wanted, seed=0)
            return drawn
        return _part_of(unpack(self.data, self.cache), wanted, self.scratch / f"images-{wanted}")

    @property
    def origin(self) -> str:
        """Say where the images come from."""
        return f"images of {self.data.name}" if self.data else "drawn images"

    @cached_property
    def peers(self) -> Path:
        """Return the folder of the peers' programs, installed on first use, locked by hash."""
        place = self.cache / f"peers-{sha256_hex(REQUIREMENTS.read_bytes())[:12]}"
        if not (place / "ready").exists():
            self.tell("installing the peers that are measured against")
            shutil.rmtree(place, ignore_errors=True)
            uv = [sys.executable, "-m", "uv"]
            python = place / "bin" / "python"
            _checked([*uv, "venv", "--quiet", "--python", sys.executable, str(place)])
            sync = ["pip", "sync", "--quiet", "--require-hashes", "--python", str(python)]
            _checked([*uv, *sync, str(REQUIREMENTS)])
            (place / "ready").touch()
        return place / "bin"

    @property
    def s5cmd(self) -> Path:
        """Return the program itself: the package's command is a Python program around it."""
        return next(self.peers.parent.glob("lib/python*/site-packages/s5cmd/bin/s5cmd*"))


def image_files(folder: Path) -> list[Path]:
    """Return the images of a folder in the order of their names."""
    return sorted(path for path in folder.iterdir() if path.suffix in {".jpg", ".png"})


def run_program(command: Sequence[str], environment: Mapping[str, str] | None = None) -> float:
    """Run a peer's program to its end; return the seconds it took.

    Raises:
        TransientError: it failed; the message has what it said last.
    """
    started = time.perf_counter()
    _checked(command, environment)
    return time.perf_counter() - started


def _checked(command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(  # noqa: S603  # the benchmark's own commands
        command,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-2000:]
        raise TransientError(f"{Path(command[0]).name} failed ({done.returncode}): {said}")


class Worker:
    """A program that does its work once for each line it is given, and says how long it took.

    It prints one line when it is ready, then a number of seconds for each line of input. So
    starting it and its imports are not measured.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        self._command = command
        self._process = subprocess.Popen(  # noqa: S603  # the benchmark's own commands
            command,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def run(self) -> float:
        """Let it work once; return its seconds."""
        assert self._process.stdin is not None  # noqa: S101  # for the type checker: a pipe
        print(file=self._process.stdin, flush=True)
        return float(self._answer())

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()

    def _answer(self) -> str:
        assert self._process.stdout is not None  # noqa: S101  # for the type checker: a pipe
        line = self._process.stdout.readline()
        if not line:
            raise TransientError(f"{' '.join(self._command[:4])} ended: see above")
        return line


@contextmanager
def object_store(folder: Path) -> Iterator[Store]:
    """Run SeaweedFS, as the embedded stack does, and yield an empty bucket on it."""
    secret, identity = uuid.uuid4().hex, folder / "identity.json"
    data = folder / "objects"
    data.mkdir(parents=True)
    write_identity(identity, ACCESS_KEY, secret)
    ports = (any_free(), any_free(), any_free(), any_free())
    settings = StorageSettings(
        bucket="benchmark",
        endpoint_url=f"http://127.0.0.1:{ports[0]}",
        region=REGION,
        access_key_id=ACCESS_KEY,
        secret_access_key=SecretStr(secret),
    )
    with serving(server_command(data, identity, ports), folder / "s3.log", server_environment()):
        patience = settings.impatient(STARTUP_SECONDS)
        Store(patience).ensure_bucket()
        yield Store(settings)


def aws_environment(settings: StorageSettings) -> dict[str, str]:
    """Return what tells S3 programs whom to talk to."""
    secret = settings.secret_access_key
    return {
        "AWS_ACCESS_KEY_ID": settings.access_key_id or "",
        "AWS_SECRET_ACCESS_KEY": secret.get_secret_value() if secret else "",
        "AWS_DEFAULT_REGION": settings.region,
        "AWS_REGION": settings.region,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": settings.endpoint_url or "",
        "S3_ENDPOINT_URL": settings.endpoint_url or "",
    }


@contextmanager
def serving(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Run a server for as long as the block lasts."""
    with (
        log.open("wb") as file,
        subprocess.Popen(  # noqa: S603  # the benchmark's own commands
            command, env={**os.environ, **(environment or {})}, stdout=file, stderr=file
        ) as server,
    ):
        try:
            yield
        finally:
            server.kill()


def _part_of(folder: Path, images: int, place: Path) -> Path:
    files = image_files(folder)
    if len(files) < images:
        raise InputError(f"{folder} has {len(files)} images, {images} are needed: use --images")
    if len(files) == images:
        return folder
    place.mkdir(exist_ok=True)
    chosen = {file.stem for file in files[:images]}
    for file in files[:images]:
        shutil.copyfile(file, place / file.name)
    _copy_rows(folder / METADATA_FILE, place / METADATA_FILE, chosen)
    return place


def _copy_rows(source: Path, target: Path, chosen: set[str]) -> None:
    with (
        source.open(newline="", encoding="utf-8") as read,
        target.open("w", newline="", encoding="utf-8") as written,
    ):
        rows = csv.DictReader(read)
        writer = csv.DictWriter(written, rows.fieldnames or ())
        writer.writeheader()
        writer.writerows(row for row in rows if row["isic_id"] in chosen)
