"""The services of docker-compose.yml as plain processes: same commands, same environment.

What a container engine would give them, `Host` gives them: each instance of a service an address of
loopback in the place of its host name, and folders of its own in the place of its volumes.
"""

import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from compose import servers
from compose.specification import Service

from dermascan.stack import processes
from dermascan.stack.processes import Launch, ProcessRecord, last_lines

PROJECT = Path(__file__).parents[2]
IMAGE = ("dags", "plugins", "include", "dermascan")  # what the image copies
IN_IMAGE = "/opt/dermascan"
START_SECONDS = 240
HEALTH_SECONDS = 60
POSTGRES = "postgres"
# They would serve logs of running tasks on all interfaces.
UNSERVED = re.compile(r"\bairflow (triggerer|celery worker)")


@dataclass(frozen=True)
class Instance:
    """One container of a service, as a process."""

    service: Service
    name: str
    address: str
    folder: Path
    records: list[ProcessRecord] = field(default_factory=list)

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def code(self) -> Path:
        """Where a job leaves its exit code."""
        return self.folder / "exit-code"

    def members(self) -> list[psutil.Process]:
        return [p for record in self.records for p in processes.members(record, self.folder)]

    def runs(self) -> bool:
        return bool(self.records) and processes.is_running(self.records[-1])

    def kill(self) -> None:
        """End it with all its descendants, as a machine that loses power does."""
        kill([self])


def kill(instances: Iterable[Instance]) -> None:
    members = [process for instance in instances for process in instance.members()]
    for process in members:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(members, timeout=10)


class Host:
    """Starts services as Compose does: each when what it needs is healthy, or has ended well.

    Args:
        services: from `specification.services`.
        folder: for everything that they write.
        postgres: from `servers.postgres_folder`.
        changes: text of files of the image that differ, by their path in it.
    """

    def __init__(
        self,
        services: Mapping[str, Service],
        folder: Path,
        postgres: Path,
        changes: Mapping[str, str],
    ) -> None:
        self._services, self._folder, self._postgres = services, folder, postgres
        self._image = folder / "image"
        for part in IMAGE:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(PROJECT / part, self._image / part, ignore=ignored)
        for path, text in changes.items():
            (self._image / path).write_text(text)
        self.instances = list(self._placed())
        needs = [need for service in services.values() for need in service.needs.items()]
        self._jobs = {name for name, until in needs if until == "service_completed_successfully"}

    def _placed(self) -> Iterator[Instance]:
        network = f"127.{random.randint(64, 250)}.{random.randint(0, 250)}"
        wanted = [(s, number + 1) for s in self._services.values() for number in range(s.replicas)]
        for place, (service, number) in enumerate(wanted, start=1):
            name = f"{service.name}-{number}"
            folder = self._folder / name
            for path in ("/tmp", *service.mounts):  # noqa: S108  # in the container
                (folder / path.strip("/")).mkdir(parents=True, exist_ok=True)
            yield Instance(service, name, f"{network}.{place}", folder)

    def of(self, service: str) -> list[Instance]:
        return [found for found in self.instances if found.service.name == service]

    def url(self, service: str, port: int) -> str:
        return f"http://{self.of(service)[0].address}:{port}"

    # Translation: the one place where a process differs from a container

    def translate(self, text: str, instance: Instance) -> str:
        """Put addresses and folders of this host in the place of those in a container."""
        table: dict[str, str] = {}
        for other in self.instances:
            for name in other.service.names:
                table.setdefault(rf"(?<![\w-]){name}(?=:\d)", other.address)
            for port, published in other.service.ports.items():
                table.setdefault(re.escape(published), f"{other.address}:{port}")
        table[r"\b0\.0\.0\.0\b"] = table[r"\b127\.0\.0\.1\b"] = instance.address
        for path in instance.service.mounts:
            table[rf"(?<![\w/]){path}(?![\w.-])"] = str(instance.folder / path.strip("/"))
        table[rf"(?<![\w/]){IN_IMAGE}(?![\w.-])"] = str(self._image)
        values = list(table.values())
        pattern = "|".join(f"({key})" for key in table)
        return re.sub(pattern, lambda m: values[(m.lastindex or 1) - 1], text)

    def environment(self, instance: Instance) -> dict[str, str]:
        # PostgreSQL's and Redis's programs are in their images' PATH, the others in ours.
        folders = [
            str(Path(sys.executable).parent),
            str(servers.redis_folder()),
            str(servers.postgres_programs(self._postgres)),
            os.defpath,
        ]
        own = {
            name: self.translate(value, instance)
            for name, value in instance.service.environment.items()
        }
        surroundings = {
            "PATH": os.pathsep.join(folders),
            "PYTHONPATH": str(self._image),
            "HOSTNAME": instance.name,
            "TMPDIR": str(instance.folder / "tmp"),
        }
        return {**surroundings, **own}

    def command(self, instance: Instance) -> list[str]:
        if instance.service.name == POSTGRES:
            return servers.postgres_command(self._postgres, instance.address)
        parts = [self.translate(part, instance) for part in instance.service.command]
        if parts[0] == "airflow":
            return [*parts, *(["--skip-serve-logs"] if UNSERVED.search(" ".join(parts)) else [])]
        return [UNSERVED.sub(r"airflow \1 --skip-serve-logs", part) for part in parts]

    # Starting and stopping

    def start(self) -> None:
        """Start everything, each as soon as what it needs is there."""
        ready: set[str] = set()
        deadline = time.monotonic() + START_SECONDS
        while waiting := [s for name, s in self._services.items() if name not in ready]:
            for service in waiting:
                if service.needs.keys() <= ready:
                    self._launch_those_of(service)
                    if all(map(self._ready, self.of(service.name))):
                        ready.add(service.name)
            late = time.monotonic() > deadline
            assert not late, "\n".join(self._words(i) for s in waiting for i in self.of(s.name))
            time.sleep(0.5)

    def _launch_those_of(self, service: Service) -> None:
        for instance in self.of(service.name):
            if not instance.records:
                self.launch(instance)

    def launch(self, instance: Instance) -> None:
        """Start one instance, for the first time or again."""
        first = not instance.records
        if instance.service.name == POSTGRES and first:
            servers.start_cluster(self._postgres, instance.service.environment)
        command = self.command(instance)
        if instance.service.name in self._jobs:
            command = ["sh", "-c", f'"$@"; echo $? > {instance.code}', "sh", *command]
        launch = Launch(instance.name, command, self.environment(instance))
        instance.records.append(processes.start(launch, instance.log, instance.folder))

    def _ready(self, instance: Instance) -> bool:
        if instance.service.name in self._jobs:
            if instance.runs():
                return False
            assert instance.code.read_text().strip() == "0", self._words(instance)
            return True
        assert instance.runs(), self._words(instance)
        if not self.healthy(instance):
            return False
        if instance.service.name == POSTGRES:
            self._make_databases(instance)
        return True

    def wait_until_healthy(self) -> None:
        """Wait until everything that has a health check passes it."""
        deadline = time.monotonic() + START_SECONDS
        while ill := [i for i in self.instances if i.service.health and not self.healthy(i)]:
            assert time.monotonic() < deadline, "\n".join(map(self._words, ill))
            time.sleep(0.5)

    def healthy(self, instance: Instance) -> bool:
        """Run the service's own health check."""
        kind, *command = instance.service.health
        command = [self.translate(part, instance) for part in command]
        done = subprocess.run(
            command if kind == "CMD" else ["sh", "-c", *command],
            env=self.environment(instance),
            cwd=instance.folder,
            timeout=HEALTH_SECONDS,
            capture_output=True,
            check=False,
        )
        return done.returncode == 0

    def _words(self, instance: Instance) -> str:
        state = "runs" if instance.runs() else "does not run"
        return f"{instance.name} {state}:\n" + "\n".join(last_lines(instance.log, 25))

    def _make_databases(self, instance: Instance) -> None:
        (sql,) = [source for source in instance.service.mounts.values() if source]
        environment = instance.service.environment
        servers.make_databases(self._postgres, instance.address, environment, PROJECT / sql)

    def stop(self) -> None:
        kill(instance for instance in self.instances if instance.runs())


@contextmanager
def running(
    services: Mapping[str, Service], folder: Path, changes: Mapping[str, str] | None = None
) -> Iterator[Host]:
    """Lend a host on which all services run and are healthy."""
    with servers.postgres_folder() as postgres:
        host = Host(services, folder, postgres, changes or {})
        try:
            host.start()
            yield host
        finally:
            host.stop()
