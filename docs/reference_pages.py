"""The reference, written from the code: commands, DAG params, settings, objects, rules, tables."""

import ast
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import typer
import typer.main
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from dermascan import layout, settings
from dermascan.cli import app
from dermascan.dataset import MANIFEST_SCHEMA
from dermascan.gate import load_rules
from dermascan.inference.batch import PREDICTIONS_SCHEMA
from dermascan.taxonomy import CLASS_NAMES, DIAGNOSIS_TO_CLASS, LESION_CLASSES, Taxonomy
from dermascan.validation import load_suites

PROJECT = Path(__file__).resolve().parents[1]
GENERATED = "\n*Generated from the code when these pages were built.*\n"
BUCKET = "any-bucket"
Row = tuple[str, ...]


def pages() -> dict[str, str]:
    """Return the Markdown of every reference page by its path under `docs/`."""
    return {
        "reference/cli.md": command_line(),
        "reference/dags.md": dags(PROJECT / "dags"),
        "reference/settings.md": configuration(),
        "reference/objects.md": objects(),
        "reference/gate.md": gate(PROJECT / "include" / "gate.yaml"),
        "reference/expectations.md": expectations(PROJECT / "include" / "expectations"),
        "reference/diagnoses.md": diagnoses(),
        "reference/tables.md": tables(),
    }


def table(head: Row, rows: Iterable[Row]) -> str:
    """Return a Markdown table; what would end a cell is escaped."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _code(value: object) -> str:
    return f"`{value}`" if value not in {"", None} else ""


# Command line


def command_line() -> str:
    """Describe every command of the command line, with its arguments and options."""
    root = typer.main.get_command(app)
    parts = ["# Command line\n", GENERATED, f"\n{root.help}\n", _options(root)]
    for name, command in _commands(root, "dermascan"):
        usage = f"{name} {' '.join(command.collect_usage_pieces(_context(command, name)))}"
        parts += [f"\n## {name}\n", f"\n```text\n{usage}\n```\n", f"\n{command.help or ''}\n"]
        parts.append(_options(command))
    return "".join(parts)


def _context(command: Any, name: str) -> Any:
    return command.context_class(command, info_name=name)


def _commands(group: Any, path: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def _options(command: Any) -> str:
    rows = [
        (_names(each), _default(each), _code(each.envvar), getattr(each, "help", None) or "")
        for each in command.params
        if not getattr(each, "hidden", False)
    ]
    head = ("argument or option", "default", "environment", "meaning")
    return "\n" + table(head, rows) if rows else ""


def _names(param: Any) -> str:
    if param.param_type_name == "argument":
        return _code(param.name.upper())
    return ", ".join(_code(name) for name in param.opts)


def _default(param: Any) -> str:
    if param.required:
        return "required"
    return "" if param.default in {None, "", False} else _code(param.default)


# DAGs


def dags(folder: Path) -> str:
    """Describe the DAGs and their params, without importing Airflow."""
    parts = ["# DAGs and their params\n", GENERATED]
    for path in sorted(folder.glob("*.py")):
        module = ast.parse(path.read_text())
        for name, params in _dags_of(module):
            title = ast.get_docstring(module) or ""
            parts += [f"\n## {name}\n\n", re.sub(r"^#+ (.*)", r"**\1**", title), "\n\n"]
            rows = [_param_row(key, param) for key, param in params.items()]
            parts.append(table(("param", "default", "limits", "meaning"), rows) if rows else "")
    return "".join(parts)


def _dags_of(module: ast.Module) -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
    for function in (node for node in module.body if isinstance(node, ast.FunctionDef)):
        for call in (each for each in function.decorator_list if isinstance(each, ast.Call)):
            if isinstance(call.func, ast.Name) and call.func.id == "dag":
                given = {word.arg: word.value for word in call.keywords}
                yield function.name, _evaluated(given.get("params"), module)


def _evaluated(params: ast.expr | None, module: ast.Module) -> dict[str, dict[str, Any]]:
    """Evaluate a DAG's `params`, with functions that keep what `Param` would be told."""
    if params is None:
        return {}
    names: dict[str, Any] = {"Param": _param, "name_param": _name_param}
    shared = ast.parse((PROJECT / "dags" / "common.py").read_text())
    for node in (*shared.body, *module.body):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            targets = (each.id for each in node.targets if isinstance(each, ast.Name))
            names |= dict.fromkeys(targets, node.value.value)
    code = compile(ast.Expression(params), "params", "eval")
    found: dict[str, dict[str, Any]] = eval(code, names)  # noqa: S307  # the project's own DAG files
    return found


def _param(default: object, **schema: Any) -> dict[str, Any]:
    return {"default": default, **schema}


def _name_param(default: str, title: str, description: str) -> dict[str, Any]:
    text = f"{description} 1 to 63 of `a-z 0-9 . _ -`."
    return _param(default, title=title, description_md=text)


def _param_row(name: str, param: Mapping[str, Any]) -> Row:
    limits = [
        f"{word} {_code(param[key])}"
        for key, word in (
            ("minimum", "from"),
            ("exclusiveMinimum", "above"),
            ("maximum", "to"),
            ("maxLength", "characters to"),
        )
        if key in param
    ]
    if "enum" in param:
        limits.append("one of " + ", ".join(_code(each) for each in param["enum"]))
    default = param["default"]
    shown = str(default).lower() if isinstance(default, bool) else default
    meaning = f"**{param['title']}.** {param.get('description_md', '')}"
    return _code(name), _code(shown) or "empty", "; ".join(limits), meaning


# Settings


def configuration() -> str:
    """Describe the settings, and find out which environment variable sets which of them."""
    parts = ["# Settings\n", GENERATED, f"\n{inspect.getdoc(settings)}\n"]
    for model in (settings.Settings, settings.StorageSettings, settings.StoragePatience):
        parts += [f"\n## {model.__name__}\n\n{_summary(model)}\n\n", _fields(model)]
    rows = [(_code(name), _code(path)) for name, path in sorted(_variables().items())]
    parts += ["\n## Environment variables of the library\n\n", table(("variable", "sets"), rows)]
    parts += ["\nWhat else the command line reads from the environment stands beside its options: "]
    parts += ["[command line](cli.md). In Airflow, the connections `dermascan_s3` and "]
    parts += ["`isic_archive` say the same.\n"]
    return "".join(parts)


def _summary(model: type[BaseModel]) -> str:
    return (inspect.getdoc(model) or "").partition("\n\nAttributes:")[0]


def _attributes(model: type) -> dict[str, str]:
    """Read the `Attributes` section of a docstring."""
    text = (inspect.getdoc(model) or "").partition("Attributes:\n")[2]
    pairs = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", text, re.MULTILINE)
    return {name: " ".join(words.split()) for name, words in pairs}


def _fields(model: type[BaseModel]) -> str:
    meanings = _attributes(model)
    rows = []
    for name, field in model.model_fields.items():
        kind = getattr(field.annotation, "__name__", None) or str(field.annotation)
        default = "required" if field.default is PydanticUndefined else f"`{field.default}`"
        rows.append((_code(name), _code(kind), default, meanings.get(name, "")))
    return table(("field", "type", "default", "meaning"), rows)


def _variables() -> dict[str, str]:
    """Set each variable that `settings.py` may read, and see what changes."""
    source = inspect.getsource(settings)
    named = set(re.findall(r"\b(?:DERMASCAN|AWS|MLFLOW)_[A-Z_]*[A-Z]\b", source))
    times = {f"DERMASCAN_S3_{name.upper()}" for name in settings.StoragePatience.model_fields}
    base = {"DERMASCAN_BUCKET": BUCKET}
    usual = dict(_leaves(settings.settings_from_environment(base).model_dump()))
    found: dict[str, str] = {}
    for name in named | times:
        given = base | {name: "17" if name in times else "another"}
        leaves = _leaves(settings.settings_from_environment(given).model_dump())
        found[name] = ", ".join(path for path, value in leaves if str(value) != str(usual[path]))
    return {name: path for name, path in found.items() if path}


def _leaves(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, object]]:
    for name, each in value.items():
        if isinstance(each, Mapping):
            yield from _leaves(each, f"{path}{name}.")
        else:
            yield f"{path}{name}", each


# Objects


class _Number(int):
    """A number that is written as the placeholder of its name, in whatever format."""

    name: str

    def __format__(self, _: str) -> str:
        return f"<{self.name}>"


def objects() -> str:
    """List every key, by calling what builds it with placeholders."""
    parts = ["# Object layout\n", GENERATED, f"\n{inspect.getdoc(layout)}\n"]
    for made, places in _families():
        parts += [f"\n## {_what(type(made)).capitalize()}\n\n", _keys(made, places)]
    rows = [
        _key_row(name, function, function, {})
        for name, function in inspect.getmembers(layout, inspect.isfunction)
        if function.__module__ == layout.__name__ and _builds_a_key(function)
    ]
    parts += ["\n## Keys that belong to none of these\n\n", table(("key", "what", "name"), rows)]
    return "".join(parts)


def _builds_a_key(function: Callable[..., object]) -> bool:
    text = inspect.getdoc(function) or ""
    return text.startswith(("Return the key of", "Return the prefix "))


def _families() -> Iterator[tuple[object, dict[str, str]]]:
    """Yield an instance of each class of keys, those that another one makes after it."""
    for _, kind in inspect.getmembers(layout, inspect.isclass):
        own = kind.__module__ == layout.__name__
        if own and "prefix" not in inspect.signature(kind).parameters:
            made, places = _called(kind)
            yield made, places
            for _, method in inspect.getmembers(made, inspect.ismethod):
                if str(inspect.signature(method).return_annotation).endswith("Keys"):
                    nested, more = _called(method)
                    yield nested, places | more


def _keys(made: object, places: Mapping[str, str]) -> str:
    rows = [
        (_code(_readable(value, places)), name.replace("_", " "), _code(name))
        for name, value in vars(made).items()
        if isinstance(value, str) and value not in places and not name.startswith("_")
    ]
    for name, member in inspect.getmembers(type(made)):
        if isinstance(member, property) and isinstance(getattr(made, name), str):
            shown = _readable(getattr(made, name), places)
            rows.append((_code(shown), _what(member.fget), _code(name)))
        elif inspect.isfunction(member) and _builds_a_key(member):
            rows.append(_key_row(name, member, getattr(made, name), places))
    return table(("key", "what", "name"), rows)


def _key_row(name: str, described: object, call: Any, places: Mapping[str, str]) -> Row:
    value, more = _called(call)
    return _code(_readable(value, {**places, **more})), _what(described), _code(name)


def _what(described: Any) -> str:
    first = (inspect.getdoc(described) or "").partition("\n\n")[0]
    words = " ".join(first.removeprefix("Return the ").split()).rstrip(".")
    return re.sub("^(key|prefix) (of|under) ", lambda m: "" if m[2] == "of" else m[0], words)


def _called(call: Any) -> tuple[Any, dict[str, str]]:
    """Call with placeholders; those for texts are short, since some keys shorten them."""
    given: dict[str, Any] = {}
    places: dict[str, str] = {}
    for index, (name, each) in enumerate(inspect.signature(call).parameters.items()):
        if each.annotation is int:
            given[name] = _Number(1)
            given[name].name = name
        else:
            places[token := f"xx{index}{name[:3]}xx"] = f"<{name}>"
            given[name] = token
    return call(**given), places


def _readable(value: str, places: Mapping[str, str]) -> str:
    for token, placeholder in places.items():
        value = value.replace(token, placeholder)
    return value.replace("<prefix>", "<prefix>/")


# Rules and tables


def gate(path: Path) -> str:
    """List the rules of the gate with their reasons."""
    rules = load_rules(path)
    floors = [
        (
            rule.name,
            _code(rule.metric),
            f"{rule.comparison.replace('_', ' ')} {rule.threshold:g}"
            + (f" + `{rule.relative_to}`" if rule.relative_to else ""),
            f"`{rule.when.metric}` is at least {rule.when.at_least:g}" if rule.when else "always",
            rule.why,
        )
        for rule in rules.rules
    ]
    champions = [
        (rule.name, _code(rule.metric), f"{rule.margin:g}", rule.why)
        for rule in rules.non_inferiority
    ]
    return "".join(
        (
            "# The gate's rules\n",
            GENERATED,
            "\nFrom `include/gate.yaml`, which also says what each field means. How to add one: ",
            "[add a gate rule](../how-to/gate-rule.md).\n\n## Floors\n\n",
            table(("rule", "figure", "needed", "binds where", "why"), floors),
            "\n## Against the champion\n\n",
            table(("rule", "figure", "margin", "why"), champions),
        )
    )


def expectations(folder: Path) -> str:
    """List what Great Expectations asks of a manifest."""
    parts = ["# What the data must fulfil\n", GENERATED]
    parts.append("\nFrom `include/expectations/`. What is critical stops a dataset, a warning is ")
    parts.append("shown.\n")
    for suite in load_suites(folder):
        rows = [(each.name, each.severity, each.meta.why) for each in suite.expectations]
        parts += [f"\n## {suite.name}\n\n", table(("expectation", "severity", "why"), rows)]
    return "".join(parts)


def diagnoses() -> str:
    """Say which diagnosis of the archive becomes which class."""
    table_of = DIAGNOSIS_TO_CLASS.items()
    rows = [(levels.replace(":", " : "), _code(name)) for levels, name in table_of]
    malignant = Taxonomy().malignant
    classes = [
        (_code(name), CLASS_NAMES[name], "malignant" if name in malignant else "benign")
        for name in LESION_CLASSES
    ]
    return "".join(
        (
            "# Diagnoses and classes\n",
            GENERATED,
            "\n",
            table(("class", "name", "counts as"), classes),
            "\n## From the archive's diagnosis to a class\n\nThe levels `diagnosis_1` to ",
            "`diagnosis_5`, outermost first. What lies below a level has its class; what is not ",
            f"in the table has none. `scc` counts as `{Taxonomy().scc_as}`.\n\n",
            table(("diagnosis begins with", "class"), rows),
        )
    )


def tables() -> str:
    """List the columns of the tables that people read."""
    parts = ["# Tables\n", GENERATED]
    for title, schema in (
        ("Predictions: `predictions/<run>/predictions.parquet` and `.csv`", PREDICTIONS_SCHEMA),
        ("Manifests: `raw/<dataset>/manifests/<fingerprint>.parquet`", MANIFEST_SCHEMA),
    ):
        rows = [(_code(field.name), _code(field.type)) for field in schema]
        parts += [f"\n## {title}\n\n", table(("column", "type"), rows)]
    return "".join(parts)
