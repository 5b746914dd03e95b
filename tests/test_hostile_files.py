"""The corpus of hostile files through the one decoder, beside an independent one.

`docs/reliability/hostile-images.md` says what the corpus is and what was measured on it.
"""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hostile.corpus import corpus
from hostile.damage import damage
from hostile.examine import Examined
from hostile.looks import looks
from hostile.specimen import SCORED, Specimen

TESTS = Path(__file__).parent
ALL_FILES_SECONDS = 400  # for a machine that does much else
CPU_SECONDS = 5.0  # for one file
# Above what the process held before: of a few thousand pixels, and of 100 million.
MEMORY_MB, LARGEST_MEMORY_MB = 64, 1_000
TOLERANCE = 0.5  # mean difference of prepared pixels, of 255

SPECIMENS = {specimen.name: specimen for specimen in corpus()}
FAMILIES = sorted({specimen.family for specimen in corpus()})

pytestmark = pytest.mark.timeout(2 * ALL_FILES_SECONDS)


@dataclass(frozen=True)
class Decoder:
    """What one decoder made of files: the last line of each, and the folder of prepared arrays."""

    code: int
    begun: list[str]
    examined: dict[str, Examined]
    folder: Path

    def prepared(self, name: str) -> np.ndarray:
        return np.load(self.folder / f"{name}.npy").astype(float)


def reference(specimen: Specimen) -> str:
    """Name the file that an independent decoder is asked about."""
    return f"{specimen.name}.twin" if specimen.twin else specimen.name


def examine(kind: str, files: Path, folder: Path, names: list[str]) -> Decoder:
    folder.mkdir()
    command = [sys.executable, "-m", "hostile.examine", kind, str(files), str(folder)]
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    ended = subprocess.run(
        command,
        input="\n".join(names),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # what libjpeg and libpng remark
        env={**os.environ, "PYTHONPATH": paths},
        text=True,
        timeout=ALL_FILES_SECONDS,
        check=False,
    )
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    begun = [line["begun"] for line in lines if "begun" in line]
    examined = {line["name"]: Examined(**line) for line in lines if "name" in line}
    return Decoder(ended.returncode, begun, examined, folder)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for specimen in corpus():
        (folder / specimen.name).write_bytes(specimen.data)
        if specimen.twin:
            (folder / reference(specimen)).write_bytes(specimen.twin)
    return folder


@pytest.fixture(scope="module")
def ours(files, tmp_path_factory) -> Decoder:
    return examine("ours", files, tmp_path_factory.mktemp("ours") / "arrays", list(SPECIMENS))


@pytest.fixture(scope="module")
def theirs(files, ours, tmp_path_factory) -> Decoder:
    scored = [name for name, found in ours.examined.items() if found.outcome == SCORED]
    names = sorted({reference(SPECIMENS[name]) for name in scored})
    return examine("theirs", files, tmp_path_factory.mktemp("theirs") / "arrays", names)


def test_corpus_has_many_files_no_two_of_them_alike():
    assert len(SPECIMENS) == len(corpus()) >= 300
    assert len({hashlib.sha256(specimen.data).digest() for specimen in corpus()}) == len(corpus())
    assert all(specimen.outcomes for specimen in corpus())


def test_corpus_when_made_again_is_the_same():
    again = [specimen for specimen in (*damage(), *looks()) if specimen.name in SPECIMENS]
    assert again == [SPECIMENS[specimen.name] for specimen in again]
    assert len(again) > 300


def test_no_file_ends_the_process(ours):
    assert ours.code == 0, f"the decoder died of {ours.begun[-1]}"
    assert list(ours.examined) == list(SPECIMENS)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_file_is_scored_or_refused_for_what_is_true_of_it(family, ours):
    for specimen in corpus():
        if specimen.family == family:
            found = ours.examined[specimen.name]
            assert found.outcome in specimen.outcomes, found
            assert (found.outcome == SCORED) == (not found.detail), found


def test_what_is_scored_is_what_an_independent_decoder_sees(ours, theirs):
    for name, found in ours.examined.items():
        if found.outcome != SCORED:
            continue
        other = theirs.examined[reference(SPECIMENS[name])]
        assert other.outcome == SCORED, (name, other.detail)
        if SPECIMENS[name].family != "largest":
            assert (found.width, found.height) == (other.width, other.height), name
        difference = np.abs(ours.prepared(name) - theirs.prepared(other.name))
        assert difference.mean() <= TOLERANCE, name


def test_no_file_takes_longer_than_it_may(ours):
    slowest = max(ours.examined.values(), key=lambda found: found.cpu_seconds)
    assert slowest.cpu_seconds <= CPU_SECONDS, slowest


def test_no_file_takes_more_memory_than_it_may(ours):
    for name, found in ours.examined.items():
        largest = SPECIMENS[name].family == "largest"
        assert found.grown_mb <= (LARGEST_MEMORY_MB if largest else MEMORY_MB), found
