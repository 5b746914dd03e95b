"""Copies of model versions on local disk, to score images where no service runs.

A copy holds the files of the version and its `MANIFEST.json`, and is compared with it each time
it is used. Copies that the command line makes by itself are kept under the stack's state folder.
"""

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from dermascan.errors import InputError, IntegrityError, NotFoundError
from dermascan.fingerprint import sha256_hex
from dermascan.layout import ModelKeys
from dermascan.registry import CHAMPION, ModelReference, fetch_version, resolve_version
from dermascan.storage import Store
from dermascan.versions import MANIFEST

_CHAMPION_NOTE = "champion.json"


@dataclass(frozen=True)
class LocalModel:
    """A folder with a model.

    Attributes:
        folder: holds `saved_model.pb` and `metadata.json`.
        name: of the model, empty for a SavedModel that was never published.
        version: None likewise.
    """

    folder: Path
    name: str = ""
    version: int | None = None

    def __str__(self) -> str:
        return f"{self.name} version {self.version}" if self.name else f"the model in {self.folder}"


def fetch_copy(store: Store, model: str, version: int, folder: Path) -> LocalModel:
    """Copy a version with its manifest to a folder that is not there yet, whole or not at all.

    Raises:
        InputError: the folder is there and not empty.
        NotFoundError: there is no such version.
        IntegrityError: a file does not match the manifest.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there already: name a folder that is not, or is empty")
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetching-") as name:
        files = fetch_version(store, model, version, Path(name) / "files")
        (files / MANIFEST).write_bytes(store.get(ModelKeys(model).manifest(version)))
        if folder.exists():
            folder.rmdir()
        shutil.move(files, folder)
    return LocalModel(folder, model, version)


def open_copy(folder: Path) -> LocalModel:
    """Check a folder against the manifest in it, if there is one.

    Raises:
        NotFoundError: there is no model in the folder.
        IntegrityError: a file is missing or is not the one that the manifest lists.
    """
    if not (folder / "saved_model.pb").is_file():
        raise NotFoundError(f"{folder} holds no model: `dermascan models fetch` makes a copy")
    path = folder / MANIFEST
    if not path.is_file():
        return LocalModel(folder)
    try:
        manifest = json.loads(path.read_bytes())
        listed = {str(file["path"]): str(file["sha256"]) for file in manifest["files"]}
        found = LocalModel(folder, str(manifest["model"]), int(manifest["version"]))
    except (ValueError, TypeError, KeyError) as error:
        raise IntegrityError(f"{path} is no manifest: {error!r}") from error
    for name, digest in listed.items():
        file = folder / name
        if not file.is_file() or sha256_hex(file.read_bytes()) != digest:
            raise IntegrityError(f"{file} is not the file that was published: fetch a new copy")
    return found


class ModelCache:
    """Copies of published versions under one folder, made when they are first wanted.

    Args:
        root: `<state>/models`; made when there is something to keep.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def wanted(self, store: Store, reference: ModelReference) -> LocalModel:
        """Return a copy of the version that a reference means at present.

        Raises:
            NotFoundError: there is no such version.
            IntegrityError: it does not match its manifest.
        """
        version = resolve_version(store, reference)
        folder = self._folder(reference.model, version)
        try:
            found = open_copy(folder)
        except (NotFoundError, IntegrityError):
            shutil.rmtree(folder, ignore_errors=True)
            found = fetch_copy(store, reference.model, version, folder)
        if reference.version == CHAMPION:
            note = self._root / reference.model / _CHAMPION_NOTE
            note.write_text(json.dumps({"version": version}))
        return found

    def kept(self, reference: ModelReference) -> LocalModel:
        """Return a copy that was made before; of the champion, as it was when last seen.

        Raises:
            NotFoundError: there is none.
            IntegrityError: it was changed since.
        """
        version = reference.version
        if version == CHAMPION:
            version = self._last_champion(reference.model)
        folder = self._folder(reference.model, int(version))
        if not folder.is_dir():
            raise self._missing(reference)
        return open_copy(folder)

    def _last_champion(self, model: str) -> str:
        note = self._root / model / _CHAMPION_NOTE
        try:
            return str(int(json.loads(note.read_bytes())["version"]))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise self._missing(ModelReference(model, CHAMPION)) from error

    @staticmethod
    def _missing(reference: ModelReference) -> NotFoundError:
        return NotFoundError(
            f"no copy of {reference.model}/{reference.version} is kept here, and no stack runs to "
            "fetch one: start it with `dermascan up`, or name a copy with --model-folder"
        )

    def _folder(self, model: str, version: int) -> Path:
        return self._root / ModelKeys(model).name / str(version)
