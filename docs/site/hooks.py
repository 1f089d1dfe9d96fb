"""Hooks of MkDocs: pages from elsewhere and from notebooks, generated ones, and links that leave the site.

On GitHub the pages link to files of the repository. The site has no address of a repository, so such a link
becomes the file's name; a link to a file that does not exist ends the build.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

import wsi_seg

DOCS = Path(__file__).resolve().parent.parent
REPOSITORY = DOCS.parent
# Pages of the site that lie elsewhere in the repository.
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmark-scripts.md",
    "benchmarks/results/README.md": "benchmark-results.md",
    "benchmarks/results/without_amx/README.md": "benchmark-results-without-amx.md",
}
GENERATED = {"cli.md": "cli", "models.md": "card", "settings.md": "settings"}  # by scripts/make_reference.py
NOTEBOOKS = {"notebook.ipynb": "notebook.md"}  # shown without outputs; the file is next to the page
LINK = re.compile(r"(?<!`)(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s#:]+)(?P<anchor>#[^)\s]*)?\)")


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add the pages that lie outside docs/, and those of notebooks."""
    for source, page in OUTSIDE.items():
        text = (REPOSITORY / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    for source, page in NOTEBOOKS.items():
        files.append(File.generated(config, page, content=_notebook_page(source)))
    return files


def _notebook_page(name: str) -> str:
    """Return a notebook of docs/ as Markdown, with a link to the file itself below its title."""
    cells = json.loads((DOCS / name).read_text(encoding="utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells]
    texts = [
        text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```"
        for text, cell in zip(texts, cells, strict=True)
    ]
    title, _, rest = texts[0].partition("\n")
    return "\n\n".join([title, f"Download it: [{name}]({name})", rest, *texts[1:]])


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Append what is generated, and turn links of the repository into links of the site."""
    name = page.file.src_uri
    if name in GENERATED:
        markdown += "\n" + _reference(GENERATED[name])
    if name == "api.md":
        markdown += "\n" + _api()
    sources = {site: REPOSITORY / source for source, site in OUTSIDE.items()}
    folder = sources.get(name, DOCS / name).parent
    return LINK.sub(lambda link: _site_link(link, folder, name), markdown)


def _site_link(link: re.Match[str], folder: Path, name: str) -> str:
    path = Path(os.path.normpath(folder / link["target"]))
    if not path.exists():
        raise PluginError(f"{name}: links to {link['target']}, which does not exist")
    source = path.relative_to(REPOSITORY).as_posix()
    anchor = link["anchor"] or ""
    if source in OUTSIDE:
        return f"[{link['text']}]({OUTSIDE[source]}{anchor})"
    page = NOTEBOOKS.get(source.removeprefix("docs/"))
    if page is not None and page != name:
        return f"[{link['text']}]({page}{anchor})"
    if DOCS in path.parents:
        return f"{link['picture']}[{link['text']}]({path.relative_to(DOCS).as_posix()}{anchor})"
    return f"`{source}`"


def _reference(page: str) -> str:
    command = [sys.executable, REPOSITORY / "scripts" / "make_reference.py", page]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


def _api() -> str:
    """Return a directive of mkdocstrings for each public name, at the module that defines it."""
    names = [name for name in wsi_seg.__all__ if not name.startswith("_")]
    homes = {name: getattr(wsi_seg, name).__module__ for name in names}
    return "\n\n".join(f"::: {homes[name]}.{name}" for name in names)
