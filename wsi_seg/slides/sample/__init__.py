"""Files that ship with the package; NOTICE.txt names their source and license."""

from __future__ import annotations

from pathlib import Path


def sample_slide() -> Path:
    """Return the path of the packaged Aperio slide (H&E, 2220 × 2967 l0 pixels, 0.499 µm per pixel, CC0)."""
    return Path(__file__).with_name("CMU-1-Small-Region.svs")
