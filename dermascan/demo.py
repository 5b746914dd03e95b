"""The whole pipeline on drawn images, through the embedded stack, as a newcomer sees it first."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from dermascan.progress import format_seconds
from dermascan.walkthrough import Session, Walkthrough

if TYPE_CHECKING:
    from dermascan.storage import Store

NAME = "demo"  # of the dataset and of the model
INBOX_BUCKET = "demo-inbox"
INBOX_PREFIX = "first-batch/"


@dataclass(frozen=True)
class DemoPlan:
    """How large the demo is.

    Attributes:
        images: drawn for the archive, to train and test on.
        new_images: drawn with another seed, for the new prefix.
        image_size: HEIGHTxWIDTH for the network.
        epochs: of fine-tuning.
        seed: of the drawing.
    """

    images: int = 600
    new_images: int = 24
    image_size: str = "96x128"
    epochs: int = 3
    seed: int = 1


@dataclass(frozen=True)
class DemoReport:
    """One HTML report of the demo, kept as a local file so that it outlives the stack."""

    title: str
    path: Path


class Demo:
    """Draw an archive, ingest it, train and promote a model, and score a new prefix.

    Args:
        walkthrough: through the stack.
        plan: how large.
    """

    def __init__(self, walkthrough: Walkthrough, plan: DemoPlan | None = None) -> None:
        self._walkthrough, self._tell = walkthrough, walkthrough.audience.tell
        self._plan = plan or DemoPlan()
        self._folder = walkthrough.state / "demo"

    def run(self) -> list[DemoReport]:
        """Do everything and stop what was started.

        Raises:
            RunFailedError: a DAG run failed.
            DermaScanError: the stack or the archive could not be started.
        """
        started = time.monotonic()
        self._draw()
        with self._walkthrough.begin() as session:
            with session.archive(self._folder / "archive", self._folder / "archive.log"):
                session.trigger("ingest_isic", {"dataset": NAME, "start_training": False})
            session.trigger("train_model", self._training_params())
            self._fill_inbox(session.store(INBOX_BUCKET))
            address = f"s3://{INBOX_BUCKET}/{INBOX_PREFIX}"
            session.trigger("batch_inference", {"prefix": address, "model": f"{NAME}/champion"})
            reports = self._keep_reports(session)
        self._tell(f"the demo took {format_seconds(time.monotonic() - started)}")
        return reports

    def _draw(self) -> None:
        from dermascan.isic.synthetic import write_archive  # noqa: PLC0415  # OpenCV, only here

        plan = self._plan
        self._tell(f"drawing {plan.images} images for the archive, {plan.new_images} to score")
        write_archive(self._folder / "archive", plan.images, plan.seed)
        write_archive(self._folder / "new", plan.new_images, plan.seed + 1)

    def _training_params(self) -> dict[str, JsonValue]:
        plan = self._plan
        size: dict[str, JsonValue] = {"image_size": plan.image_size, "epochs": plan.epochs}
        return {"dataset": NAME, "model": NAME, "networks": 1, **size}

    def _fill_inbox(self, inbox: "Store") -> None:
        inbox.ensure_bucket()
        files = sorted((self._folder / "new").glob("*.jpg"))
        for file in files:
            inbox.put_immutable(INBOX_PREFIX + file.name, file.read_bytes(), "image/jpeg")
        inbox.put_immutable(INBOX_PREFIX + "not an image.txt", b"to show that it is rejected\n")
        self._tell(
            f"\nput {len(files)} new images and a text file under s3://{INBOX_BUCKET}/{INBOX_PREFIX}"
        )

    def _keep_reports(self, session: Session) -> list[DemoReport]:
        from dermascan.inference.batch import resolve  # noqa: PLC0415  # pandas, only here
        from dermascan.layout import ModelKeys  # noqa: PLC0415  # likewise
        from dermascan.registry import ModelReference, read_file, require_champion  # noqa: PLC0415  # likewise

        store = session.store()
        version = require_champion(store, NAME).version
        address = f"s3://{INBOX_BUCKET}/{INBOX_PREFIX}"
        predictions = resolve(store, address, ModelReference(NAME, str(version))).output
        evaluation = read_file(store, NAME, version, "report.html")
        place = store.address(ModelKeys(NAME).version(version))
        scored = store.get(f"{predictions}report.html")
        return [
            self._keep("evaluation", f"{place}report.html", evaluation),
            self._keep("predictions", store.address(f"{predictions}report.html"), scored),
        ]

    def _keep(self, title: str, address: str, body: bytes) -> DemoReport:
        path = self._folder / f"{title}.html"
        path.write_bytes(body)
        return DemoReport(f"{title} report (also {address})", path)
