"""Imports point one way: a module may import from its own layer and from those above it in `LAYERS`."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "wsi_seg"

# Modules and packages of wsi_seg; a package stands for all that is in it.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "geometry", "classes", "data", "process", "allocator", "ahead", "versions"),
    (
        "slide",
        "mpp",
        "card",
        "tiling",
        "metrics",
        "layout",
        "shards",
        "formats",
        "walk",
        "remote",
        "remote_errors",
        "yaml_config",
    ),
    (
        "readers",
        "faults",
        "tissue",
        "stain",
        "annotations",
        "drawing",
        "rasterize",
        "contours",
        "measurements",
        "memory",
        "outlines",
        "polygons",
        "rings",
        "slide_cache",
        "stitch",
        "plan",
        "pyramid",
    ),
    (
        "maps",
        "ome",
        "exporters",
        "blocks",
        "logs",
        "jobs",
        "tracing",
        "passes",
        "claims",
        "results",
        "results_files",
        "journal",
        "identity",
        "matching",
        "remote_results",
        "settings",
        "request",
        "datasets",
    ),
    ("models", "training", "graph", "cluster", "worker_processes", "launch"),
    (
        "inputs",
        "slide_table",
        "loading",
        "batch",
        "batch_table",
        "segment",
        "run",
        "evaluate",
        "train",
        "explain",
        "export",
        "report",
        "bottleneck",
        "seams",
        "pages",
    ),
    ("config", "cli", "viewer", "__main__"),
)
# The contracts of readers, models and exporters; they may import everything, and only tests import them.
CONTRACTS = "testing"
# Two sides of one layer that do not know each other.
APART = (("models", "training"), ("graph", "cluster", "worker_processes", "launch"))
# Heavy libraries and where they may be imported.
HOMES: Mapping[tuple[str, ...], tuple[str, ...]] = {
    (
        "torch",
        "torchvision",
        "segmentation_models_pytorch",
        "timm",
        "lightning",
        "pytorch_lightning",
        "safetensors.torch",
        "captum",
    ): ("models", "training", CONTRACTS),
    ("dask", "distributed", "dask_jobqueue"): ("graph", "cluster", "worker_processes", "launch", CONTRACTS),
}
# Imported by `wsi-seg info` and by planning; they start in a fraction of a second.
LIGHT = ("readers", "tissue", "plan", "polygons")

_LAYER_OF = {name: number for number, names in enumerate(LAYERS, start=1) for name in names}
_REFERENCE = re.compile(r"([A-Za-z_]\w*(?:\.\w+)+)(?::\w+)?")


def find_modules(package: Path) -> dict[str, Path]:
    """Return the dotted name of every module of a package folder."""
    modules = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def imports(name: str, modules: Mapping[str, Path]) -> set[str]:
    """Return all that a module imports, lazily too, and the modules it names as "module:attribute"."""
    path = modules[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    # The package itself hands out names of all layers on first use: only what it imports at once counts.
    for node in ast.walk(tree) if "." in name else _at_once(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.update(_imported_from(node, package, modules))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            reference = _REFERENCE.fullmatch(node.value)
            if reference and reference[1] in modules:
                found.add(reference[1])
    return found - {name}


def _at_once(tree: ast.Module) -> Iterator[ast.AST]:
    for node in tree.body:
        typing_only = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        if not typing_only and not isinstance(node, ast.FunctionDef):
            yield from ast.walk(node)


def _imported_from(node: ast.ImportFrom, package: str, modules: Mapping[str, Path]) -> Iterator[str]:
    base = node.module or ""
    if node.level:
        above = package.split(".")[: len(package.split(".")) - node.level + 1]
        base = ".".join([*above, base] if base else above)
    for alias in node.names:
        inner = f"{base}.{alias.name}"
        # Of an attribute the module counts. But names that the package hands out to its users are no
        # attributes here: within it they come from where they are defined.
        handed_out = base == PACKAGE.name and alias.name != "__version__"
        attribute = base in modules and inner not in modules and not handed_out
        yield base if attribute else inner


def part_of(module: str) -> str:
    """Return the module or package directly under wsi_seg; "" for wsi_seg itself."""
    return module.partition(".")[2].partition(".")[0]


def faults(package: Path) -> list[str]:
    """Return one sentence for every rule that an import in a package breaks."""
    modules = find_modules(package)
    arrows = {name: imports(name, modules) for name in modules}
    found = []
    for name in modules:
        if part_of(name) not in {"", CONTRACTS, *_LAYER_OF}:
            found.append(f"{name} has no layer; add {part_of(name)!r} to LAYERS in tests/test_layers.py")
        for target in sorted(arrows[name]):
            fault = _wrong_arrow(name, target) if target in modules else _wrong_home(name, target)
            if fault:
                found.append(f"{name} imports {target}: {fault}")
    inner = {name: [t for t in targets if t in modules] for name, targets in arrows.items()}
    try:
        TopologicalSorter(inner).prepare()
    except CycleError as error:
        found.append(f"modules import each other: {' <- '.join(error.args[1])}")
    return found


def _wrong_arrow(name: str, imported: str) -> str:
    source, target = part_of(name), part_of(imported)
    if target == "" or source in (CONTRACTS, target):
        return ""
    if target == CONTRACTS:
        return f"{CONTRACTS} is for tests only"
    if source == "":
        return "wsi_seg/__init__.py imports on use only, so that importing any part of it stays quick"
    if source not in _LAYER_OF or target not in _LAYER_OF:
        return ""  # reported as a module without a layer
    if _LAYER_OF[target] > _LAYER_OF[source]:
        return f"{source} is in layer {_LAYER_OF[source]}, {target} in layer {_LAYER_OF[target]}"
    for one, other in (APART, APART[::-1]):
        if source in one and target in other:
            return f"{source} and {target} must not know each other"
    return ""


def _wrong_home(name: str, target: str) -> str:
    if target.startswith(f"{PACKAGE.name}."):
        return "import it from the module where it is defined"
    for libraries, homes in HOMES.items():
        for library in libraries:
            if f"{target}.".startswith(f"{library}.") and part_of(name) not in homes:
                return f"{library} may only be imported in {', '.join(homes)}"
    return ""


def test_imports_follow_the_layers() -> None:
    assert faults(PACKAGE) == []


@pytest.mark.parametrize(
    ("path", "code", "fault"),
    [
        ("geometry.py", "from wsi_seg.slide import Slide", "geometry is in layer 1, slide in layer 2"),
        ("plan.py", "def f():\n    from wsi_seg import run", "imports wsi_seg.run: plan is in layer 3"),
        ("plan.py", "import wsi_seg.maps", "plan is in layer 3, maps in layer 4"),
        ("readers/deep/x.py", "from ...run import f", "readers is in layer 3, run in layer 6"),
        ("jobs.py", "LOADER = 'wsi_seg.models:load'", "jobs is in layer 4, models in layer 5"),
        ("models/__init__.py", "import wsi_seg.graph", "models and graph must not know each other"),
        ("graph.py", "from wsi_seg.models import load", "graph and models must not know each other"),
        ("stitch.py", "def f():\n    import torch.nn as nn", "torch may only be imported in models"),
        ("stitch.py", "from safetensors import torch", "safetensors.torch may only be imported"),
        ("run.py", "from dask.callbacks import Callback", "dask may only be imported in graph"),
        ("cli.py", "from wsi_seg.testing import x", "testing is for tests only"),
        ("__init__.py", "from wsi_seg.errors import WsiSegError", "imports on use only"),
        ("__init__.py", "import torch", "torch may only be imported in models"),
        ("graph.py", "from wsi_seg import open_slide", "import it from the module where it is defined"),
        ("nowhere.py", "", "wsi_seg.nowhere has no layer; add 'nowhere' to LAYERS"),
        ("plan.py", "def f():\n    import wsi_seg.tissue", "modules import each other"),
    ],
)
def test_a_wrong_import_is_found(tmp_path: Path, path: str, code: str, fault: str) -> None:
    package = tmp_path / "wsi_seg"
    empty = ("__init__", "errors", "slide", "maps", "run", "graph", "plan", "testing")
    packages = ("models", "readers", "readers/deep")
    files = {f"{name}.py": "" for name in empty} | {f"{name}/__init__.py": "" for name in packages}
    files |= {"tissue.py": "from wsi_seg import plan", path: code}
    for name, text in files.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    found = faults(package)
    assert len(found) == 1 and fault in found[0]


def test_allowed_imports_are_no_fault(tmp_path: Path) -> None:
    package = tmp_path / "wsi_seg"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text(
        "if TYPE_CHECKING:\n    from wsi_seg.errors import E\n"
        "def __getattr__(name):\n    import wsi_seg.models\n"
    )
    (package / "errors.py").write_text(
        "import numpy, torchinfo, safetensors\nfrom safetensors import safe_open"
    )
    (package / "models" / "__init__.py").write_text(
        "import torch\nfrom wsi_seg import __version__, errors\nfrom . import net"
    )
    (package / "models" / "net.py").write_text("from wsi_seg import errors\nimport safetensors.torch")
    assert faults(package) == []


def test_planning_needs_neither_torch_nor_dask() -> None:
    code = (
        f"import sys; from wsi_seg import {', '.join(LIGHT)}; "
        "from wsi_seg.readers import openslide, tiled_tiff, image; "
        "print([name for name in ('torch', 'dask', 'distributed') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
