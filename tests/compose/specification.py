"""docker-compose.yml as Compose reads it: variables put in, profiles chosen, services named."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_VARIABLE = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<name>\w+)(?P<kind>:[-?])?(?P<text>[^}]*)\})")


@dataclass(frozen=True)
class Service:
    """What of a service matters for starting it.

    Attributes:
        ports: published address, such as `127.0.0.1:8080`, by the container's port.
        needs: condition by the name of the service to wait for.
        mounts: source by path in the container, None for what is the container's own.
    """

    name: str
    command: list[str]
    environment: Mapping[str, str]
    health: list[str]
    needs: Mapping[str, str]
    names: frozenset[str]
    ports: Mapping[str, str]
    mounts: Mapping[str, str | None]
    replicas: int


def read_environment(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and line[0] != "#"]
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def interpolate(value: Any, variables: Mapping[str, str]) -> Any:
    """Put variables in as Compose does; one that is required and missing is a KeyError."""
    if isinstance(value, dict):
        return {key: interpolate(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [interpolate(item, variables) for item in value]
    return _VARIABLE.sub(lambda m: _text(m, variables), value) if isinstance(value, str) else value


def _text(found: re.Match[str], variables: Mapping[str, str]) -> str:
    if found["dollar"]:
        return "$"
    given = variables.get(found["name"], "")
    if given or found["kind"] is None:
        return given
    if found["kind"] == ":?":
        raise KeyError(found["name"])
    return found["text"]


def services(path: Path, variables: Mapping[str, str]) -> dict[str, Service]:
    """Return the services that Compose would start, by name."""
    profiles = set(variables.get("COMPOSE_PROFILES", "").split(","))
    found = interpolate(yaml.safe_load(path.read_text())["services"], variables)
    chosen = {
        n: s for n, s in found.items() if not s.get("profiles") or {*s["profiles"]} & profiles
    }
    return {name: _service(name, entry, set(chosen)) for name, entry in chosen.items()}


def _service(name: str, entry: Mapping[str, Any], known: set[str]) -> Service:
    networks = entry["networks"] if isinstance(entry["networks"], dict) else {}
    aliases = {alias for options in networks.values() for alias in options["aliases"]}
    needs = {n: o["condition"] for n, o in entry.get("depends_on", {}).items() if n in known}
    ports = {port.rsplit(":", 1)[1]: port.rsplit(":", 1)[0] for port in entry.get("ports", [])}
    return Service(
        name=name,
        command=list(entry.get("command", [])),
        environment={key: str(value) for key, value in entry["environment"].items()},
        health=entry.get("healthcheck", {}).get("test", []),
        needs=needs,
        names=frozenset({name, *aliases}),
        ports=ports,
        mounts={**_volumes(entry), **{t.split(":")[0]: None for t in entry.get("tmpfs", [])}},
        replicas=int(entry.get("deploy", {}).get("replicas", 1)),
    )


def _volumes(entry: Mapping[str, Any]) -> dict[str, str | None]:
    mounts: dict[str, str | None] = {}
    for volume in entry.get("volumes", []):
        if isinstance(volume, dict):
            mounts[volume["target"]] = None
        else:
            source, target = volume.split(":")[:2]
            mounts[target] = source if source.startswith(".") else None
    return mounts
