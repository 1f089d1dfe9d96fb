"""Quicker imports of large libraries."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_imports() -> Iterator[None]:
    """Let the garbage collector rest while modules are imported, and never look at what they made.

    Importing PyTorch and what goes with it makes hundreds of thousands of objects that stay. The collector
    would go through them again and again, which takes a fifth of the time. For programmes only: it is not for
    a library to set the collector of its host.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
