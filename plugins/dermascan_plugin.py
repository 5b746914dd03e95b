"""What DermaScan adds to Airflow: a page in the navigation, a note on each run, a head start."""

from __future__ import annotations

from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from airflow.configuration import conf
from airflow.plugins_manager import AirflowPlugin
from dermascan_airflow import head_start, notes

PREFIX = "/dermascan"
BASE = urlsplit(conf.get("api", "base_url", fallback="/")).path.rstrip("/")


class DermaScanPlugin(AirflowPlugin):
    """The page under `/dermascan`, shown in a frame of Airflow's own, and the writer of notes."""

    name = "dermascan"

    def __init__(self) -> None:
        self.listeners = [head_start, notes]
        self.external_views = [
            {
                "name": "DermaScan",
                "href": f"{BASE}{PREFIX}/",
                "destination": "nav",
                "url_route": "dermascan",
                "icon": f"{BASE}{PREFIX}/static/icon.svg",
                "icon_dark_mode": f"{BASE}{PREFIX}/static/icon-dark.svg",
                "nav_top_level": True,
            }
        ]

    @cached_property
    def fastapi_apps(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """Return the page's application; made when the API server asks, and by no task."""
        from dermascan_airflow.app import make_app  # noqa: PLC0415  # tasks load plugins too

        return [{"app": make_app(), "url_prefix": PREFIX, "name": "DermaScan"}]
