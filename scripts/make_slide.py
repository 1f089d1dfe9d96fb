#!/usr/bin/env python
"""Write a made whole-slide image of any size, for tests and benchmarks.

    python scripts/make_slide.py big.svs --size 100000 --mpp 0.25 --tissue 0.4
    python scripts/make_slide.py real.svs --size 60000 --texture tissue
    python scripts/make_slide.py bounds.scn --size 32768 --bounds 4096 2048 16384 16384

`tests.made.slides` says what is on it and offers the same from Python.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tests.made.slides import SlideSpec, make_slide
from wsi_seg.core.geometry import Box, Size


def _parse(arguments: Sequence[str] | None) -> tuple[Path, SlideSpec]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path, help="file to write (.svs, or .scn with --bounds)")
    parser.add_argument("--size", type=int, nargs="+", default=[32768], help="width [height] in l0 pixels")
    parser.add_argument("--mpp", type=float, default=0.25, help="microns per l0 pixel")
    parser.add_argument("--tissue", type=float, default=0.4, help="share of tiles with tissue, 0 to 1")
    parser.add_argument("--codec", choices=["jpeg", "jpeg2000"], default="jpeg")
    parser.add_argument("--texture", default="sample", help="sample, tissue, or an image file")
    parser.add_argument("--bounds", type=int, nargs=4, metavar=("X", "Y", "W", "H"), help="scanned region")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    made = given.texture in ("sample", "tissue")
    if not made and not Path(given.texture).is_file():
        parser.error(f"--texture: {given.texture} is no file; give sample, tissue, or an image file")
    spec = SlideSpec(
        size=Size(given.size[0], given.size[-1]),
        mpp=given.mpp,
        tissue=given.tissue,
        codec=given.codec,
        texture=given.texture if made else Path(given.texture),
        bounds=Box.at(*given.bounds) if given.bounds else None,
        seed=given.seed,
    )
    return given.out, spec


def main(arguments: Sequence[str] | None = None) -> None:
    path, spec = _parse(arguments)
    make_slide(path, spec)
    print(f"{path}: {spec.size.width} × {spec.size.height} px, {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
