"""The documentation as a site: it builds, it asks nobody for anything, and it is true."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import typer.main
import yaml
from lxml import html
from pages import full_evaluation, image_table
from PIL import Image

from dermascan.cli import app
from dermascan.evaluation.lookup import figure
from dermascan.gate import load_rules
from dermascan.isic.catalogue import read_catalogue
from dermascan.taxonomy import Taxonomy

PROJECT = Path(__file__).parents[2]
DOCS = PROJECT / "docs"
BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = sorted(
    {*DOCS.rglob("*.md"), PROJECT / "README.md", PROJECT / "CONTRIBUTING.md"}
    - set((DOCS / "reliability").iterdir())
)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def blocks(path: Path, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(path.read_text()) if kind == language]


def text_of(site: Path, page: str) -> str:
    return str(html.parse(site / page).getroot().text_content())


def test_site_loads_nothing_from_elsewhere(site: Path):
    loading = "//link/@href | //script/@src | //img/@src | //iframe/@src | //source/@src"
    for page in site.rglob("*.html"):
        tree = html.parse(page)
        found = [str(each) for each in tree.xpath(loading)]
        canonical = [str(each) for each in tree.xpath("//link[@rel='canonical']/@href")]
        assert not [each for each in set(found) - set(canonical) if "//" in each], page
    for sheet in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", sheet.read_text())


def test_every_page_says_what_it_is_not(site: Path):
    for page in site.rglob("*.html"):
        assert "Not a medical device" in text_of(site, str(page.relative_to(site))), page


def test_french_page_is_marked_as_french(site: Path):
    assert html.parse(site / "fr" / "index.html").getroot().get("lang") == "fr"
    assert html.parse(site / "index.html").getroot().get("lang") == "en"


def test_command_line_page_names_every_command_and_option(site: Path):
    page = text_of(site, "reference/cli.html")
    for name, command in commands():
        assert name in page
        for param in command.params:
            assert param.opts[-1].lstrip("-") in page.lower().replace("_", "-") or (
                param.name in page.lower()
            )


@pytest.fixture(scope="module")
def declared(tmp_path_factory) -> dict[str, dict]:
    """Return the params of each DAG as Airflow knows them."""
    home = str(tmp_path_factory.mktemp("airflow-home"))
    path = os.pathsep.join((str(PROJECT / "dags"), os.environ.get("PYTHONPATH", "")))
    settings = {"AIRFLOW_HOME": home, "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "PYTHONPATH": path}
    environment = {**os.environ, **settings}
    program = str(PROJECT / "tests" / "dags" / "parse.py")
    command = [sys.executable, program, str(PROJECT / "dags")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    dags = json.loads(done.stdout.splitlines()[-1])["dags"]
    return {name: dag["params"] for name, dag in dags.items()}


def test_dags_page_says_what_airflow_says(site: Path, declared):
    page = html.parse(site / "reference" / "dags.html")
    rows = {
        (cells[0].text_content(), cells[1].text_content())
        for row in page.xpath("//tr")
        if len(cells := row.xpath("./td")) == 4
    }
    assert len(declared) >= 4
    for params in declared.values():
        for name, param in params.items():
            shown = {default for key, default in rows if key == name}
            assert as_shown(param["default"]) in shown, (name, shown)


def as_shown(default: object) -> str:
    if default in (None, ""):
        return "empty"
    return str(default).lower() if isinstance(default, bool) else str(default)


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("settings", ["DERMASCAN_S3_RETRY_SECONDS", "storage.patience.retry_seconds", "AWS_"]),
        ("objects", ["models/<name>/champion.json", "predictions/<run>/", "candidate/<model>/"]),
        ("expectations", ["every image was decoded", "critical"]),
        ("gate", ["separates malignant from benign", "0.85"]),
        ("diagnoses", ["Melanoma", "malignant"]),
        ("tables", ["p_malignant", "perceptual_hash"]),
    ],
)
def test_reference_pages_have_what_the_code_has(site: Path, page: str, words: list[str]):
    text = text_of(site, f"reference/{page}.html")
    assert [word for word in words if word not in text] == []


def commands() -> Iterator[tuple[str, typer.main.Typer]]:
    def walk(group, path):
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from walk(command, f"{path} {name}")
            else:
                yield f"{path} {name}", command

    return walk(typer.main.get_command(app), "dermascan")


def shell_lines() -> Iterator[tuple[Path, list[str]]]:
    """Yield the words of each command in the pages, without what is fed to a program."""
    for path in PAGES:
        for block in blocks(path, "sh"):
            fed = re.sub(r" <<'(\w+)'\n.*?\n\1$", "", block, flags=re.MULTILINE | re.DOTALL)
            waiting = ""
            for line in re.sub(r"(?m)\s#.*$", "", fed.replace("\\\n", " ")).splitlines():
                waiting += line.replace("…", "x") + "\n"
                if waiting.count("'") % 2 == 0 and waiting.count('"') % 2 == 0:
                    yield path, shlex.split(waiting)
                    waiting = ""
            assert not waiting, path


def test_every_dermascan_command_in_the_documentation_exists():
    known = dict(commands())
    used = 0
    for path, words in shell_lines():
        for start in (i for i, word in enumerate(words) if word.endswith("/dermascan")):
            stop = next((i for i, w in enumerate(words) if i > start and w in {">", "&"}), None)
            given = words[start + 1 : stop]
            name = next(
                n for n in (" ".join(["dermascan", *given[:k]]) for k in (2, 1)) if n in known
            )
            arguments = given[len(name.split()) - 1 :]
            known[name].make_context(
                name, [w for w in arguments if w != "--help"], resilient_parsing=True
            )
            options = {word for word in arguments if word.startswith("-")} - {"--help"}
            offered = {opt for param in known[name].params for opt in param.opts}
            assert options <= offered, (path, options - offered)
            used += 1
    assert used > 20


def test_every_make_target_in_the_documentation_exists():
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    named = {
        words[words.index("make") + 1]
        for _, words in shell_lines()
        if "make" in words[:-1] and not words[words.index("make") + 1].startswith(("#", "PYTHON"))
    }
    assert named
    assert named <= targets


def test_params_that_the_documentation_triggers_dags_with_exist(declared):
    for path, words in shell_lines():
        if "trigger" in words:
            dag = words[words.index("trigger") + 1]
            named = [after for word, after in pairwise(words) if word == "--param"]
            assert {each.partition("=")[0] for each in named} <= set(declared[dag]), path


def test_own_labels_when_done_as_the_page_says_give_an_archive_with_classes(tmp_path: Path):
    page = DOCS / "how-to" / "own-labels.md"
    (labels,) = blocks(page, "csv")
    (program,) = blocks(page, "python")
    (tmp_path / "labels.csv").write_text(labels)
    (tmp_path / "photos").mkdir()
    for name in ("a.jpg", "b.jpg", "c.png"):
        Image.new("RGB", (80, 60), (200, 150, 130)).save(tmp_path / "photos" / name)
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)

    catalogue = read_catalogue(tmp_path / "clinic")

    columns = catalogue.columns
    assert catalogue.ids == ["CLINIC_0000000", "CLINIC_0000001", "CLINIC_0000002"]
    levels = [
        [str(columns[f"diagnosis_{n}"].value(row) or "") for n in (1, 2, 3)] for row in range(3)
    ]
    assert [Taxonomy().lesion_class(each) for each in levels] == ["mel", "nv", "bkl"]
    assert columns["patient_id"].value(0) == columns["patient_id"].value(1)
    assert columns["lesion_id"].value(0) != columns["lesion_id"].value(1)


def test_gate_rule_of_the_documentation_can_be_added(tmp_path: Path):
    (rule,) = yaml.safe_load(blocks(DOCS / "how-to" / "gate-rule.md", "yaml")[0])
    rules = yaml.safe_load((PROJECT / "include" / "gate.yaml").read_text())
    rules["rules"].append(rule)
    (tmp_path / "gate.yaml").write_text(yaml.safe_dump(rules))

    added = load_rules(tmp_path / "gate.yaml").rules[-1]

    assert added.when
    evaluation = full_evaluation(image_table())
    for path in (added.metric, added.when.metric):  # raises if there is no such figure
        figure(evaluation, path)
