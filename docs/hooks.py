"""What MkDocs is told beside its settings: pages that are made when the site is built."""

import re
from typing import TYPE_CHECKING

from mkdocs.structure.files import File
from notebook_pages import notebook_pages
from reference_pages import PROJECT, pages

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

# Pages that stand in the project's folder, where people look for them.
AT_THE_TOP = {
    "SECURITY.md": "security.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Add the generated pages, the notebooks, and what stands outside of `docs/`."""
    moved = {AT_THE_TOP[name]: (PROJECT / name).read_text() for name in AT_THE_TOP}
    for path, text in (pages() | moved).items():
        files.append(File.generated(config, path, content=text))
    for path, content in notebook_pages(PROJECT / "notebooks").items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: "Page", **_: object) -> str:
    """Let links between the project's folder and `docs/` lead to the pages of the site."""
    path = page.file.src_uri
    if path in AT_THE_TOP.values():
        markdown = markdown.replace("](docs/", "](")
    up = "../" * path.count("/")
    for name, place in AT_THE_TOP.items():
        markdown = re.sub(rf"\]\((?:\.\./)*{re.escape(name)}\)", f"]({up}{place})", markdown)
    return markdown


def on_post_page(output: str, page: "Page", **_: object) -> str:
    """Say which language a page is in, where it says so itself."""
    language = page.meta.get("language")
    return output.replace('<html lang="en"', f'<html lang="{language}"') if language else output
