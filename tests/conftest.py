from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder with real data that is not part of the repository."""
    folder = Path(os.environ.get("WSI_SEG_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set WSI_SEG_DATA")
    return folder


@pytest.fixture(scope="session")
def sample_svs() -> Path:
    """The slide that ships with the package."""
    from wsi_seg.data import sample_slide

    return sample_slide()
