"""The workflows in scripts/workflows: Snakemake runs its one; of both the options of wsi-seg are checked."""

from __future__ import annotations

import csv
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from tests.made.slides import SlideSpec, make_slide
from wsi_seg.cli import app
from wsi_seg.core.geometry import Size
from wsi_seg.exporters.table import FORMATS

REPOSITORY = Path(__file__).resolve().parent.parent
SNAKEMAKE = REPOSITORY / "scripts" / "workflows" / "snakemake"

# wsi-seg; what it runs is a model in NumPy, with which it starts without torch.
PROGRAM = """
import sys

if sys.argv[1] == "run":
    from tests.made.landmarks import darkness_model
    from wsi_seg.pipeline import models

    models.load_model = lambda *_, **__: darkness_model()
from wsi_seg.cli import main

main()
"""


# Another workflow that has this one as a module.
AS_MODULE = f"""
module wsi_seg:
    snakefile: "{SNAKEMAKE / "Snakefile"}"
    config: config["wsi_seg"]

use rule * from wsi_seg as wsi_seg_*
"""


def snakemake(snakefile: Path, folder: Path, config: dict[str, object]) -> subprocess.CompletedProcess[str]:
    """Run a workflow in a folder, as far as it comes."""
    if importlib.util.find_spec("snakemake") is None:
        pytest.skip("no snakemake here: pip install snakemake")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "XDG_CACHE_HOME": str(folder / "cache")}
    return subprocess.run(
        [sys.executable, "-m", "snakemake", "--snakefile", snakefile,
         "--configfile", "config.yaml", "--cores", "1", "--keep-going", "--quiet", "rules"],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.long
def test_snakemake_resumes_after_a_slide_that_fails(tmp_path: Path) -> None:
    slide = make_slide(tmp_path / "a.svs", SlideSpec(size=Size(256, 256), mpp=0.5, tissue=1, seed=1))
    table = "slide,name,threshold,note: block\na.svs,ward/one,0.6,A1\nb.svs,,,\n"
    (tmp_path / "slides.csv").write_text(table)
    (tmp_path / "program.py").write_text(PROGRAM)
    program = f"{sys.executable} program.py"
    config: dict[str, object] = {"slides": "slides.csv", "command": program, "threads": 1, "output": "out"}

    first = snakemake(SNAKEMAKE / "Snakefile", tmp_path, config)
    assert first.returncode != 0
    assert f"error: {tmp_path / 'b.svs'}: no such file\n" in first.stderr
    assert not (tmp_path / "out" / "b").exists() and not (tmp_path / "out" / "batch.csv").exists()
    manifest = tmp_path / "out" / "ward" / "one" / "manifest.json"
    written = manifest.stat().st_mtime_ns
    assert '"threshold": 0.6' in manifest.read_text()

    shutil.copy(slide, tmp_path / "b.svs")
    (tmp_path / "Snakefile").write_text(AS_MODULE)
    included = {"wsi_seg": {**config, "formats": ["csv-classes"]}}
    second = snakemake(tmp_path / "Snakefile", tmp_path, included)
    assert second.returncode == 0, second.stderr
    assert manifest.stat().st_mtime_ns == written
    batch = rows(tmp_path / "out" / "batch.csv")
    assert [(row["name"], row["status"], row["note: block"]) for row in batch] == [
        ("ward/one", "skipped", "A1"),
        ("b", "skipped", ""),
    ]
    table = rows(tmp_path / "exports" / "csv-classes.csv")
    assert [(row["results"], row["slide"], row["class"]) for row in table] == [
        ("ward/one", "a", "tumor"),
        ("ward/one", "a", "stroma"),
        ("b", "b", "tumor"),
        ("b", "b", "stroma"),
    ]


@pytest.mark.parametrize("name", ["snakemake/Snakefile", "nextflow/wsi_seg.nf"])
def test_options_of_the_commands_exist(name: str) -> None:
    text = (REPOSITORY / "scripts" / "workflows" / name).read_text(encoding="utf-8")
    program: Any = get_command(app)
    commands = [program.commands[one] for one in ("run", "export")]
    known = {
        opt for one in commands for param in one.get_params(one.context_class(one)) for opt in param.opts
    }
    used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
    assert {"--output", "--to"} <= used <= known


def test_snakemake_knows_which_formats_are_folders() -> None:
    text = (SNAKEMAKE / "Snakefile").read_text(encoding="utf-8")
    names: dict[str, tuple[str, ...]] = {}
    lines = [line for line in text.splitlines() if line.startswith(("FOLDERS =", "TABLES ="))]
    exec("\n".join(lines), names)
    assert set(names["TABLES"]) == {name for name, form in FORMATS.items() if form.ending == ".csv"}
    folders = {name for name, form in FORMATS.items() if form.about.startswith("folder")}
    assert set(names["FOLDERS"]) == folders | {"spatialdata"}


def test_the_example_of_a_configuration_fits_the_schema() -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="snakemake brings it")
    schema = yaml.safe_load((SNAKEMAKE / "config.schema.yaml").read_text(encoding="utf-8"))
    example = yaml.safe_load((SNAKEMAKE / "config.yaml").read_text(encoding="utf-8"))
    jsonschema.validate(example, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**example, "thread": 2}, schema)
