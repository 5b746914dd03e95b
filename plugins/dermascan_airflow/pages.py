"""Templates: every value is escaped, whoever wrote it."""

from __future__ import annotations

import base64
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from dermascan import DISCLAIMER, __version__

if TYPE_CHECKING:
    from datetime import datetime

    from starlette.requests import Request

MOUNT = "/dermascan"


def render(template: str, request: Request, **values: object) -> str:
    """Fill in a template; `base` is where the pages are, `airflow` where Airflow is."""
    base = request.scope.get("root_path", "").rstrip("/")
    return (
        _environment()
        .get_template(template)
        .render(base=base, airflow=base.removesuffix(MOUNT), **values)
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "figure": _figure,
        "jpeg": _jpeg,
        "minute": _minute,
        "run_path": _run_path,
        "segment": lambda text: quote(str(text), safe=""),
        "path": lambda text: quote(str(text), safe="/"),
        "query": urlencode,
        "bytes": _bytes,
    }
    environment.globals |= {"disclaimer": DISCLAIMER, "library_version": __version__}
    return environment


def _figure(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _jpeg(image: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(image).decode()


def _minute(moment: datetime | str) -> str:
    """Show a UTC time, as ISO 8601 text or not, to the minute."""
    text = moment if isinstance(moment, str) else moment.isoformat()
    return f"{text[:16].replace('T', ' ')} UTC"


def _run_path(by: str) -> str | None:
    """Return where Airflow shows the run that a champion was moved by, None if it was a person."""
    found = re.fullmatch(r"((?:train|rollback)_model)/(.+)", by)
    return f"/dags/{found[1]}/runs/{quote(found[2], safe='')}" if found else None


def _bytes(size: int) -> str:
    """Show a size in the largest unit of which there is one at least."""
    units = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))
    fitting = ((name, unit) for name, unit in units if size >= unit)
    name, unit = next(fitting, ("B", 1))
    return f"{size} B" if unit == 1 else f"{size / unit:.1f} {name}"
