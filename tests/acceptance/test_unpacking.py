import io
import shutil
import tarfile
from collections import namedtuple
from pathlib import Path

import pytest
from archives import row, write_folder

from dermascan.acceptance.unpacking import dataset_name, unpack
from dermascan.errors import InputError


@pytest.fixture
def images(tmp_path) -> Path:
    return write_folder(tmp_path / "source" / "made-up", [row(i) for i in range(3)])


@pytest.fixture
def place(tmp_path) -> Path:
    return tmp_path / "deep" / "unpacked"


def packed(images: Path, path: Path, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        tar.add(images, images.name)
    return path


def with_member(images: Path, path: Path, member: tarfile.TarInfo, body: bytes = b"") -> Path:
    packed(images, path)
    member.size = len(body)
    with tarfile.open(path, "a") as tar:
        tar.addfile(member, io.BytesIO(body))
    return path


def special(kind: bytes, name: str = "made-up/odd.jpg", target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


HOSTILE = {
    "parent folder": tarfile.TarInfo("../evil.jpg"),
    "parent folder, deeper": tarfile.TarInfo("made-up/../../evil.jpg"),
    "link inside": special(tarfile.SYMTYPE, target="metadata.csv"),
    "link outside": special(tarfile.SYMTYPE, target="../../secret"),
    "hard link": special(tarfile.LNKTYPE, target="made-up/metadata.csv"),
    "device": special(tarfile.CHRTYPE),
    "pipe": special(tarfile.FIFOTYPE),
}


@pytest.mark.parametrize(("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz"), ("a", "w:xz")])
def test_unpack_when_given_a_tar_returns_the_folder_with_the_metadata(
    images, place, tmp_path, name, mode
):
    folder = unpack(packed(images, tmp_path / name, mode), place)

    assert folder.name == "made-up"
    assert folder.is_relative_to(place)
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in images.iterdir())


def test_unpack_when_the_tar_has_no_folder_returns_its_top(images, place, tmp_path):
    path = tmp_path / "flat.tar"
    with tarfile.open(path, "w") as tar:
        for file in images.iterdir():
            tar.add(file, file.name)

    assert (unpack(path, place) / "metadata.csv").is_file()


def test_unpack_when_given_a_folder_uses_it_where_it_is(images, place):
    assert unpack(images, place) == images
    assert unpack(images.parent, place) == images
    assert not place.exists()


def test_unpack_when_done_before_does_not_unpack_again(images, place, tmp_path):
    tar = packed(images, tmp_path / "a.tar")
    (unpack(tar, place) / "metadata.csv").write_text("mine")

    assert (unpack(tar, place) / "metadata.csv").read_text() == "mine"


def test_unpack_when_the_tar_is_another_of_the_same_name_unpacks_it(images, place, tmp_path):
    before = unpack(packed(images, tmp_path / "a.tar"), place)
    (images / "metadata.csv").write_text("changed")
    after = unpack(packed(images, tmp_path / "a.tar"), place)

    assert before != after
    assert (after / "metadata.csv").read_text() == "changed"


@pytest.mark.parametrize("member", HOSTILE.values(), ids=HOSTILE.keys())
def test_unpack_when_a_tar_is_hostile_refuses_it_and_leaves_nothing(
    images, place, tmp_path, member
):
    tar = with_member(images, tmp_path / "a.tar", member)

    with pytest.raises(InputError, match=r"a\.tar"):
        unpack(tar, place)

    assert list(place.iterdir()) == []
    assert not list(tmp_path.rglob("evil.jpg"))


def test_unpack_when_a_member_has_an_absolute_path_writes_nothing_there(images, place, tmp_path):
    target = tmp_path / "elsewhere" / "evil.jpg"
    tar = with_member(images, tmp_path / "a.tar", tarfile.TarInfo(str(target)), b"x")

    unpack(tar, place)

    assert not target.exists()


@pytest.mark.parametrize("kept", [100, 512, 700, 1024, 2048, 4096])
def test_unpack_when_a_tar_is_cut_short_refuses_it_and_leaves_nothing(
    images, place, tmp_path, kept
):
    tar = packed(images, tmp_path / "a.tar")
    tar.write_bytes(tar.read_bytes()[:kept])

    with pytest.raises(InputError, match=r"cannot be unpacked|is cut short"):
        unpack(tar, place)

    assert list(place.iterdir()) == []


def test_unpack_when_a_compressed_tar_is_cut_short_refuses_it(images, place, tmp_path):
    tar = packed(images, tmp_path / "a.tar.gz", "w:gz")
    tar.write_bytes(tar.read_bytes()[:-200])

    with pytest.raises(InputError, match="cannot be unpacked"):
        unpack(tar, place)

    assert list(place.iterdir()) == []


def test_unpack_when_it_would_not_fit_on_the_disk_refuses_it(images, place, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")  # noqa: PYI024  # what shutil returns
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 9, 1))

    with pytest.raises(InputError, match="1 are free"):
        unpack(packed(images, tmp_path / "a.tar"), place)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [("a.tar", b"not a tar", "cannot be unpacked"), ("none.tar", None, "there is no archive")],
)
def test_unpack_when_it_is_no_tar_says_so(place, tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)

    with pytest.raises(InputError, match=words):
        unpack(tmp_path / name, place)


def test_unpack_when_there_is_no_metadata_or_more_than_one_says_what_is_expected(images, place):
    shutil.copytree(images, images.parent / "again")
    with pytest.raises(InputError, match=r"has 2 folders.*expected is one folder"):
        unpack(images.parent, place)

    (images / "metadata.csv").unlink()
    with pytest.raises(InputError, match=r"has 0 folders.*expected is one folder"):
        unpack(images, place)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("ham10000.tar", "ham10000"),
        ("HAM10000.tar.gz", "ham10000"),
        ("isic2017-large.tgz", "isic2017-large"),
        ("My images (1).tar", "my-images-1-"),
        ("v1.2.tar.xz", "v1.2"),
        ("_x.tar", "x"),
    ],
)
def test_dataset_name_is_the_archives_as_far_as_keys_allow(tmp_path, file, name):
    assert dataset_name(tmp_path / file) == name


def test_dataset_name_when_nothing_of_it_can_be_used_is_refused(tmp_path):
    with pytest.raises(InputError, match="not a usable name"):
        dataset_name(tmp_path / "---.tar")
