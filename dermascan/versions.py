"""Model versions: immutable, complete or not there, and checked by whoever reads them.

A version is its files and then, created once, `MANIFEST.json` with the SHA-256 of each. One
without a manifest does not exist for any reader; one whose files differ from its manifest is
refused by every reader.
"""

import json
import logging
import mimetypes
import tempfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path, PurePosixPath

from dermascan.errors import IntegrityError, NotFoundError, TransientError
from dermascan.fingerprint import canonical_json, sha256_hex
from dermascan.layout import ModelKeys
from dermascan.storage import Store, concurrently

logger = logging.getLogger(__name__)

VERSION_FORMAT = "%Y%m%d%H%M%S"
CLAIM, MANIFEST = "TRAINING.json", "MANIFEST.json"
_READERS = 8


@dataclass(frozen=True)
class PublishedFile:
    """One file of a version: path under the version's prefix, SHA-256, size in bytes."""

    path: str
    sha256: str
    size: int


def claim_version(store: Store, model: str, owner: str, now: datetime | None = None) -> int:
    """Reserve a version number: the UTC time to the second, or the next that is free.

    What the owner reserved before and has not published is returned again.

    Args:
        store: the bucket.
        model: the model's name.
        owner: fingerprint of the training run that it is reserved for.
        now: the time to start from; the present by default.
    """
    start = int((now or datetime.now(UTC)).strftime(VERSION_FORMAT))
    claim = canonical_json({"training": owner})
    keys = ModelKeys(model)
    for version in unpublished_claims(store, model):
        if store.get_if_present(keys.version(version) + CLAIM) == claim:
            return version
    return next(
        version
        for version in count(start)
        if store.put_if_absent(keys.version(version) + CLAIM, claim, "application/json")
    )


def unpublished_claims(store: Store, model: str) -> list[int]:
    """Return the versions that were claimed and have no manifest, oldest first."""
    claimed, published = _versions_with(store, model, CLAIM, MANIFEST)
    return sorted(claimed - published)


def publish_version(store: Store, model: str, version: int, folder: Path) -> None:
    """Upload a folder as a version, its manifest last.

    Nothing is written to a version that has its manifest.

    Raises:
        IntegrityError: the version exists with other content.
    """
    keys = ModelKeys(model)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = [_described_file(folder, path) for path in paths]
    taken = f"{model} {version} is published already with other content: claim a new version"
    if is_published(store, model, version):
        if set(files) != set(version_files(store, model, version)):
            raise IntegrityError(taken)
        return
    for file in files:
        _upload_file(store, keys.version(version), folder, file)
    manifest = canonical_json(
        {"model": model, "version": version, "files": [asdict(file) for file in files]}
    )
    if not store.put_immutable(keys.manifest(version), manifest, "application/json"):
        raise IntegrityError(taken)
    logger.info("published %s version %d: %d files", model, version, len(files))


def _described_file(folder: Path, path: Path) -> PublishedFile:
    data = path.read_bytes()
    return PublishedFile(path.relative_to(folder).as_posix(), sha256_hex(data), len(data))


def _upload_file(store: Store, prefix: str, folder: Path, file: PublishedFile) -> None:
    data = (folder / file.path).read_bytes()
    content_type = mimetypes.guess_type(file.path)[0] or "application/octet-stream"
    if not store.put_immutable(prefix + file.path, data, content_type):
        # A try that died before its manifest left this file, or one that is about to end.
        if store.exists(prefix + MANIFEST):
            raise TransientError(f"{store.address(prefix)} was published meanwhile")
        store.put(prefix + file.path, data, content_type)


def is_published(store: Store, model: str, version: int) -> bool:
    """Tell whether a version is complete."""
    return store.exists(ModelKeys(model).manifest(version))


def version_files(store: Store, model: str, version: int) -> list[PublishedFile]:
    """Return the files of a version as its manifest lists them.

    Raises:
        NotFoundError: there is no such version, or it was never completed.
        IntegrityError: the manifest cannot be read, or is of another version.
    """
    key = ModelKeys(model).manifest(version)
    body = store.get_if_present(key)
    if body is None:
        raise NotFoundError(
            f"model {model!r} has no version {version}: `dermascan models list` shows what there is"
        )
    try:
        manifest = json.loads(body)
        files = [PublishedFile(**file) for file in manifest["files"]]
        owner = (manifest["model"], manifest["version"])
    except (ValueError, TypeError, KeyError) as error:
        raise IntegrityError(f"{store.address(key)} is no manifest: {error!r}") from error
    strays = [file.path for file in files if not _stays_inside(file.path)]
    if owner != (model, version) or strays:
        found = f"of {owner[0]} {owner[1]}" + (f", with the paths {strays}" if strays else "")
        raise IntegrityError(f"{store.address(key)} is a manifest {found}: restore the object")
    return files


def _stays_inside(path: str) -> bool:
    pure = PurePosixPath(path)
    return bool(pure.parts) and ".." not in pure.parts and not pure.is_absolute()


def read_file(store: Store, model: str, version: int, path: str) -> bytes:
    """Return one file of a version, checked against the manifest.

    Raises:
        NotFoundError: there is no such version, or it has no such file.
        IntegrityError: the file does not match the manifest.
    """
    for file in version_files(store, model, version):
        if file.path == path:
            key = ModelKeys(model).version(version) + path
            if (data := store.get_if_present(key)) is None or sha256_hex(data) != file.sha256:
                raise IntegrityError(_damaged(store, key))
            return data
    raise NotFoundError(f"{model} {version} has no file {path!r}")


def fetch_version(store: Store, model: str, version: int, folder: Path) -> Path:
    """Copy a version to a local folder, checking every file against the manifest.

    Returns:
        The folder, which then holds the version's files.

    Raises:
        NotFoundError: there is no such version.
        IntegrityError: a file is missing or does not match the manifest.
    """
    prefix = ModelKeys(model).version(version)

    def fetch(file: PublishedFile) -> None:
        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            digest = store.get_file(prefix + file.path, path)
        except NotFoundError as error:
            raise IntegrityError(_damaged(store, prefix + file.path)) from error
        if digest != file.sha256:
            raise IntegrityError(_damaged(store, prefix + file.path))

    for _ in concurrently(fetch, version_files(store, model, version), _READERS):
        pass
    return folder


def _damaged(store: Store, key: str) -> str:
    address = store.address(key)
    return f"{address} is not the file that the version's manifest lists: restore it from a backup"


def require_intact(store: Store, model: str, version: int) -> None:
    """Read every file of a version and compare it with the manifest.

    Raises:
        NotFoundError: there is no such version.
        IntegrityError: a file is missing or does not match the manifest.
    """
    with tempfile.TemporaryDirectory() as folder:
        fetch_version(store, model, version, Path(folder))


def list_versions(store: Store, model: str) -> list[int]:
    """Return the complete versions, oldest first."""
    (published,) = _versions_with(store, model, MANIFEST)
    return sorted(published)


def _versions_with(store: Store, model: str, *files: str) -> list[set[int]]:
    """Return the versions that have each of the files, from one listing."""
    root = ModelKeys(model).root
    parts = [found.key.removeprefix(root).split("/") for found in store.list(root)]
    named = [(part[0], part[1]) for part in parts if len(part) == 2 and part[0].isdecimal()]
    return [{int(version) for version, name in named if name == file} for file in files]
