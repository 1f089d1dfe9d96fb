"""Damaged inputs of every kind: a command ends well or with one clear line, and in bounded time and memory.

`WSI_SEG_MUTATIONS=500 pytest tests/test_mutations.py` tries 500 of each kind instead of a few.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tifffile
from typer.testing import CliRunner

from tests.made.pyramids import write_pyramid
from tests.made.results import make_results
from tests.mutation_inputs import KINDS, picture
from wsi_seg.cli import app
from wsi_seg.core.errors import OutputError
from wsi_seg.core.geometry import Scale

COUNT = os.environ.get("WSI_SEG_MUTATIONS", "1")
# All cases of all kinds run before the first test is judged.
pytestmark = pytest.mark.timeout(300 + 20 * len(KINDS) * int(COUNT))
TESTS = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """Outcome of each case, by kind."""
    program = [
        sys.executable,
        TESTS / "mutation_cases.py",
        tmp_path_factory.mktemp("cases"),
        "--count",
        COUNT,
    ]
    paths = os.pathsep.join([str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    # One thread each: threads of a library do not survive a fork.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run(program, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    cases: dict[str, list[dict[str, Any]]] = {kind.name: [] for kind in KINDS}
    for line in done.stdout.splitlines():
        case = json.loads(line)
        cases[case["kind"]].append(case)
    return cases


@pytest.mark.long
@pytest.mark.parametrize("kind", [kind.name for kind in KINDS])
def test_damage_is_no_harm_or_one_clear_line(kind: str, tried: dict[str, list[dict[str, Any]]]) -> None:
    assert len(tried[kind]) == int(COUNT)
    assert [case for case in tried[kind] if case["faults"]] == []


# --- what it has found, one by one ----------------------------------------------------------------------


def made(name: str, folder: Path) -> Path:
    """Return the whole input of a kind."""
    (kind,) = [kind for kind in KINDS if kind.name == name]
    return kind.make(folder, folder)


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(result: Any, *words: str) -> None:
    """One line, and no error that nobody foresaw."""
    assert isinstance(result.exception, SystemExit) and result.exit_code in (1, 2), result.exception
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert all(word in line for word in words) and len(line) < 1000, line


def test_ndpi_property_whose_name_is_no_text_is_left_out(tmp_path: Path) -> None:
    slide = made("ndpi", tmp_path)
    slide.write_bytes(slide.read_bytes().replace(b"Product=", b"Pr\xf8duct="))
    result = call("info", slide)
    assert result.exit_code == 0, result.exception
    assert "320 × 320 px" in result.stdout and "openslide (hamamatsu)" in result.stdout
    assert call("info", slide, "--reader", "tiffslide").stderr == ""


def test_scn_whose_xml_is_damaged(tmp_path: Path) -> None:
    slide = made("scn", tmp_path)
    slide.write_bytes(slide.read_bytes().replace(b"</collection>", b"<?collection>"))
    refused(call("info", slide, "--reader", "tiffslide"), str(slide))
    read = call("info", slide)  # OpenSlide takes it for a TIFF of no scanner
    assert read.exit_code == 0 and "openslide (generic-tiff)" in read.stdout


def written_tag(slide: Path, page: int, name: str, value: int, at: int = 0) -> Path:
    """Write a whole number of 4 bytes over one of a tag's values."""
    with tifffile.TiffFile(slide) as tiff:
        place = tiff.pages[page].aspage().tags[name].valueoffset + at
    with slide.open("r+b") as file:
        file.seek(place)
        file.write(value.to_bytes(4, "little"))
    return slide


@pytest.mark.parametrize(
    ("kind", "page", "tag", "value", "word"),
    [
        ("svs", 1, "TileByteCounts", 2**32 - 16, "a piece of 4294967280 bytes in a file of"),
        ("tiff", 0, "ImageWidth", 2**21, "lists 25 of its 163840 tiles"),
        ("tiff", 0, "TileWidth", 2**24, "damaged"),
        ("strips", 0, "ImageWidth", 0, "damaged"),
    ],
)
@pytest.mark.parametrize("reader", ["openslide", "tiffslide"])
def test_tables_of_tiffs_that_cannot_be_true_are_refused(
    kind: str, page: int, tag: str, value: int, word: str, reader: str, tmp_path: Path
) -> None:
    slide = written_tag(made(kind, tmp_path), page, tag, value)
    refused(call("info", slide, "--reader", reader), str(slide), word)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("slide\na\0b.svs\n", ("line 2", "null byte")),
        (f"slide,tissue\na.svs,{'x' * 5000}\n", ("line 2", "5000 characters")),
        (f"slide,tissue\na.svs,{'x' * 300}\n", ("line 2", "xxx")),
    ],
)
def test_cells_that_are_no_paths_are_refused(content: str, words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(content)
    refused(call("run", tmp_path / "table.csv", "-o", tmp_path / "out", "--dry-run"), "table.csv", *words)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("groups: " + "[" * 5000, "too deeply"),
        ('tissue: "a\\0b.geojson"', "null byte"),
        (f"tile: {'1' * 5000}", "4300"),
    ],
)
def test_yaml_that_python_cannot_hold_is_refused(content: str, word: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(content)
    result = call("run", tmp_path / "a.svs", "-o", tmp_path / "out", "--config", tmp_path / "run.yaml")
    refused(result, "run.yaml: no valid YAML", word)


def test_records_of_results_nested_too_deeply_or_changed_within(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "a.tiff", picture(), Scale(0.5, 0.5), (1,))
    results = make_results(tmp_path / "a.tiff", tmp_path / "out")
    summary = results / "summary.json"
    summary.write_text(summary.read_text().replace("other_level_mm2", "other_lewel_mm2"))
    with pytest.raises(OutputError, match=r"coverage\.other_level_mm2: Field required"):
        make_results(tmp_path / "a.tiff", tmp_path / "out")
    for node, text, other in (
        ("zarr.json", '"width": 320', '"width": 1e999'),  # which cannot be halved until it fits on a screen
        ("0/zarr.json", "160", "1e999"),
        ("0/zarr.json", "160", "80"),
    ):
        path = results / "maps.zarr" / node
        whole = path.read_text()
        path.write_text(whole.replace(text, other))
        assert path.read_text() != whole
        refused(call("export", results), "maps.zarr", "damaged")
        path.write_text(whole)
    nested = '{"a":' * 50_000
    (results / "maps.zarr" / "zarr.json").write_text(nested)
    refused(call("export", results), "maps.zarr", "damaged")
    (results / "manifest.json").write_text(nested)
    refused(call("export", results), "manifest.json", "damaged")
    checked = call("validate", results)
    assert (checked.exit_code, "manifest.json: is damaged" in checked.stdout) == (1, True)
