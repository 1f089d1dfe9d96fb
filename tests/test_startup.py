"""What starting imports: little for an answer, and for a forward pass no compiler."""

from __future__ import annotations

import ast
import gc
import subprocess
import sys

import pytest

from wsi_seg.cli.imports import quick_imports

HEAVY = ("torch", "dask", "zarr", "pydantic", "numpy", "scipy", "PIL", "openslide", "rich.progress", "yaml")

# A network runs before anything else asks for PyTorch's compiler; then each stand-in is put to use.
FORWARD = """
import sys
from wsi_seg.inference.models import network
from wsi_seg.inference.models.compiler_on_use import compiler_on_use
import torch
from wsi_seg.core.card import CardClass, ModelCard

network.build_network(ModelCard(name="any")).eval()(torch.zeros(1, 3, 32, 32))
seen = []
with compiler_on_use():
    @torch.compiler.disable
    def noted(x):
        seen.append(torch.compiler.is_compiling())
        return x + 1
loaded = [name for name in ("torch._dynamo", "torch._dynamo.utils", "sympy") if name in sys.modules]
assert not loaded, loaded

from torchvision.ops import roi_align
answer = sys.modules[roi_align.__module__].is_compile_supported("cpu")
from torch._dynamo.utils import is_compile_supported
assert answer is is_compile_supported("cpu") is True
twice = torch.compile(lambda x: noted(x) * 2, backend="eager")
assert twice(torch.ones(3)).tolist() == [4, 4, 4]
assert seen == [False], seen
"""


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


def test_a_forward_pass_imports_no_compiler_which_works_when_used() -> None:
    done = subprocess.run([sys.executable, "-c", FORWARD], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("enabled", [True, False])
def test_the_garbage_collector_is_left_as_it_was(enabled: bool) -> None:
    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        with quick_imports():
            assert not gc.isenabled()
        with pytest.raises(ImportError), quick_imports():
            import wsi_seg.absent  # noqa: F401
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()
        gc.unfreeze()
