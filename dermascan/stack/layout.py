"""Where the embedded stack keeps its things: all under one private folder of a project."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dermascan.errors import InputError

STATE_FOLDER = ".dermascan"
PROJECT_VARIABLE = "DERMASCAN_PROJECT"


@dataclass(frozen=True)
class StackPaths:
    """The folders of one embedded stack, absolute.

    Attributes:
        project: the folder that holds DAGs, plugins and configuration.
        state: databases, stored objects, logs, secrets and process ids; private to its owner.
        dags: Airflow's DAG folder.
        plugins: Airflow's plugin folder.
    """

    project: Path
    state: Path
    dags: Path
    plugins: Path

    @classmethod
    def of_project(cls, project: Path) -> "StackPaths":
        """Return the usual folders of a project."""
        project = project.resolve()
        return cls(project, project / STATE_FOLDER, project / "dags", project / "plugins")

    @property
    def logs(self) -> Path:
        """Standard output and error of each part."""
        return self.state / "logs"

    @property
    def airflow(self) -> Path:
        """Airflow's home: database, task logs, generated configuration."""
        return self.state / "airflow"

    @property
    def airflow_passwords(self) -> Path:
        """The file in which Airflow looks up passwords, `{"admin": "..."}`."""
        return self.airflow / "passwords.json"

    @property
    def objects(self) -> Path:
        """The object storage's volumes."""
        return self.state / "objects"

    @property
    def object_identity(self) -> Path:
        """The key pair that the object storage accepts."""
        return self.state / "objects-identity.json"

    @property
    def mlflow_database(self) -> Path:
        """MLflow's SQLite file."""
        return self.state / "mlflow" / "mlflow.db"

    @property
    def credentials(self) -> Path:
        """All generated secrets."""
        return self.state / "credentials.json"

    @property
    def ports(self) -> Path:
        """The ports chosen for this stack."""
        return self.state / "ports.json"

    @property
    def processes(self) -> Path:
        """What is believed to run."""
        return self.state / "processes.json"

    @property
    def lock(self) -> Path:
        """Held while somebody starts or stops the stack."""
        return self.state / "lock"

    def create(self) -> None:
        """Make the folders; the state folder can be entered by its owner only."""
        self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.state.chmod(0o700)
        for folder in (self.logs, self.airflow, self.objects, self.mlflow_database.parent):
            folder.mkdir(mode=0o700, exist_ok=True)


def find_project(named: Path | None, environment: Mapping[str, str] = os.environ) -> Path:
    """Return the project folder: named, or from the environment, or found.

    Looked for in this order: `named`; `DERMASCAN_PROJECT`; the working folder and the
    folders above it; the checkout that this package is installed from.

    Raises:
        InputError: there is no such folder, or none with a `dags` folder was found.
    """
    chosen = named or (
        Path(environment[PROJECT_VARIABLE]) if PROJECT_VARIABLE in environment else None
    )
    if chosen is not None:
        if not chosen.is_dir():
            raise InputError(f"there is no project folder {chosen}: create it or name another")
        return chosen.resolve()
    here = Path.cwd()
    for folder in (here, *here.parents, Path(__file__).resolve().parents[2]):
        if (folder / "dags").is_dir() and (folder / "pyproject.toml").is_file():
            return folder
    raise InputError(
        f"no project found in {here} or above it: "
        f"go to the project's folder, or name it with --project or {PROJECT_VARIABLE}"
    )


def write_private(path: Path, text: str) -> None:
    """Replace a file in one step with one that only its owner can read."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
