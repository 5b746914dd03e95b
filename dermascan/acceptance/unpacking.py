"""An archive of images as somebody hands it over: a tar file that is not to be trusted."""

import hashlib
import re
import shutil
import tarfile
import tempfile
from pathlib import Path

from dermascan.errors import InputError
from dermascan.isic.catalogue import METADATA_FILE
from dermascan.layout import checked_name

LAYOUT = f"expected is one folder with {METADATA_FILE} beside <isic_id>.jpg"
_SUFFIXES = re.compile(r"(\.tar)?(\.gz|\.bz2|\.xz)?$|\.tgz$")
_UNUSABLE = re.compile(r"[^a-z0-9._-]+")


def dataset_name(data: Path) -> str:
    """Name a dataset after its archive, such as `ham10000` for `HAM10000.tar`.

    Raises:
        InputError: nothing of the name can stand in a key.
    """
    name = data.resolve().name.lower()
    stem = name if data.is_dir() else _SUFFIXES.sub("", name)
    return checked_name("dataset", _UNUSABLE.sub("-", stem).lstrip("._-")[:63])


def unpack(data: Path, folder: Path) -> Path:
    """Return the folder of images in an archive, unpacking it unless that was done before.

    Args:
        data: a tar file, compressed or not, or a folder, which is used where it is.
        folder: to unpack to; made if it is missing.

    Returns:
        The folder that holds `metadata.csv`.

    Raises:
        InputError: it is not what the official client writes, holds anything but files and
            folders, reaches out of its place, or does not fit on the disk.
    """
    if data.is_dir():
        return _images_in(data, data)
    if not data.is_file():
        raise InputError(f"there is no archive {data}: name a tar file or a folder")
    with data.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    place = folder / digest[:16]
    if not place.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _extract_at_once(data, place)
    return _images_in(place, data)


def _extract_at_once(data: Path, place: Path) -> None:
    """Unpack to a folder that is there completely or not at all."""
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".unpacking-") as name:
        whole = Path(name) / "whole"
        whole.mkdir()
        try:
            with tarfile.open(data) as tar:
                _require_acceptable(data, tar, place.parent)
                _extract(data, tar, whole)
        except (tarfile.TarError, EOFError, OSError) as error:
            raise InputError(f"{data} cannot be unpacked: {error}") from error
        whole.rename(place)


def _extract(data: Path, tar: tarfile.TarFile, whole: Path) -> None:
    """Write files and folders, as `extractall(filter="data")` does from Python 3.11.4 on."""
    for member in tar:
        place = whole / member.name.lstrip("/")
        if not place.resolve().is_relative_to(whole.resolve()):
            raise InputError(f"{data} cannot be unpacked: {member.name!r} would leave its folder")
        content = tar.extractfile(member)
        if content is None:
            place.mkdir(parents=True, exist_ok=True)
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        with content, place.open("wb") as file:
            shutil.copyfileobj(content, file)


def _require_acceptable(data: Path, tar: tarfile.TarFile, folder: Path) -> None:
    needed = 0
    for member in tar:
        if not (member.isreg() or member.isdir()):
            raise InputError(f"{data}: {member.name!r} is neither a file nor a folder: {LAYOUT}")
        needed += member.size
    _require_end(data, tar)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(f"{data} unpacks to {needed} bytes, but {free} are free at {folder}")


def _require_end(data: Path, tar: tarfile.TarFile) -> None:
    """Refuse a tar file that was cut between two members, which `tarfile` takes for its end."""
    if tar.fileobj is not None:
        tar.fileobj.seek(tar.offset)
        if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise InputError(f"{data} is cut short: copy it again")


def _images_in(place: Path, data: Path) -> Path:
    candidates = [place, *sorted(path for path in place.iterdir() if path.is_dir())]
    found = [folder for folder in candidates if (folder / METADATA_FILE).is_file()]
    if len(found) != 1:
        raise InputError(f"{data} has {len(found)} folders with {METADATA_FILE}: {LAYOUT}")
    return found[0]
