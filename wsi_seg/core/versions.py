"""Versions of installed packages, for the record of a run; reading them never fails."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
from collections.abc import Iterable
from contextlib import suppress
from functools import cache

import wsi_seg

UNKNOWN = "unknown"

# Packages whose module has another name than they have; else "-" is "_".
MODULES = {"openslide-python": "openslide", "pillow": "PIL"}


@cache  # reading metadata takes milliseconds, and a run asks for each of its slides
def package_version(name: str) -> str:
    """Return the version of an installed package: that of its metadata, else what its module says.

    Distributions such as conda may install a package under another name, or without metadata. The metadata
    come first, as modules may say more (`2.9+cu130`), and only where they are imported.

    Returns:
        The version, or `unknown` where there is no such package or it does not say.
    """
    with suppress(importlib.metadata.PackageNotFoundError):
        version = importlib.metadata.version(name)
        if version:  # None where a removal has left a part of the metadata
            return version
    with suppress(ImportError, OSError):  # OSError: a shared library that it needs is missing
        module = importlib.import_module(MODULES.get(name, name.replace("-", "_")))
        return str(getattr(module, "__version__", UNKNOWN))
    return UNKNOWN


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of this package, of Python and of `packages`, by name."""
    return {
        "wsi-seg": wsi_seg.__version__,
        "python": platform.python_version(),
        **{name: package_version(name) for name in packages},
    }
