"""Imports of commands that only answer: as little as possible."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

HEAVY = ("torch", "dask", "zarr", "pydantic", "numpy", "scipy", "PIL", "openslide", "rich.progress", "yaml")


def test_looking_at_the_package_imports_nothing() -> None:
    code = (
        "import sys, wsi_seg\nassert 'segment_slide' in dir(wsi_seg)\n"
        f"print([name for name in {('typer', *HEAVY)} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    ("words", "libraries"),
    [
        (["--help"], ["typer"]),
        (["--version"], ["typer"]),
        (["run", "--help"], ["typer", "pydantic"]),  # with which typer looks at the types of options
    ],
)
def test_help_imports_no_library_but_that_of_the_command_line(words: list[str], libraries: list[str]) -> None:
    code = (
        f"import sys\nsys.argv[1:] = {words}\nfrom wsi_seg.cli import main\ntry:\n    main()\n"
        f"finally:\n    print([name for name in {('typer', *HEAVY)} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert ast.literal_eval(done.stdout.splitlines()[-1]) == libraries
