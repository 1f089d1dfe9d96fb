"""Importing libraries of networks without PyTorch's compiler, which a plain forward pass never calls.

torchvision asks the compiler one question in `ops.roi_align`, and torchvision and timm shield a few functions
from it. For that they import torch._dynamo, SymPy and Triton with it: about as long as all of PyTorch takes.
Within `compiler_on_use` they get stand-ins that import it when they are called, and only then.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType, ModuleType
from typing import Any

import torch

COMPILER = "torch._dynamo"
QUESTIONS = f"{COMPILER}.utils"


@contextmanager
def compiler_on_use() -> Iterator[None]:
    """Let modules that are imported inside import PyTorch's compiler on use; not for several threads at once.

    Whatever is not foreseen here imports the compiler at once, as it would without this.
    """
    if COMPILER in sys.modules:
        yield
        return
    disable = torch.compiler.disable
    torch.compiler.disable = _disabling_on_use(disable)
    sys.modules[QUESTIONS] = stand_in = _Questions(QUESTIONS)
    try:
        yield
    finally:
        torch.compiler.disable = disable
        if sys.modules.get(QUESTIONS) is stand_in:
            del sys.modules[QUESTIONS]


class _Questions(ModuleType):
    """Stands in for `torch._dynamo.utils`; gives way to it when asked for more than the one function."""

    def __getattr__(self, name: str) -> Any:
        if name == "is_compile_supported":
            return _is_compile_supported
        if name.startswith("__"):  # asked by the import system, not by the module that imports
            raise AttributeError(name)
        if sys.modules.get(QUESTIONS) is self:
            del sys.modules[QUESTIONS]
        return getattr(importlib.import_module(QUESTIONS), name)


def _is_compile_supported(device_type: str) -> Any:
    return importlib.import_module(QUESTIONS).is_compile_supported(device_type)


def _disabling_on_use(disable: Callable[..., Any]) -> Callable[..., Any]:
    """Return a decorator that does to functions what `disable` does, but when they are called."""

    def disable_on_use(function: Any = None, *args: Any, **options: Any) -> Any:
        if not isinstance(function, FunctionType) or args or options:
            return disable(function, *args, **options)

        @functools.wraps(function)
        def disabled(*args: Any, **kwargs: Any) -> Any:
            return disable(function)(*args, **kwargs)

        return disabled

    return disable_on_use
