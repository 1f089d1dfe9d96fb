"""Stand-ins for a network, in NumPy: they make geometry visible and tests quick."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_seg.inference.blocks import without_margin


class Identity:
    """Gives the image back: three classes whose "probabilities" are R, G and B / 255."""

    def __call__(self, tiles: NDArray[np.uint8], /, margin: int = 0) -> NDArray[np.float32]:
        """Return float32 (N, 3, H, W) of uint8 (N, H, W, 3)."""
        return without_margin((tiles.astype(np.float32) / np.float32(255)).transpose(0, 3, 1, 2), margin)


class Darkness:
    """Two classes: dark tissue ("tumor") against the rest, by mean brightness; sums to 1."""

    def __call__(self, tiles: NDArray[np.uint8], /, margin: int = 0) -> NDArray[np.float32]:
        """Return float32 (N, 2, H, W) of uint8 (N, H, W, 3)."""
        dark = 1 - tiles.mean(axis=-1, dtype=np.float32) / np.float32(255)
        return without_margin(np.stack([dark, 1 - dark], axis=1), margin)


class Position:
    """A prediction that depends on the place in the tile, so that a wrong placement shows.

    Class 1 falls off linearly from the tile's center to its border; class 2 is the rest.
    """

    def __call__(self, tiles: NDArray[np.uint8], /, margin: int = 0) -> NDArray[np.float32]:
        """Return float32 (N, 2, H, W) of uint8 (N, H, W, 3)."""
        n, height, width, _ = tiles.shape
        y = np.abs(np.linspace(-1, 1, height, dtype=np.float32))[:, None]
        x = np.abs(np.linspace(-1, 1, width, dtype=np.float32))[None]
        near = np.broadcast_to(1 - np.maximum(y, x), (n, height, width))
        return without_margin(np.stack([near, 1 - near], axis=1), margin)


def identity() -> Identity:
    """Recipe `tests.made.predictors:identity`."""
    return Identity()


def darkness() -> Darkness:
    """Recipe `tests.made.predictors:darkness`."""
    return Darkness()


class Shares:
    """Four classes: 0.6 and 0.4 of what `Darkness` calls dark, 0.7 and 0.3 of the rest."""

    def __call__(self, tiles: NDArray[np.uint8], /, margin: int = 0) -> NDArray[np.float32]:
        """Return float32 (N, 4, H, W) of uint8 (N, H, W, 3)."""
        dark, light = np.moveaxis(Darkness()(tiles, margin), 1, 0)
        shares = [dark * np.float32(0.6), light * np.float32(0.7), dark * np.float32(0.4)]
        return np.stack([*shares, light * np.float32(0.3)], axis=1)


def shares() -> Shares:
    """Recipe `tests.made.predictors:shares`."""
    return Shares()


class Gated:
    """`Darkness` that waits while the file `closed` is in the folder $WSI_SEG_TEST_GATE.

    There it leaves a file `at-JOB` for the SLURM job that it is part of.
    """

    def __call__(self, tiles: NDArray[np.uint8], /, margin: int = 0) -> NDArray[np.float32]:
        """Return float32 (N, 2, H, W) of uint8 (N, H, W, 3)."""
        gate = Path(os.environ["WSI_SEG_TEST_GATE"])
        (gate / f"at-{os.environ.get('SLURM_JOB_ID', 'none')}").touch()
        deadline = time.monotonic() + 240
        while (gate / "closed").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        return Darkness()(tiles, margin)


def gated() -> Gated:
    """Recipe `tests.made.predictors:gated`."""
    return Gated()


class Breaking:
    """Four classes, by brightness, until the GPU fails that this stands in for, for good.

    It fails in the process that first finds a file in the folder $WSI_SEG_TEST_FAULTS, with the error that is
    written there.
    """

    def __init__(self) -> None:
        self._fault = ""

    def __call__(self, tiles: NDArray[np.uint8], /, margin: int = 0) -> NDArray[np.float32]:
        """Return float32 (N, 4, H, W) of uint8 (N, H, W, 3)."""
        self._fault = self._fault or self._found()
        if self._fault:
            raise RuntimeError(self._fault)
        two = Darkness()(tiles, margin)
        return np.concatenate([two * np.float32(0.6), two * np.float32(0.4)], axis=1)

    @staticmethod
    def _found() -> str:
        for path in Path(os.environ["WSI_SEG_TEST_FAULTS"]).glob("fault"):
            taken = path.with_name(f"taken-{os.getpid()}")
            with suppress(FileNotFoundError):  # another process was quicker
                path.rename(taken)
                return taken.read_text(encoding="utf-8")
        return ""


def breaking() -> Breaking:
    """Recipe `tests.made.predictors:breaking`."""
    return Breaking()
