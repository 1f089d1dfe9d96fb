"""`wsi-seg info` and `wsi-seg readers`: what slides state, and what is installed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.made.slides import SlideSpec, make_slide
from wsi_seg.cli import app
from wsi_seg.core.geometry import Box, Size
from wsi_seg.slides.about import AssociatedImage, Scanner, SlideAbout, StainHint, describe_file
from wsi_seg.slides.readers import READERS
from wsi_seg.slides.readers.catalog import READER_FACTS, SLIDE_FORMATS, ReaderFacts

# Keys of `info --json` that programs may rely on; docs/file-formats.md lists them.
KEYS = {
    "path", "name", "reader", "vendor", "size", "levels", "mpp", "mpp_source", "bounds", "fingerprint",
    "series", "left_out", "scanner", "stain", "objective_power", "associated", "series_uid", "scenes",
    "images", "assumed",
}  # fmt: skip


def run(*words: str) -> str:
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_info_of_the_sample_slide(sample_svs: Path) -> None:
    found = json.loads(run("info", str(sample_svs), "--json"))
    assert set(found) == KEYS
    assert found["scanner"] == {"vendor": "Aperio", "model": None, "device": "CPAPERIOCS"}
    assert (found["objective_power"], found["stain"], found["series_uid"]) == (20.0, None, None)
    assert found["associated"][0] == {"name": "label", "size": {"width": 387, "height": 463}}
    text = run("info", str(sample_svs))
    for line in (
        "  scanner      Aperio, CPAPERIOCS", "  stain        not stated", "  objective    20×",
        "  mpp          0.499 × 0.499 µm/px (openslide)",
        "  associated   label, 387 × 463 px (never exported)",
    ):  # fmt: skip
        assert line in text.splitlines()
    assert "left out" not in text


def test_docs_list_the_keys() -> None:
    text = (Path(__file__).parents[1] / "docs" / "file-formats.md").read_text(encoding="utf-8")
    assert [key for key in sorted(KEYS) if f"`{key}`" not in text] == []


def test_info_of_a_dicom_slide(tmp_path: Path) -> None:
    pytest.importorskip("wsidicom", reason="needs the extra dicom")
    from pydicom.uid import ExplicitVRLittleEndian

    from tests.made.dicom_slides import SERIES, write_slide
    from wsi_seg.slides.readers import open_slide
    from wsi_seg.slides.readers.base import LevelReader

    path = write_slide(tmp_path, np.full((130, 150, 3), 200, np.uint8), ExplicitVRLittleEndian)
    expected = SlideAbout(
        Scanner("Made Scanners", "Model 7"),
        StainHint("hematoxylin", "attributes"),
        20.0,
        (AssociatedImage("label", Size(90, 50)),),
        SERIES,
    )
    for reader in ("openslide", "wsidicom"):
        with open_slide(path, reader=reader) as opened:
            assert isinstance(opened, LevelReader)
            assert opened.about == expected


def test_info_of_a_slide_with_regions(tmp_path: Path) -> None:
    path = make_slide(tmp_path / "S1_ki-67.scn", SlideSpec(Size(1024, 1024), bounds=Box(128, 128, 640, 640)))
    found = json.loads(run("info", str(path), "--json"))
    assert found["scanner"]["vendor"] == "Leica"
    assert found["stain"] == {"name": "Ki-67", "source": "file name"}
    assert found["bounds"] == {"x0": 128, "y0": 128, "x1": 640, "y1": 640}
    assert found["scenes"] == 1


@pytest.mark.parametrize(
    ("name", "stain"),
    [
        ("TCGA-A2-A0D2-01Z-00-DX1.0123", "H&E"), ("case 7 HE", "H&E"), ("S12-3_H&E_2", "H&E"),
        ("she_went", None), ("he was here", None), ("b_HER2", "HER2"), ("PD-L1 22C3", "PD-L1"), ("", None),
    ],
)  # fmt: skip
def test_stain_by_file_name(name: str, stain: str | None) -> None:
    found = describe_file({}, "generic-tiff", name).stain
    assert (found and found.name) == stain


def test_properties_that_say_nothing() -> None:
    properties = {
        "dicom.Manufacturer": "Unknown", "tiff.Make": " ", "openslide.objective-power": "nan",
        "openslide.region[0].x": "5", "openslide.region[1].x": "9",
    }  # fmt: skip
    found = describe_file(properties, "generic-tiff", "a", images=3)
    assert found == SlideAbout(scenes=2, images=3)
    assert describe_file({"leica.device-model": "Leica SCN400"}, "leica", "a").scanner == Scanner(
        "Leica", "Leica SCN400"
    )


def test_readers() -> None:
    assert {facts.name for facts in READER_FACTS} == set(READERS)
    assert {name for one in SLIDE_FORMATS for name in one.readers} == set(READERS)
    found = json.loads(run("readers", "--json"))
    assert [reader["name"] for reader in found["readers"]] == [facts.name for facts in READER_FACTS]
    assert found["readers"][0]["installed"] is True
    assert found["formats"][0] == {
        "name": "Aperio SVS", "endings": [".svs"], "readers": ["tiff", "openslide", "tiffslide"],
    }  # fmt: skip
    first, second = run("readers").splitlines()[:2]
    assert first.split()[:2] == ["format", "tiff"]
    assert second.split()[:5] == ["Aperio", "SVS", "(.svs)", "yes", "yes"]


def test_a_reader_that_is_not_installed() -> None:
    facts = ReaderFacts("other", ("no-such-distribution",), "dicom")
    assert not facts.installed
    assert facts.install == "pip install 'wsi-seg[dicom]'"
