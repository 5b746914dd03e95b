import json

from dermascan.layout import ModelKeys
from dermascan.overview.models import VERSIONS_ON_A_PAGE, ModelReader
from dermascan.registry import Decision, promote
from dermascan.versions import claim_version, publish_version

EVALUATION = {
    "images": 90,
    "dataset": "isic",
    "threshold": 0.25,
    "balanced_accuracy": {"value": 0.7, "low": 0.6, "high": 0.8},
    "malignant": {
        "roc_auc": {"value": 0.9, "low": 0.85, "high": 0.95},
        "sensitivity": {"value": None, "low": None, "high": None},
        "specificity": {"value": 0.88, "low": 0.8, "high": 0.9},
        "something new": 1,
    },
}
GATE = {
    "results": [
        {"name": "AUC", "outcome": "passed"},
        {"name": "size", "outcome": "failed"},
        {"name": "speed", "outcome": "shown only"},
    ]
}


def publish(store, folder, version, model="dermascan", **files):
    folder = folder / f"{model}-{version}"
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(b"graph")
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    publish_version(store, model, version, folder)


def test_a_bucket_without_models_has_nothing_to_show(store):
    found = ModelReader(store).read()

    assert (found.model, found.models, found.champion) == ("dermascan", (), None)
    assert found.versions.items == ()


def test_champion_comes_with_figures_gate_and_since_when(store, tmp_path):
    publish(store, tmp_path, 7, evaluation=EVALUATION, gate=GATE)
    promote(store, "dermascan", 7, Decision("ann", "better"))

    found = ModelReader(store).read()

    assert (found.champion.version, found.champion.by) == (7, "ann")
    figures = {figure.name: (figure.value, figure.low) for figure in found.facts.figures}
    assert figures["ROC AUC, malignant against benign"] == (0.9, 0.85)
    assert figures["Sensitivity"] == (None, None)
    assert (found.facts.gate.rules, found.facts.gate.failed) == (2, ("size",))
    assert (found.facts.images, found.facts.threshold) == (90, 0.25)


def test_only_a_former_champion_can_be_rolled_back_to(store, tmp_path):
    for version in (1, 2, 3):
        publish(store, tmp_path, version)
    for version in (1, 3):
        promote(store, "dermascan", version, Decision("ann", "better"))

    rows = ModelReader(store).read().versions.items

    assert [(row.version, row.is_champion, row.was_champion) for row in rows] == [
        (3, True, False),
        (2, False, False),
        (1, False, True),
    ]


def test_a_version_that_is_being_published_is_shown_as_such_until_it_is(store, tmp_path):
    reader = ModelReader(store)
    version = claim_version(store, "dermascan", "training1")
    assert reader.read().versions.items[0].facts is None

    publish(store, tmp_path, version, evaluation=EVALUATION)

    facts = reader.read().versions.items[0].facts
    assert (facts.images, facts.training, facts.gate) == (90, "training1", None)


def test_versions_are_shown_page_by_page_the_latest_first(store, tmp_path):
    count = VERSIONS_ON_A_PAGE + 2
    for version in range(1, count + 1):
        publish(store, tmp_path, version)
    reader = ModelReader(store)

    first, last, beyond = (reader.read("", page).versions for page in (1, 2, 99))

    assert [row.version for row in first.items] == list(range(count, 2, -1))
    assert [row.version for row in last.items] == [2, 1]
    assert (beyond.number, beyond.count) == (2, 2)


def test_the_default_model_comes_first_and_another_where_there_is_no_such(store, tmp_path):
    publish(store, tmp_path, 1, model="aaa")
    assert ModelReader(store).read().model == "aaa"
    publish(store, tmp_path, 1, model="dermascan")

    found = ModelReader(store).read()

    assert (found.model, found.models) == ("dermascan", ("aaa", "dermascan"))
    assert ModelReader(store).read("aaa").versions.items[0].version == 1


def test_looking_again_reads_pointer_and_listings_and_no_version(store, tmp_path):
    for version in (1, 2):
        publish(store, tmp_path, version, evaluation=EVALUATION)
        promote(store, "dermascan", version, Decision("ann", "better"))
    reader = ModelReader(store)
    before = reader.read()
    keys = ModelKeys("dermascan")
    gone = [found.key for version in (1, 2) for found in store.list(keys.version(version))]
    store.delete([key for key in gone if not key.endswith("MANIFEST.json")])

    assert reader.read() == before


def test_a_folder_that_is_left_of_a_deleted_version_is_no_version(store, tmp_path):
    publish(store, tmp_path, 1)
    store.delete([found.key for found in store.list("models/")])
    store.put("models/dermascan/2/stray", b"x")

    assert ModelReader(store).read().versions.items == ()
