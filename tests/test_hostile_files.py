"""The corpus of hostile files through the one decoder, beside an independent one.

`docs/reliability/hostile-images.md` says what the corpus is and what was measured on it.
"""

import hashlib
import json
import os
import subprocess
import sys
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from archives import isic_id, row, write_folder
from hostile.corpus import corpus
from hostile.damage import damage
from hostile.examine import Examined
from hostile.journey import Arrival, Journey, digest
from hostile.looks import looks
from hostile.samples import encoded, photograph
from hostile.specimen import SCORED, Specimen

from dermascan.fingerprint import sha256_hex
from dermascan.storage import Store

TESTS = Path(__file__).parent
ALL_FILES_SECONDS = 400  # for a machine that does much else
CPU_SECONDS = 5.0  # for one file
# Above what the process held before: of a few thousand pixels, and of 100 million.
MEMORY_MB, LARGEST_MEMORY_MB = 64, 1_000
PROGRAM_MEMORY_MB = 700  # what the libraries of ingest and inference hold
PREFIX = "new/"
# Of one good image, which must be scored whatever it is called.
NAMES = (
    "-rf.jpg",
    "..%2f..%2fetc%2fpasswd",
    "C:aux.jpg",
    "link -> etc-passwd",
    "photo\u202egpj.exe",
    "$(id).jpg",
    "`id`;id|id&.jpg",
    "=cmd|' /C calc'!A0.jpg",
    "{{7*7}}.jpg",
    "image.html",
    "image",
    ".htaccess",
    "ISIC_0000001.jpg.gif",
)
GOOD = encoded(photograph(), "JPEG")
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


def run_program(module: str, arguments: list[str], text: str, folder: Path) -> CompletedProcess:
    """Run a module of the tests in an empty folder, which is also where it may put what passes."""
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        input=text,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": paths, "TMPDIR": str(folder)},
        cwd=folder,
        text=True,
        timeout=ALL_FILES_SECONDS,
        check=False,
    )


def examine(kind: str, files: Path, folder: Path, names: list[str]) -> Decoder:
    (folder / "arrays").mkdir()
    (folder / "work").mkdir()
    arguments = [kind, str(files), str(folder / "arrays")]
    ended = run_program("hostile.examine", arguments, "\n".join(names), folder / "work")
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    begun = [line["begun"] for line in lines if "begun" in line]
    examined = {line["name"]: Examined(**line) for line in lines if "name" in line}
    return Decoder(ended.returncode, begun, examined, folder / "arrays")


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
    return examine("ours", files, tmp_path_factory.mktemp("ours"), list(SPECIMENS))


@pytest.fixture(scope="module")
def theirs(files, ours, tmp_path_factory) -> Decoder:
    scored = [name for name, found in ours.examined.items() if found.outcome == SCORED]
    names = sorted({reference(SPECIMENS[name]) for name in scored})
    return examine("theirs", files, tmp_path_factory.mktemp("theirs"), names)


@pytest.fixture(scope="module")
def mirror(files, tmp_path_factory) -> Decoder:
    return examine("mirror", files, tmp_path_factory.mktemp("mirror"), list(SPECIMENS))


@pytest.fixture(scope="module")
def arrival(storage_settings, tmp_path_factory) -> Arrival:
    bucket = f"hostile-{uuid.uuid4().hex[:12]}"
    store = Store(storage_settings, bucket)
    store.ensure_bucket()
    for specimen in corpus():
        store.put(f"{PREFIX}{specimen.name}.jpg", specimen.data)
    for name in NAMES:
        store._s3.put_object(Bucket=bucket, Key=f"{PREFIX}{name}", Body=GOOD)
    rows = [row(number) for number in range(len(SPECIMENS))]
    images = {f"{isic_id(n)}.jpg": specimen.data for n, specimen in enumerate(corpus())}
    archive = write_folder(tmp_path_factory.mktemp("archive"), rows, images)
    work = tmp_path_factory.mktemp("work")
    journey = Journey(
        storage_settings.model_dump(exclude={"secret_access_key"}) | {"bucket": bucket},
        storage_settings.secret_access_key.get_secret_value(),
        str(archive),
        PREFIX,
    )
    ended = run_program("hostile.journey", [], json.dumps(asdict(journey)), work)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert list(work.iterdir()) == []
    return Arrival(**json.loads(ended.stdout))


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


def test_ingest_keeps_aside_what_the_decoder_refuses_and_why(ours, arrival):
    for number, name in enumerate(SPECIMENS):
        found, reason = ours.examined[name], arrival.refused.get(isic_id(number))
        if found.outcome == SCORED:
            assert reason is None, name
        else:
            assert reason == f"image refused ({found.outcome}): {found.detail}", name


def test_batch_inference_rejects_what_the_decoder_refuses_and_says_why(ours, arrival):
    for name, found in ours.examined.items():
        reason = arrival.rejected.get(f"{PREFIX}{name}.jpg")
        expected = None if found.outcome == SCORED else f"{found.outcome}: {found.detail}"
        assert reason == expected, name
    assert len(arrival.scored) + len(arrival.rejected) == len(SPECIMENS) + len(NAMES)


def test_training_and_inference_see_the_very_array_that_was_compared(ours, arrival):
    for name, found in ours.examined.items():
        if found.outcome == SCORED:
            prepared = digest(np.load(ours.folder / f"{name}.npy"))
            assert arrival.scored[f"{PREFIX}{name}.jpg"] == prepared, name
            assert arrival.recorded[sha256_hex(SPECIMENS[name].data)] == prepared, name


def test_batch_inference_scores_an_image_whatever_it_is_called(arrival):
    assert len({arrival.scored[f"{PREFIX}{name}"] for name in NAMES}) == 1


def test_the_whole_way_takes_no_more_memory_than_it_may(arrival):
    at_once = os.cpu_count() or 1
    assert arrival.peak_mb <= PROGRAM_MEMORY_MB + at_once * LARGEST_MEMORY_MB


def test_thumbnails_of_an_archive_survive_every_file(mirror):
    assert mirror.code == 0, f"the thumbnail of {mirror.begun[-1]} ended the process"
    assert list(mirror.examined) == list(SPECIMENS)
    assert max(found.cpu_seconds for found in mirror.examined.values()) <= CPU_SECONDS
    assert max(found.grown_mb for found in mirror.examined.values()) <= LARGEST_MEMORY_MB
