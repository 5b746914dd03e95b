"""The executed notebooks as pages: prose, code, and what came out of it."""

import base64
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat

# Pandas brings borders and a style of its own; without them the site's apply.
OWN_STYLE = re.compile(r"<style.*?</style>|(?<=<table)[^>]*|(?<=<tr)[^>]*", re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)

Content = str | bytes


def notebook_pages(folder: Path) -> dict[str, Content]:
    """Return pages and pictures by their paths under `docs/`."""
    found: dict[str, Content] = {}
    for path in sorted(folder.glob("[0-9]*.ipynb")):
        parts: list[str] = []
        heading = ""
        for number, cell in enumerate(nbformat.read(path, as_version=4).cells):
            if cell.cell_type == "markdown":
                parts.append(cell.source)
                heading = (HEADING.findall(cell.source) or [heading])[-1]
                continue
            parts.append(f"```python\n{cell.source}\n```")
            for place, (ending, content) in enumerate(_outputs(cell)):
                if not ending:
                    parts.append(str(content))
                    continue
                name = f"{path.stem}-{number}-{place}{ending}"
                found[f"notebooks/{name}"] = content
                parts.append(f"![Figure: {heading}](./{name})")
        found[f"notebooks/{path.stem}.md"] = "\n\n".join(parts) + "\n"
    return found


def _outputs(cell: nbformat.NotebookNode) -> Iterator[tuple[str, Content]]:
    """Yield pictures with the ending of their names, anything else as Markdown with none."""
    for output in cell.outputs:
        data = output.get("data", {})
        if "image/svg+xml" in data:
            yield ".svg", data["image/svg+xml"]
        elif "image/png" in data:
            yield ".png", base64.b64decode(data["image/png"])
        elif "text/html" in data:
            yield "", OWN_STYLE.sub("", data["text/html"])
        else:
            text = output.get("text") or data.get("text/plain", "")
            yield "", f"```text\n{text.rstrip()}\n```"
