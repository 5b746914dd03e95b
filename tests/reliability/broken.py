"""Deliberate faults, each of which a sweep must find; applied to a child process only."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from dermascan import dataset, experiment, registry, versions
from dermascan.dataset import DatasetPointer
from dermascan.fingerprint import canonical_json
from dermascan.inference import batch as inference
from dermascan.ingest import publishing
from dermascan.layout import DatasetKeys, ModelKeys
from dermascan.registry import Decision
from dermascan.storage import Store


def apply(name: str) -> None:
    {
        "manifest before files": _manifest_before_files,
        "champion before upload": _champion_before_upload,
        "dataset pointer before manifest": _pointer_before_manifest,
        "success before results": _success_before_results,
    }[name]()


def _manifest_before_files() -> None:
    def publish(store: Store, model: str, version: int, folder: Path) -> None:
        keys = ModelKeys(model)
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        files = [versions._described_file(folder, path) for path in paths]
        manifest = {"model": model, "version": version, "files": [asdict(file) for file in files]}
        store.put(keys.manifest(version), canonical_json(manifest), "application/json")
        for file in files:
            store.put(keys.version(version) + file.path, (folder / file.path).read_bytes())

    experiment.publish_version = publish


def _champion_before_upload() -> None:
    publish = experiment._publish

    def moved_first(store: Store, training: str, model: str, version: int, load: Any) -> None:
        key = ModelKeys(model).champion
        current = registry.champion(store, model)
        decision = Decision("sweep", "too early", f"training/{training}")
        successor = registry._successor(current, model, version, decision)
        store.put_json(key, successor.as_plain())
        publish(store, training, model, version, load)

    experiment._publish = moved_first


def _pointer_before_manifest() -> None:
    def publish(store: Store, pointer: DatasetPointer, manifest: Path) -> bool:
        store.put_json(DatasetKeys(pointer.dataset).pointer, pointer.as_plain())
        return store.put_named_file(pointer.manifest_key, manifest)

    dataset.publish_file = publishing.publish_file = publish


def _success_before_results() -> None:
    report = inference._report

    def marked_first(store: Store, plan: inference.BatchPlan, merged: Any, drift: Any) -> str:
        store.put_json(plan.success_key, asdict(inference._summary(plan, merged.digest)))
        return report(store, plan, merged, drift)

    inference._report = marked_first
