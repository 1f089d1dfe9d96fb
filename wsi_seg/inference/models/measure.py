"""Memory of a forward pass of a network that was loaded whole: measured in a process of its own.

`activations` finds that of other networks without computing them.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import torch

from wsi_seg.core.allocator import keep_freed_memory
from wsi_seg.core.card import read_card
from wsi_seg.core.errors import ModelError, WsiSegError
from wsi_seg.core.system import peak_memory_bytes
from wsi_seg.inference.models.network import load_network, normalized


def measured_activations(folder: Path) -> float:
    """Return the bytes by which the memory of a process grows in its first forward pass, per input pixel.

    An upper estimate: it includes what libraries set up once.

    Args:
        folder: of the model.

    Raises:
        ModelError: the network cannot be loaded or fails.
    """
    done = subprocess.run(
        [sys.executable, "-m", __name__, str(folder.absolute())], capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ModelError(f"{folder}: a forward pass of one tile fails: {lines[-1]}")
    return float(done.stdout)


def _measure(folder: Path) -> float:
    """Return the same for this process, which computes with one thread as each of several passes does."""
    keep_freed_memory()
    torch.set_num_threads(1)
    card = read_card(folder)
    shape = (card.batch or 1, card.tile, card.tile, 3)
    tiles = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    network = load_network(folder)
    before = psutil.Process().memory_info().rss
    with torch.inference_mode():
        network(normalized(torch.from_numpy(tiles), card.normalization))
    return max(0, peak_memory_bytes() - before) / (tiles.size / 3)


if __name__ == "__main__":
    try:
        print(_measure(Path(sys.argv[1])))
    except WsiSegError as refused:
        sys.exit(str(refused))
