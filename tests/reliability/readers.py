"""What anybody who reads the bucket may rely on at any instant, whatever was killed."""

import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from dermascan.dataset import DatasetPointer, manifest_fingerprint, read_manifest, read_refusals
from dermascan.errors import DermaScanError
from dermascan.example_set import ExampleSet, read_split
from dermascan.registry import champion, fetch_version, history, list_versions
from dermascan.storage import Store, concurrently


def broken_promises(store: Store) -> list[str]:
    """Say what a reader would find missing or mixed up, nothing if all is well."""
    keys = {found.key for found in store.list("")}
    checks = (_datasets, _validations, _examples, _checkpoints, _trainings, _models, _predictions)
    return [line for check in checks for line in _said(check(store, keys))]


def _said(lines: Iterator[str]) -> list[str]:
    said = []
    try:
        said.extend(lines)
    except (DermaScanError, KeyError, ValueError) as error:
        said.append(f"{type(error).__name__}: {error}")
    return said


def _named(keys: set[str], start: str, end: str) -> list[str]:
    return sorted(key for key in keys if key.startswith(start) and key.endswith(end))


def _datasets(store: Store, keys: set[str]) -> Iterator[str]:
    """A pointer leads to a manifest with its name, and that to objects with their SHA-256."""
    for key in _named(keys, "raw/", "/current.json"):
        pointer = DatasetPointer(**store.get_json(key))  # type: ignore[arg-type]  # as published
        manifest = read_manifest(store, pointer)
        if manifest_fingerprint(manifest) != pointer.fingerprint:
            yield f"{pointer.manifest_key} is not what its name says"
        promised = list(zip(manifest["key"], manifest["sha256"], strict=True))
        promised += [
            (f"quarantine/{pointer.dataset}/{refusal.sha256}", refusal.sha256)
            for refusal in read_refusals(store, pointer)
        ]
        for _ in concurrently(lambda pair: store.get_verified(*pair), promised):
            pass


def _validations(store: Store, keys: set[str]) -> Iterator[str]:
    """A verdict has its pages."""
    for key in _named(keys, "reports/validation/", "/result.json"):
        pages = store.get_json(key)["data_docs"]
        folder = str(pages).removesuffix("index.html")
        suites = {str(e["suite"]) for e in json.loads(store.get(key))["expectations"]}
        wanted = {f"{folder}{kind}/{s}.html" for kind in _PAGES for s in suites} | {str(pages)}
        yield from (f"{page} is missing" for page in sorted(wanted - keys))


_PAGES = ("validations", "expectations")


def _examples(store: Store, keys: set[str]) -> Iterator[str]:
    """The ledger names a dealing, an example set has its split, and its records are whole."""
    for key in _named(keys, "processed/", "/splits.json"):
        store.get_json(str(store.get_json(key)["key"]))
    for key in _named(keys, "processed/", "/examples.json"):
        _, dataset, name, _ = key.split("/")
        examples = ExampleSet.read(store, dataset, name)
        for split, counts in examples.counts.items():
            if len(read_split(store, examples, split)) != sum(counts.values()):
                yield f"the split {split} of {key} has another number of images"


def _checkpoints(store: Store, keys: set[str]) -> Iterator[str]:
    """The pointer to the latest epoch leads to a checkpoint that can be read."""
    for key in _named(keys, "training/", "/latest.json"):
        epoch = int(str(store.get_json(key)["epoch"]))
        body = store.get(key.replace("latest.json", f"epoch-{epoch:04d}.npz"))
        with np.load(io.BytesIO(body)) as arrays:
            if not all(np.isfinite(arrays[name]).all() for name in arrays.files):
                yield f"{key}: the checkpoint holds what is no number"


def _trainings(store: Store, keys: set[str]) -> Iterator[str]:
    """Each marker of something complete comes after all that it completes."""
    model = ("saved_model.pb", "metadata.json", "variables/variables.index")
    evaluation = ("scores.parquet", "gallery.parquet", "examples.json")
    wanted = {
        "DONE.json": ("history.json", "validation.parquet", *(f"model/{name}" for name in model)),
        "evaluation/evaluation.json": tuple(f"evaluation/{name}" for name in evaluation),
    }
    documents = ("report.html", "card.html", "card.md")
    for marker, names in wanted.items():
        for key in _named(keys, "training/", f"/{marker}"):
            prefix = key.removesuffix(marker)
            yield from (f"{key} without {n}" for n in names if prefix + n not in keys)
    for key in _named(keys, "training/", "/gate.json"):
        prefix = key.removesuffix("gate.json")
        yield from (f"{key} without {n}" for n in documents if prefix + n not in keys)


def _models(store: Store, keys: set[str]) -> Iterator[str]:
    """Every listed version is whole, the champion is one of them, the history has no gap."""
    for model in sorted({key.split("/")[1] for key in keys if key.startswith("models/")}):
        versions = list_versions(store, model)
        for version in versions:
            with tempfile.TemporaryDirectory() as folder:
                fetch_version(store, model, version, Path(folder))
        current = champion(store, model)
        moves = [entry.move for entry in history(store, model)]
        if moves != list(range(1, len(moves) + 1)):
            yield f"the history of {model} has the moves {moves}"
        if current is None and moves:
            yield f"{model} has a history and no champion"
        if current and current.version not in versions:
            yield f"champion {model} {current.version} is not among the versions {versions}"
        if current and current.move - len(moves) not in {0, 1}:
            yield f"champion {model} is move {current.move}, the history ends at {len(moves)}"


def _predictions(store: Store, keys: set[str]) -> Iterator[str]:
    """What is marked as a success has all of its files, and they agree."""
    for key in _named(keys, "predictions/", "/_SUCCESS"):
        summary: dict[str, Any] = json.loads(store.get(key))
        prefix = key.removesuffix("_SUCCESS")
        table = pq.read_table(io.BytesIO(store.get(f"{prefix}predictions.parquet"))).to_pandas()
        lines = pd.read_csv(io.BytesIO(store.get(f"{prefix}predictions.csv")))
        if not len(table) == len(lines) == summary["scored"] + summary["rejected"]:
            yield f"{prefix}: {len(table)} rows, {len(lines)} lines, summary {summary}"
        if f"{prefix}report.html" not in keys:
            yield f"{prefix} has no report"
