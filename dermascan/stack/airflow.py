"""How to configure and start Airflow on loopback: SQLite, LocalExecutor, four processes."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

from dermascan.errors import TransientError
from dermascan.stack.credentials import ADMIN, Credentials
from dermascan.stack.environment import without
from dermascan.stack.layout import StackPaths
from dermascan.stack.mlflow import PRIVACY
from dermascan.stack.object_store import LOOPBACK
from dermascan.stack.ports import Ports
from dermascan.stack.processes import Launch, last_lines

SCHEDULER, DAG_PROCESSOR, TRIGGERER, API_SERVER = (
    "scheduler",
    "dag-processor",
    "triggerer",
    "api-server",
)
WITHOUT_PORT = (SCHEDULER, DAG_PROCESSOR, TRIGGERER)
PARTS = (*WITHOUT_PORT, API_SERVER)
# Airflow would serve task logs on all interfaces; the API server reads the files itself.
ARGUMENTS = {SCHEDULER: ["--skip-serve-logs"], TRIGGERER: ["--skip-serve-logs"]}
# What is the same wherever Airflow runs; a test holds docker-compose.yml to it.
EVERYWHERE: Mapping[str, Mapping[str, object]] = {
    "core": {
        "load_examples": False,
        "dags_are_paused_at_creation": False,
        "simple_auth_manager_users": f"{ADMIN}:admin",
        "hostname_callable": "socket.gethostname",  # getfqdn waits for DNS when offline
    },
    "api": {"instance_name": "DermaScan"},
    "dag_processor": {"refresh_interval": 30},
    "scheduler": {"scheduler_idle_sleep_time": 0.5, "orphaned_tasks_check_interval": 30},
}
FOR_TASKS: Mapping[str, str] = {
    **PRIVACY,
    "GX_ANALYTICS_ENABLED": "false",
    "TF_CPP_MIN_LOG_LEVEL": "3",  # a machine without a GPU is no error for a task's log
    "ARROW_DEFAULT_MEMORY_POOL": "system",  # Arrow's own gives memory back late
}
LOCK_SECONDS = 60  # four processes write to one SQLite file
MIGRATION_SECONDS = 300


def environment(
    paths: StackPaths, ports: Ports, credentials: Credentials, inherited: Mapping[str, str]
) -> dict[str, str]:
    """Return the environment of every Airflow process, and so of every task.

    Variables that configure another Airflow of the same user are left out.
    """
    url = f"http://{LOOPBACK}:{ports.airflow}"
    settings: dict[str, dict[str, object]] = {
        "core": {
            "dags_folder": paths.dags,
            "plugins_folder": paths.plugins,
            "executor": "LocalExecutor",
            "parallelism": max(4, min(os.cpu_count() or 1, 16)),
            "fernet_key": credentials.fernet_key.get_secret_value(),
            "simple_auth_manager_passwords_file": paths.airflow_passwords,
            "execution_api_server_url": f"{url}/execution/",
        },
        "database": {"sql_alchemy_conn": _database_url(_database(paths))},
        "api": {
            "host": LOOPBACK,
            "port": ports.airflow,
            "base_url": url,
            "workers": 1,
            "secret_key": credentials.api_secret_key.get_secret_value(),
        },
        "api_auth": {"jwt_secret": credentials.jwt_secret.get_secret_value()},
        "dag_processor": {"dag_bundle_storage_path": paths.airflow / "bundles"},
        "logging": {
            "base_log_folder": paths.airflow / "logs",
            "dag_processor_child_process_log_directory": paths.airflow / "logs" / "dag_processor",
        },
        "scheduler": {
            # After a crash, tasks that ran are noticed and tried again within two minutes.
            "task_instance_heartbeat_timeout": 120,
            "scheduler_idle_sleep_time": 0.2,  # takes 5 % of a core
            "mp_start_method": "forkserver",
            "mp_forkserver_preload": "dermascan.stack.preloaded",
        },
        # A worker may see only at the next heartbeat that its task ended, and take no other before.
        "workers": {"min_heartbeat_interval": 1, "max_failed_heartbeats": 15},
    }
    return {
        **without(inherited, "AIRFLOW_"),
        **variables(EVERYWHERE),
        **variables(settings),
        **FOR_TASKS,
        "AIRFLOW_HOME": str(paths.airflow),
        "MLFLOW_TRACKING_URI": f"http://{LOOPBACK}:{ports.mlflow}",
    }


def variables(settings: Mapping[str, Mapping[str, object]]) -> dict[str, str]:
    """Return environment variables that set Airflow's options, given by section and name."""
    return {
        f"AIRFLOW__{section.upper()}__{option.upper()}": str(value)
        for section, options in settings.items()
        for option, value in options.items()
    }


def launches(environment: Mapping[str, str]) -> list[Launch]:
    """Return the commands of Airflow's four processes."""
    return [
        Launch(part, [*_airflow(), part, *ARGUMENTS.get(part, [])], environment) for part in PARTS
    ]


def needs_migration(paths: StackPaths) -> bool:
    """Tell whether the metadata database is missing or from another version of Airflow."""
    marker = _marker(paths)
    return not (_database(paths).exists() and marker.exists() and marker.read_text() == _version())


def migrate(paths: StackPaths, environment: Mapping[str, str]) -> None:
    """Create or upgrade the metadata database.

    The work is done on a copy that takes the database's place when it is complete: a
    migration that is killed half-way leaves nothing behind that stops the next.

    Raises:
        TransientError: Airflow's migration failed; the message shows its last lines.
    """
    database, copy = _database(paths), _database(paths).with_suffix(".migrating")
    for leftover in copy.parent.glob(f"{copy.name}*"):
        leftover.unlink()
    if database.exists():
        _copy_database(database, copy)
    log = paths.logs / "airflow-migration.log"
    with log.open("wb") as output:
        result = subprocess.run(  # noqa: S603  # the command is built by this package
            [*_airflow(), "db", "migrate"],
            env={**environment, "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": _database_url(copy)},
            cwd=paths.airflow,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=MIGRATION_SECONDS,
            check=False,
        )
    if result.returncode != 0:
        end = "\n".join(last_lines(log, 10))
        raise TransientError(f"Airflow's database could not be prepared, see {log}:\n{end}")
    copy.replace(database)
    _marker(paths).write_text(_version())


def _airflow() -> list[str]:
    return [sys.executable, "-m", "airflow"]


def _database(paths: StackPaths) -> Path:
    return paths.airflow / "airflow.db"


def _database_url(database: Path) -> str:
    return f"sqlite:///{database}?timeout={LOCK_SECONDS}"


def _copy_database(source: Path, target: Path) -> None:
    # Closing the last connection also folds the write-ahead log into the source.
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)


def _marker(paths: StackPaths) -> Path:
    return paths.airflow / "airflow.db.version"


def _version() -> str:
    return version("apache-airflow-core")
