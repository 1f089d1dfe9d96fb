"""Virtual environments for the programs that wsi_seg is compared with, one each, made with venv and pip.

PyTorch with CUDA takes 5 GB, so by default they use that of the interpreter that runs the benchmark: links
to PyTorch and the CUDA libraries, and to nothing else, in a folder that a `.pth` file names. All then
compute with the same kernels, whatever release a program asks for; with `own_torch` each gets its own.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import venv
from importlib.metadata import distributions
from pathlib import Path

SHARED = re.compile(r"(torch|torchvision|triton|(nvidia|cuda)-.*)")
# Every peer builds the network with the library that wsi_seg builds it with.
NETWORK = ("segmentation-models-pytorch>=0.5", "safetensors>=0.4.5")
OPENSLIDE = ("openslide-python>=1.4", "openslide-bin>=4.0.1.1")
REQUIREMENTS: dict[str, tuple[str, ...]] = {
    "tiatoolbox": ("tiatoolbox>=2.1.3", *NETWORK),
    "monai": ("monai>=1.5", *OPENSLIDE, *NETWORK),
    "plain": (*OPENSLIDE, *NETWORK),
    "lazyslide": ("lazyslide>=0.13", *NETWORK),
    "wsinfer": ("wsinfer>=0.6.1", "zarr<3", *OPENSLIDE, *NETWORK),  # zarr 3 stops its import
}
WHOLE = "whole.json"  # written last

LIST_REQUIREMENTS = """
import importlib.metadata, json, sys
print(json.dumps(importlib.metadata.requires(sys.argv[1]) or []))
"""


def environment(peer: str, work: Path, own_torch: bool = False) -> Path:
    """Return the Python of a peer's environment inside `work`; it is made unless it is there as wanted.

    Raises:
        subprocess.CalledProcessError: pip failed; what it said is on stderr.
    """
    folder = work / f"env-{peer}{'-own-torch' if own_torch else ''}"
    python = folder / "bin" / "python"
    wanted = {"python": sys.version, "requirements": REQUIREMENTS[peer], "shared": shared_versions(own_torch)}
    stamp = folder / WHOLE
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == json.dumps(wanted):
        return python
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    if not own_torch:
        _share_torch(folder)
    _install(python, REQUIREMENTS[peer], own_torch)
    stamp.write_text(json.dumps(wanted), encoding="utf-8")
    return python


def remove_environment(peer: str, work: Path, own_torch: bool = False) -> None:
    """Remove the environment of a peer, if it is there."""
    shutil.rmtree(work / f"env-{peer}{'-own-torch' if own_torch else ''}", ignore_errors=True)


def shared_versions(own_torch: bool = False) -> dict[str, str]:
    """Return the distributions that peers get from this interpreter, with their versions."""
    if own_torch:
        return {}
    return {d.name: d.version for d in distributions() if SHARED.fullmatch(d.name.lower())}


def _share_torch(folder: Path) -> None:
    """Link the distributions that are shared into the environment."""
    links = folder / "shared"
    links.mkdir()
    for distribution in distributions():
        if SHARED.fullmatch(distribution.name.lower()):
            for name in {file.parts[0] for file in distribution.files or () if file.parts[0] != ".."}:
                target = Path(str(distribution.locate_file(name))).resolve()
                if not (links / name).exists():  # several distributions fill the folder `nvidia`
                    (links / name).symlink_to(target)
    site = next((folder / "lib").glob("python*/site-packages"))
    (site / "shared.pth").write_text(f"{links.resolve()}\n", encoding="utf-8")


def _install(python: Path, requirements: tuple[str, ...], own_torch: bool) -> None:
    if own_torch:
        _pip(python, *requirements)
        return
    # pip would replace a PyTorch that a program does not ask for, so the program comes first, alone,
    # and then all it needs but PyTorch.
    _pip(python, "--no-deps", requirements[0])
    name = re.split(r"[^\w.-]", requirements[0])[0]
    listed = json.loads(subprocess.check_output([python, "-c", LIST_REQUIREMENTS, name], text=True))
    needed = [line for line in listed if not SHARED.fullmatch(re.split(r"[^\w.-]", line)[0].lower())]
    _pip(python, *(line for line in needed if "extra ==" not in line), *requirements[1:])


def _pip(python: Path, *words: str) -> None:
    command = [python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", *words]
    subprocess.run(command, check=True, stdout=sys.stderr)
