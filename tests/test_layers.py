"""Imports point one way: the contracts of import-linter in pyproject.toml, and quick planning."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
# Imported by `wsi-seg info` and by planning; they start in a fraction of a second.
LIGHT = (
    "wsi_seg.slides.readers",
    "wsi_seg.slides.readers.image",
    "wsi_seg.slides.readers.openslide",
    "wsi_seg.slides.readers.tiled_tiff",
    "wsi_seg.tissue.mask",
    "wsi_seg.planning.plan",
    "wsi_seg.regions.polygons",
)


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Check the package `wsi_seg` of a folder by the contracts of its pyproject.toml."""
    code = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    arguments = ["--no-cache"]
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, '.'); {code}", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_imports_follow_the_contracts() -> None:
    done = lint(REPOSITORY)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("core/geometry.py", "from wsi_seg.slides.slide import Slide", "A folder imports only from those"),
        ("planning/plan.py", "def f():\n    import wsi_seg.pipeline.run", "A folder imports only from those"),
        ("cli/run.py", "import wsi_seg.testing.readers", "A folder imports only from those"),
        ("nowhere.py", "", "nowhere"),
        ("inference/stitch.py", "def f():\n    import torch.nn", "torch is at home in"),
        ("results/folder.py", "from dask.callbacks import Callback", "dask is at home in"),
        ("core/errors.py", "import wsi_seg.core.classes", "No modules import each other"),
    ],
)
def test_a_wrong_import_is_found(tmp_path: Path, module: str, line: str, broken: str) -> None:
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    ignored = shutil.ignore_patterns("web", "static", "__pycache__", "*.svs", "*.safetensors")
    package = shutil.copytree(REPOSITORY / "wsi_seg", tmp_path / "wsi_seg", ignore=ignored)
    with (package / module).open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")
    done = lint(tmp_path)
    assert done.returncode == 1
    assert [text for text in done.stdout.splitlines() if broken in text], done.stdout


def test_planning_needs_neither_torch_nor_dask() -> None:
    code = (
        f"import sys, {', '.join(LIGHT)}; "
        "print([name for name in ('torch', 'dask', 'distributed') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_folders_use_what_others_hand_out() -> None:
    graph = grimp.build_graph("wsi_seg", exclude_type_checking_imports=True)
    for module in sorted(graph.modules):
        for imported in sorted(graph.find_modules_directly_imported_by(module)):
            _, folder, *inner = imported.split(".")[:3] if imported.count(".") else (imported, "")
            if inner and module.split(".")[1:2] != [folder]:
                public = importlib.import_module(f"wsi_seg.{folder}").__all__
                assert inner[0] in public, f"{module} imports {imported}, which is private to {folder}"
