"""The executed notebooks as pages: prose, code, and what came out of it."""

import base64
import html
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat

OWN_STYLE = re.compile(r"<style.*?</style>", re.DOTALL)


def notebook_pages(folder: Path) -> dict[str, str | bytes]:
    """Return pages and pictures by their paths under `docs/`."""
    found: dict[str, str | bytes] = {}
    for path in sorted(folder.glob("[0-9]*.ipynb")):
        parts: list[str] = []
        for number, cell in enumerate(nbformat.read(path, as_version=4).cells):
            if cell.cell_type == "markdown":
                parts.append(cell.source)
                continue
            parts.append(f"```python\n{cell.source}\n```")
            for place, (text, picture) in enumerate(_outputs(cell)):
                name = f"{path.stem}-{number}-{place}"
                parts.append(text.format(name=name))
                found |= {f"notebooks/{name}{end}": data for end, data in picture.items()}
        found[f"notebooks/{path.stem}.md"] = "\n\n".join(parts) + "\n"
    return found


def _outputs(cell: nbformat.NotebookNode) -> Iterator[tuple[str, dict[str, str | bytes]]]:
    """Yield Markdown with `{name}` for the picture's name, and the picture by its ending."""
    for output in cell.outputs:
        data = output.get("data", {})
        if "image/svg+xml" in data:
            yield "![A chart](./{name}.svg)", {".svg": data["image/svg+xml"]}
        elif "image/png" in data:
            yield "![A figure](./{name}.png)", {".png": base64.b64decode(data["image/png"])}
        elif "text/html" in data:
            yield _plain(OWN_STYLE.sub("", data["text/html"])), {}
        else:
            text = output.get("text") or data.get("text/plain", "")
            yield _plain(f"<pre>{html.escape(text)}</pre>"), {}


def _plain(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
