"""Public names: what `dir` shows is what can be imported, what is handed out, and what the docs list."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import wsi_seg

REPOSITORY = Path(__file__).resolve().parent.parent


def test_public_names_are_listed_everywhere() -> None:
    names = set(wsi_seg.__all__)
    assert dir(wsi_seg) == sorted(wsi_seg.__all__) and len(names) == len(wsi_seg.__all__)
    assert set(wsi_seg._HOMES) == names - {"__version__"}
    tree = ast.parse(Path(wsi_seg.__file__).read_text("utf-8"))
    (typed,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in typed.body if isinstance(node, ast.ImportFrom)]
    seen = {alias.name: node.module for node in imports for alias in node.names}
    assert seen == {name: f"wsi_seg.{home}" for name, home in wsi_seg._HOMES.items()}
    page = (REPOSITORY / "docs" / "api.md").read_text("utf-8").partition("## Public names\n")[2]
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    listed = re.findall(r"`(\w+)`", "".join(rows))
    assert sorted(listed) == sorted(names)


def test_public_names_are_imported_from_where_they_are_defined() -> None:
    for name, home in wsi_seg._HOMES.items():
        found = getattr(wsi_seg, name)
        assert found is getattr(importlib.import_module(f"wsi_seg.{home}"), name)
        assert found.__module__ == f"wsi_seg.{home}" and found.__doc__, name
