"""The documentation: its commands run, its links lead somewhere, its figures are those that were measured.

A fenced block of `bash` or `python` is run, page by page, in a folder with small slides. A block whose title
starts with "needs" is not run: its commands, flags and files must exist.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter
from typer.main import get_command
from typer.testing import CliRunner

from benchmarks import processes
from scripts import make_reference
from tests.made.datasets import feature, write_features
from tests.made.slides import SlideSpec, make_slide
from wsi_seg.cli import app
from wsi_seg.core.card import ModelCard
from wsi_seg.core.geometry import Size
from wsi_seg.datasets.kinds import AnyDataset

sys.path.append(str(Path(processes.__file__).parent))  # as for a script that is run
import scaling
import tables

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "benchmarks" / "results"
PAGES = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")),
    *sorted((REPOSITORY / "docs").glob("*.md")),
]
NAMES = [page.relative_to(REPOSITORY).as_posix() for page in PAGES]
README_LINES = 150
BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.M | re.S)
LINK = re.compile(r"(?<!`)\[[^\]]*\]\(([^)\s#]+)(?:#[^)\s]*)?\)")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]+")
# Options of other programs that the pages name.
FOREIGN = {
    "--rw", "--bs", "--numjobs", "--gres", "--strict", "--plugin", "--host",
    "--secret", "--user", "--tmpfs", "--cpus", "--cpuset-cpus", "--shm-size", "--ipc", "--nv", "--cleanenv",
    "--keep-going", "--forcerun", "--software-deployment-method",
}  # fmt: skip
# Programs that start wsi-seg in an image, and the names that the pages give it.
IN_CONTAINERS = ("docker", "podman", "apptainer")
IMAGE = re.compile(r"wsi-seg:\w+|wsi-seg\.sif")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    title: str
    text: str

    @property
    def is_run(self) -> bool:
        return not self.title.startswith("needs")

    @property
    def commands(self) -> Iterator[list[str]]:
        """The words of each line, without comments."""
        for line in self.text.splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def blocks(page: Path, *languages: str) -> list[Block]:
    found = [
        Block(*(part or "" for part in match.groups())) for match in BLOCK.finditer(page.read_text("utf-8"))
    ]
    return [block for block in found if block.language in languages]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the slides, tables and annotations that the pages name, all small."""
    folder = tmp_path_factory.mktemp("docs")
    slide = make_slide(folder / "slide.svs", SlideSpec(size=Size(256, 256), mpp=0.5, tissue=1, seed=1))
    (folder / "scans").mkdir()
    for name in ("a.svs", "b.svs"):
        shutil.copy(slide, folder / "scans" / name)
    (folder / "slides.csv").write_text("slide,name,note: block\nscans/a.svs,first,A1\nscans/b.svs,,A2\n")
    square = [[20.0, 20.0], [230.0, 20.0], [230.0, 230.0], [20.0, 230.0], [20.0, 20.0]]
    write_features(folder / "roi.geojson", [feature(square, None)])
    write_features(folder / "truth.geojson", [feature(square, "tumor")])
    return folder


@pytest.fixture(scope="module")
def finished(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("results")
    result = CliRunner().invoke(app, ["run", str(inputs / "slide.svs"), "-o", str(out)])
    assert result.exit_code == 0, result.output
    return out


@pytest.mark.parametrize(
    "page",
    [p for p in PAGES if any(b.is_run for b in blocks(p, "bash", "python"))],
    ids=lambda page: page.stem,
)
def test_commands_run(
    page: Path, inputs: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(inputs, tmp_path / "work")
    monkeypatch.chdir(folder)
    shown = blocks(page, "bash", "python")
    if "run slide.svs -o results\n" not in "".join(block.text + "\n" for block in shown):
        shutil.copytree(finished, folder / "results")
    for block in filter(lambda block: block.is_run, shown):
        if block.language == "python":
            exec(compile(block.text, str(page), "exec"), {"__name__": "__main__"})
            continue
        for program, *words in block.commands:
            assert program == "wsi-seg", f"{program}: give its block a title that says what it needs"
            result = CliRunner().invoke(app, words)
            assert result.exit_code == 0, f"wsi-seg {shlex.join(words)}\n{result.output}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_that_are_not_run_exist(page: Path) -> None:
    for block in blocks(page, "bash"):
        if not block.is_run:
            for words in block.commands:
                check_command(words)
    for block in blocks(page, "python"):
        compile(block.text, str(page), "exec")


@cache
def the_command() -> Any:
    return get_command(app)


def check_command(words: list[str]) -> None:
    """Assert that a command parses, as far as that can be told without running it."""
    while re.fullmatch(r"[A-Z_]+=\S+", words[0]):
        words = words[1:]
    program, *rest = words
    if program == "wsi-seg":
        command = the_command()
        while rest and rest[0] in getattr(command, "commands", {}):
            command, rest = command.commands[rest[0]], rest[1:]
        assert len(rest) < len(words) - 1, words
        command.make_context(words[1], list(rest)).close()
    elif program == "make":
        rules = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text("utf-8"), re.M)
        assert all(word in rules or "=" in word for word in rest), rest
    elif program == "python":
        text = (REPOSITORY / rest[0]).read_text("utf-8")
        assert all(f'"{flag}"' in text for flag in FLAG.findall(" ".join(rest))), rest
    elif program == "pip":
        project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
        extras = re.findall(r"(?:\.|wsi-seg)\[([\w,]+)\]", " ".join(rest))
        assert {name for names in extras for name in names.split(",")} <= set(
            project["optional-dependencies"]
        )
    elif program in IN_CONTAINERS and rest[0] == "run":
        image = next(number for number, word in enumerate(rest) if IMAGE.fullmatch(word))
        check_command(["wsi-seg", *rest[image + 1 :]])
    elif program in (*IN_CONTAINERS, "snakemake", "nextflow"):
        named = [word for word in rest if word.startswith("scripts/")]
        assert named and all((REPOSITORY / word).exists() for word in named), rest
    else:
        assert program in ("export", "napari", "sbatch"), f"{program}: no command that this test knows"


@cache
def known_flags() -> set[str]:
    """Return the flags of every command and script, and those of others that the pages name."""
    known = {
        opt
        for _, one in make_reference.every_command()
        for p in one.get_params(one.context_class(one))
        for opt in (*p.opts, *p.secondary_opts)
    }
    known |= {"--help", "--version", *FOREIGN}
    for script in (REPOSITORY / "benchmarks").glob("*.py"):
        known |= set(FLAG.findall(script.read_text("utf-8")))
    return known | {
        f"--{name.replace('_', '-')}" for name in {**scaling.NODE, **scaling.SHARED, **scaling.DRIVER}
    }


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_flags_and_files_that_are_named_exist(page: Path) -> None:
    text = BLOCK.sub("", page.read_text("utf-8"))
    assert set(FLAG.findall(" ".join(re.findall(r"`([^`]+)`", text)))) - known_flags() == set()
    for name in re.findall(r"`((?:wsi_seg|tests|configs|scripts|benchmarks)/[\w./-]+\w)`", text):
        assert (REPOSITORY / name).exists(), name
    for target in LINK.findall(text):
        assert "://" in target or (page.parent / target).exists(), target


def test_examples_of_configurations_are_valid() -> None:
    card = blocks(REPOSITORY / "docs" / "models.md", "json")[0]
    assert ModelCard.model_validate_json(card.text).traced_names == ("tumor",)
    (datasets,) = blocks(REPOSITORY / "docs" / "training.md", "yaml")
    assert TypeAdapter(list[AnyDataset]).validate_python(yaml.safe_load(datasets.text)["datasets"])


def test_readme_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text("utf-8").splitlines()) <= README_LINES


def test_reference_has_every_command_and_every_setting() -> None:
    page = make_reference.PAGES["cli"]()
    words = [words for words, _ in make_reference.every_command()]
    assert "wsi-seg run" in words and all(f"## {command}\n" in page for command in words)
    settings = yaml.safe_load((REPOSITORY / "configs" / "run.yaml").read_text("utf-8"))
    page = make_reference.PAGES["settings"]()
    assert [key for key in settings if f"`{key}`" not in page] == []
    page = make_reference.PAGES["card"]()
    assert [name for name in ModelCard.model_fields if f"| `{name}` |" not in page] == []
    assert "How the output becomes probabilities." in page  # docstrings of fields


def measured(part: str, folder: str = "") -> Any:
    return json.loads((RESULTS / folder / f"{part}.json").read_text("utf-8"))


def of_peers() -> Iterator[str]:
    ours = "wsi_seg, default"
    ratios = measured("peers")["median_ratios_to"][ours]
    for title, name in {
        "wsi_seg, OpenVINO": "wsi_seg, OpenVINO",
        "wsi_seg, float32": "wsi_seg, float32",
        "plain loop over openslide-python": "plain loop",
        "MONAI": "MONAI",
        "TIAToolbox": "TIAToolbox",
    }.items():
        yield f"| {title} | {ratios[name]['seconds']:.2f} | {ratios[name]['peak_mib']:.2f} |"
    slow = measured("peers", "without_amx")["median_ratios_to"][ours]
    plain, monai, all_in_memory = (
        f"{slow[name]['seconds']:.2f}" for name in ("plain loop", "MONAI", "TIAToolbox, all in memory")
    )
    yield f"loop takes {plain}, MONAI {monai}, and TIAToolbox {all_in_memory} times the time"


def of_speed() -> Iterator[str]:
    ratio, without = (measured("end_to_end", folder)["median_ratio"] for folder in ("", "without_amx"))
    yield f"| {ratio:.2f}; {without:.2f} without AMX |"
    gpu = measured("throughput_gpu")["rows"][0]
    share = f"{gpu['efficiency'] * 100:.0f} %"
    yield f"| {gpu['slides_per_hour']:.0f} an hour; the network alone takes {share} of the time |"
    cores = [row["core_seconds"] for row in measured("beside")["rows"]]
    yield f"| {min(cores):.0f} to {max(cores):.0f} s of one core |"
    for what, of_2000 in (("JPEG", False), ("JPEG 2000", True)):
        rows = [row for row in measured("readers")["rows"] if (row["slide"] == "jpeg2000") == of_2000]
        speeds = [row["times_as_fast_per_core"]["openslide-python"] for row in rows]
        yield f"| Reading {what} tiles, per core | {min(speeds):.2f} to {max(speeds):.2f} times"
    export = measured("polygons")["export_30000"]["now"]
    yield f"{export['regions']:,} regions | {export['seconds']:.0f} s in {export['peak_mib']:.0f} MiB |"
    yield f"| {measured('resume')['again_seconds']:.1f} s |"
    starts = {row["what"]: f"{row['median_seconds']:.2f} s |" for row in measured("startup")["rows"]}
    first = starts["wsi-seg run, until the network gets the first tile of the model's own size"]
    yield f"| `wsi-seg --help` | {starts['wsi-seg --help']}"
    yield f"| `wsi-seg info` | {starts['wsi-seg info SLIDE']}"
    yield f"| `wsi-seg run`, until the network gets its first tile | {first}"


def of_memory() -> Iterator[str]:
    rows = measured("memory")["rows"]
    peaks = [row["peak_mib"] for row in rows]
    yield f"| {min(peaks)} to {max(peaks)} MiB, projected {rows[0]['projected_mib']:.0f} MiB |"
    usual, *_, slow = sorted(measured("flight")["rows"], key=lambda row: row["write_seconds"])
    yield f"| Tasks in flight over {slow['blocks']} blocks behind a slow writer | {slow['peak_in_flight']}"
    yield f"| {slow['peak_worker_mib'] / usual['peak_worker_mib']:.2f} |"


def of_the_memory_page() -> Iterator[str]:
    for row in measured("memory")["rows"]:
        yield f"| {row['size']:,}² | {row['peak_mib']} MiB |"
    export = measured("polygons")["export_30000"]["now"]
    traced = f"{export['regions']:,} regions of a 30,000² map are traced and written"
    yield f"{traced} in {export['peak_mib']:.0f} MiB"


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("benchmarks.md", of_peers),
        ("benchmarks.md", of_speed),
        ("benchmarks.md", of_memory),
        ("memory.md", of_the_memory_page),
    ],
)
def test_figures_are_those_that_were_measured(name: str, figures: Callable[[], Iterator[str]]) -> None:
    page = (REPOSITORY / "docs" / name).read_text("utf-8")
    assert [figure for figure in figures() if figure not in page] == []


@pytest.mark.parametrize("folder", [RESULTS, RESULTS / "without_amx"], ids=lambda folder: folder.name)
def test_pages_of_results_are_those_of_the_figures(folder: Path, tmp_path: Path) -> None:
    for path in folder.glob("*.json"):
        shutil.copy(path, tmp_path)
    assert tables.write_tables(tmp_path).read_text("utf-8") == (folder / "README.md").read_text("utf-8")
