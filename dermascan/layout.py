"""Every key in the bucket, each built in one place."""

import re
from datetime import datetime

from dermascan.errors import InputError
from dermascan.fingerprint import sha256_hex

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_IMAGE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
READY = "_READY"


def checked_name(kind: str, name: str) -> str:
    """Return `name` if it may stand in a key.

    Raises:
        InputError: it is not 1 to 63 of `a-z 0-9 . _ -`, beginning with a letter or digit.
    """
    if not _NAME.fullmatch(name):
        message = f"{kind} {name!r} is not a usable name: use 1 to 63 of a-z, 0-9, '.', '_', '-'"
        raise InputError(message)
    return name


def is_image_id(text: str) -> bool:
    """Tell whether `text` may stand in a key as an image identifier, as `ISIC_0123456` may."""
    return _IMAGE_ID.fullmatch(text) is not None


class DatasetKeys:
    """Keys of one dataset."""

    def __init__(self, dataset: str) -> None:
        self.dataset = checked_name("dataset", dataset)
        self.raw = f"raw/{self.dataset}/"
        self.images = f"{self.raw}images/"
        self.pointer = f"{self.raw}current.json"
        self.quarantine = f"quarantine/{self.dataset}/"
        self.staging = f"staging/{self.dataset}/"

    def image(self, isic_id: str, extension: str) -> str:
        """Return the key of an original image; `extension` without its dot."""
        return f"{self.images}{isic_id}.{extension}"

    def image_revision(self, isic_id: str, sha256: str, extension: str) -> str:
        """Return the key of an image whose plain key already holds other bytes."""
        return f"{self.images}{isic_id}.{sha256[:16]}.{extension}"

    def manifest(self, fingerprint: str) -> str:
        """Return the key of a manifest."""
        return f"{self.raw}manifests/{fingerprint}.parquet"

    def attribution(self, fingerprint: str) -> str:
        """Return the key of the attribution file that goes with a manifest."""
        return f"{self.raw}manifests/{fingerprint}.ATTRIBUTION.txt"

    def left_out(self, fingerprint: str) -> str:
        """Return the key of a list of refused and failed images, named by its content."""
        return f"{self.raw}manifests/left-out-{fingerprint}.jsonl"

    def published(self, plan: str) -> str:
        """Return the key of the note that an ingest was published, outside of its `plan`."""
        return f"{self.staging}published/{plan}.json"

    def class_counts(self, fingerprint: str) -> str:
        """Return the key of the number of images of each class in a manifest."""
        return f"{self.raw}manifests/{fingerprint}.classes.json"

    def license(self, name: str) -> str:
        """Return the key of a licence's text, whatever characters the name has."""
        return f"{self.raw}licenses/{re.sub(r'[^A-Za-z0-9.-]', '_', name)}.txt"

    def refused(self, sha256: str) -> str:
        """Return the key of refused bytes."""
        return f"{self.quarantine}{sha256}"

    def refusal(self, sha256: str, isic_id: str) -> str:
        """Return the key of the reason why an image with these bytes was refused."""
        return f"{self.refused(sha256)}.{isic_id}.json"

    def plan(self, plan: str) -> str:
        """Return the prefix under which one ingest hands work from task to task."""
        return f"{self.staging}{plan}/"

    def validation(self, fingerprint: str) -> str:
        """Return the prefix of a manifest's validation result and data docs."""
        return f"reports/validation/{self.dataset}/{fingerprint}/"

    @property
    def split_ledger(self) -> str:
        """Return the key of the pointer to the latest dealing of images to splits."""
        return f"processed/{self.dataset}/splits.json"

    def dealing(self, fingerprint: str) -> str:
        """Return the key of one dealing of images to splits."""
        return f"processed/{self.dataset}/splits/{fingerprint}.json"

    def processed(self, fingerprint: str) -> str:
        """Return the prefix of preprocessed examples."""
        return f"processed/{self.dataset}/{fingerprint}/"


def part(prefix: str, index: int, suffix: str) -> str:
    """Return the key of a numbered part, such as `…/part-00007.tfrecord.gz`."""
    return f"{prefix}part-{index:05d}{suffix}"


class TrainingKeys:
    """Keys of one training run, named by all that goes into it."""

    def __init__(self, fingerprint: str) -> None:
        self.prefix = f"training/{fingerprint}/"
        self.order = f"{self.prefix}order.json"
        self.model = f"{self.prefix}model/"
        self.history = f"{self.prefix}history.json"
        self.done = f"{self.prefix}DONE.json"
        self.validation_scores = f"{self.prefix}validation.parquet"
        self.scores = f"{self.prefix}evaluation/scores.parquet"
        self.gallery = f"{self.prefix}evaluation/gallery.parquet"
        self.reference = f"{self.prefix}evaluation/reference.npz"
        self.examples = f"{self.prefix}evaluation/examples.json"
        self.evaluation = f"{self.prefix}evaluation/evaluation.json"

    def candidacy(self, model: str) -> "CandidacyKeys":
        """Return the keys of the run as a candidate for one model's championship."""
        return CandidacyKeys(f"{self.prefix}candidate/{checked_name('model', model)}/")


class CandidacyKeys:
    """Keys of what became of one training run as a candidate for one named model."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.gate = f"{prefix}gate.json"
        self.report = f"{prefix}report.html"
        self.card_html = f"{prefix}card.html"
        self.card_markdown = f"{prefix}card.md"
        self.version = f"{prefix}version.json"
        self.promotion = f"{prefix}promotion.json"

    @property
    def documents(self) -> tuple[str, ...]:
        """Return the keys of what people read, published with the version."""
        return (self.report, self.card_html, self.card_markdown)

    def comparison(self, champion: int) -> str:
        """Return the key of the comparison with one version of the model."""
        return f"{self._prefix}comparison-{champion}.json"


class ModelKeys:
    """Keys of one named model."""

    def __init__(self, name: str) -> None:
        self.name = checked_name("model", name)
        self.root = f"models/{self.name}/"
        self.champion = f"{self.root}champion.json"
        self.history = f"{self.root}history/"

    def version(self, version: int) -> str:
        """Return the prefix of a version."""
        return f"{self.root}{version}/"

    def manifest(self, version: int) -> str:
        """Return the key of the SHA-256 list that makes a version complete."""
        return f"{self.version(version)}MANIFEST.json"

    def history_entry(self, number: int) -> str:
        """Return the key of the `number`-th move of the champion pointer (from 1)."""
        return f"{self.history}{number:06d}.json"


RAW, MODELS = "raw/", "models/"
# No run has a name that begins so: see `checked_name`.
LATEST_PREDICTIONS = "predictions/_latest/"
_LAST_SECOND = 9_999_999_999  # of ten digits, in the year 2286


def prediction_staging(run: str) -> str:
    """Return the prefix under which one batch-inference run hands work from task to task."""
    return f"staging/predictions/{checked_name('run', run)}/"


def predictions(run: str) -> str:
    """Return the prefix of one batch-inference run."""
    return f"predictions/{checked_name('run', run)}/"


class IncomingKeys:
    """Keys of the folders that arrive to be scored, and of what is known of them.

    What is known lies outside of `incoming/`: it is of a folder's state, not in the folder.
    """

    root = "incoming/"
    pending = "incoming-watch/pending/"
    started = "incoming-watch/started/"

    @classmethod
    def claim(cls, state: str) -> str:
        """Return the key that asks for a run over a folder in a state, until it is started."""
        return f"{cls.pending}{state}.json"

    @classmethod
    def start(cls, state: str) -> str:
        """Return the key that tells which run was started over a folder in a state."""
        return f"{cls.started}{state}.json"

    @staticmethod
    def ready(folder: str) -> str:
        """Return the key of the marker by which people say that a folder is complete."""
        return f"{folder}{READY}"


def is_ready_marker(key: str) -> bool:
    """Tell whether an object only says that the folder around it is complete."""
    return key.rsplit("/", 1)[-1] == READY


def image_anchor(image_key: str) -> str:
    """Return the name by which an image is found in the report of any run: `report.html#…`."""
    return f"image-{sha256_hex(image_key.encode())[:16]}"


def prediction_time(run: str) -> str:
    """Return the key of the time at which the results of a run were first complete."""
    return f"predictions/_finished/{checked_name('run', run)}.json"


def latest_prediction(finished: datetime, run: str) -> str:
    """Return the key under which a run is listed, before all that finished before it.

    Listings go up, so the seconds that are left until a far day stand first.
    """
    left = _LAST_SECOND - int(finished.timestamp())
    return f"{LATEST_PREDICTIONS}{left:010d}-{checked_name('run', run)}.json"
