"""The contract of every GeoJSON file for QuPath; the rules stand in `wsi_seg.exporters.check`."""

from __future__ import annotations

from pathlib import Path

from wsi_seg.exporters.check import check_geojson

__all__ = ["assert_geojson", "check_geojson"]


def assert_geojson(path: Path) -> None:
    """Fail with all that is wrong with the file."""
    problems = check_geojson(path)
    assert not problems, "\n".join(problems)
