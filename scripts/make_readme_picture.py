"""Make the picture of the README from the demo's results.

python scripts/make_readme_picture.py results/CMU-1-Small-Region
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

WIDTH = 1100
DOCS = Path(__file__).resolve().parent.parent / "docs"


def main() -> None:
    overview = Image.open(Path(sys.argv[1]) / "overview.png").convert("RGB")
    size = (WIDTH, round(overview.height * WIDTH / overview.width))
    DOCS.mkdir(exist_ok=True)
    overview.resize(size, Image.Resampling.LANCZOS).save(DOCS / "demo.jpg", quality=85)


if __name__ == "__main__":
    main()
