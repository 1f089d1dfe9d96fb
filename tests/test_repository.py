"""Promises of the repository besides its code: configurations, versions, packaged files, dependencies."""

from __future__ import annotations

import ast
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import torch
import yaml
from hatchling.builders.wheel import WheelBuilder
from pydantic import BaseModel

import wsi_seg
from scripts.make_reference import run_yaml
from tests.made.datasets import MADE
from wsi_seg.core.card import WEIGHTS_NAME, CardClass, Normalization, read_card
from wsi_seg.datasets.base import Dataset
from wsi_seg.datasets.patients import Patients
from wsi_seg.datasets.split import Split
from wsi_seg.inference.models.network import build_network
from wsi_seg.inference.models.registry import BUNDLED, bundled_names
from wsi_seg.pipeline.settings import KEYS, RunSettings, make_settings, read_values
from wsi_seg.regions.settings import RegionSettings
from wsi_seg.slides.sample import sample_slide
from wsi_seg.training.config import (
    AugmentationConfig,
    LossConfig,
    OptimizerConfig,
    TrainConfig,
    read_train_config,
)

REPOSITORY = Path(__file__).resolve().parent.parent
CONFIGS = sorted((REPOSITORY / "configs").rglob("*.y*ml"))
MODULES = sorted((REPOSITORY / "wsi_seg").rglob("*.py"))
WEB = (
    REPOSITORY / "wsi_seg" / "viewer" / "web"
)  # sources of the page, of which scripts/build_viewer.py makes static/

SAMPLE_MD5 = "1ad6e35c9d17e4d85fb7e3143b328efe"
MOST_LINES = 400
MOST_FUNCTION_LINES = 60
BUNDLED_BYTES = 16 * 2**20

# Distributions whose import name is another.
IMPORT_NAMES = {
    "flufl-lock": "flufl", "openslide-python": "openslide", "pillow": "PIL", "pyyaml": "yaml",
    "scikit-learn": "sklearn", "bioimageio.core": "bioimageio",
    "jpype1": "jpype",
}  # fmt: skip
# Distributions that another one loads; see the reasons in pyproject.toml.
LOADED_BY_OTHERS = {"adlfs", "aiohttp", "gcsfs", "openslide-bin", "s3fs", "tensorboard"}

# Pieces are joined here so that this file does not hold what it forbids.
PRIVATE = re.compile(
    "|".join(
        [
            *(rf"(?<![\w.\-/]){folder}/" for folder in ("/wo" + "rk", "/ro" + "ot", "/ho" + "me")),
            *(
                re.escape(host)
                for host in ("py" + "pi.org", "python" + "hosted.org", "download.py" + "torch.org")
            ),
        ]
    )
)


def project() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))[
        "project"
    ]
    return table


def repository_files() -> list[Path]:
    """Files that git knows or would add."""
    if not (REPOSITORY / ".git").exists() or shutil.which("git") is None:
        pytest.skip("no git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    paths = [REPOSITORY / name for name in listed.split("\0") if name]
    return [path for path in paths if path.is_file()]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(REPOSITORY / "configs")))
def test_configuration_loads(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSI_SEG_DATA", str(tmp_path))
    if path.name == "slurm.yaml":  # for dask-jobqueue: tests/test_cluster.py makes jobs of it
        return
    if path.name == "run.yaml":
        assert make_settings(read_values(path)).model.reference in bundled_names()
        return
    config = read_train_config(path)
    assert config.data_dir == tmp_path and config.model.notice
    with torch.device("meta"):  # without its weights
        build_network(config.model)
    assert RegionSettings().resolve(config.model)  # what a run traces where it is not told
    assert config.model.name == path.name.replace("_", "-").removesuffix(".yaml")


def test_train_configuration_shows_every_key() -> None:
    values = yaml.safe_load((REPOSITORY / "configs" / "train.yaml").read_text(encoding="utf-8"))
    assert set(values) == set(TrainConfig.model_fields)
    for section, model in (
        ("augmentation", AugmentationConfig),
        ("loss", LossConfig),
        ("optimizer", OptimizerConfig),
    ):
        defaults = {k: f.default for k, f in model.model_fields.items()}
        assert model(**values[section]) == model(**defaults), section
    shown: dict[type[BaseModel], set[str]] = {}
    show(TrainConfig, values, shown)
    # What all kinds of data sets have is shown with one of them.
    of_any = set().union(*(keys for model, keys in shown.items() if issubclass(model, Dataset)))
    assert {model.model_fields["kind"].default for model in shown if issubclass(model, Dataset)} == {
        *MADE,
        "made_artifacts",
    }
    for model, keys in shown.items():
        known = of_any if issubclass(model, Dataset) else keys
        assert set(model.model_fields) <= known, model.__name__
    assert {Patients, Split, Normalization, CardClass} < shown.keys()


def show(annotation: Any, value: Any, shown: dict[type[BaseModel], set[str]]) -> None:
    """Collect the keys that a value has of each model in its annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        kind = annotation.model_fields.get("kind")
        if isinstance(value, dict) and (kind is None or kind.default == value["kind"]):
            shown.setdefault(annotation, set()).update(value)
            for name, field in annotation.model_fields.items():
                show(field.annotation, value.get(name), shown)
        return
    named = get_origin(annotation) is dict and isinstance(value, dict)
    for inner in get_args(annotation):
        for part in value.values() if named else value if isinstance(value, list) else [value]:
            show(inner, part, shown)


def test_run_configuration_shows_every_key_at_its_default() -> None:
    path = REPOSITORY / "configs" / "run.yaml"
    assert set(yaml.safe_load(path.read_text(encoding="utf-8"))) == set(KEYS)
    assert make_settings(read_values(path)) == RunSettings()
    # Where this fails: python scripts/make_reference.py yaml > configs/run.yaml
    assert path.read_text(encoding="utf-8") == run_yaml()


def test_scripts_and_benchmarks_import_what_there_is() -> None:
    """No test runs most of them, so that a name that has moved would go unnoticed."""
    for path in (p for folder in ("scripts", "benchmarks") for p in (REPOSITORY / folder).rglob("*.py")):
        for node in statements(path):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("wsi_seg"):
                module = REPOSITORY.joinpath(*str(node.module).split("."))
                source = module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
                words = re.findall(r"\w+", source.read_text(encoding="utf-8"))
                lacking = {alias.name for alias in node.names} - {*words, *(f.stem for f in module.glob("*"))}
                assert not lacking, (path.name, node.module, lacking)


def test_version_is_the_same_everywhere() -> None:
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    changes = re.findall(r"^## \[([\d.]+)\]", (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert {project()["version"], citation["version"], changes[0]} == {wsi_seg.__version__}


def test_sample_slide_is_the_one_in_its_notice() -> None:
    digest = hashlib.md5(sample_slide().read_bytes(), usedforsecurity=False).hexdigest()
    assert digest == SAMPLE_MD5
    assert digest in (sample_slide().parent / "NOTICE.txt").read_text(encoding="utf-8")


def test_bundled_models_are_whole_small_and_honest() -> None:
    assert "bcss-demo" in bundled_names()
    for name in bundled_names():
        card = read_card(BUNDLED / name)
        assert card.name == name
        assert (BUNDLED / name / WEIGHTS_NAME).stat().st_size < BUNDLED_BYTES
        assert card.license and card.notice and card.training_data and card.metrics


def test_no_file_names_a_machine_or_a_package_host() -> None:
    found = []
    for path in repository_files():
        data = path.read_bytes()
        if b"\0" in data:
            continue
        for number, line in enumerate(data.decode("utf-8").splitlines(), start=1):
            if PRIVATE.search(line):
                found.append(f"{path.relative_to(REPOSITORY)}:{number}: {line.strip()[:80]}")
    assert found == []


def test_modules_are_short() -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {str(path): count for path, count in lines.items() if count > MOST_LINES} == {}


def test_functions_are_short() -> None:
    lines = {
        f"{path.relative_to(REPOSITORY)}: {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in MODULES
        for node in statements(path)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: count for name, count in lines.items() if count > MOST_FUNCTION_LINES} == {}


def test_wheel_holds_every_file_of_the_package() -> None:
    builder = WheelBuilder(str(REPOSITORY))
    packed = {file.distribution_path for file in builder.recurse_included_files()}
    package = {
        path.relative_to(REPOSITORY).as_posix()
        for path in (REPOSITORY / "wsi_seg").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and WEB not in path.parents
    }
    assert {
        "wsi_seg/py.typed",
        "wsi_seg/slides/sample/CMU-1-Small-Region.svs",
        "wsi_seg/slides/sample/NOTICE.txt",
    } <= package
    assert packed == package


def test_dependencies_are_those_that_are_imported() -> None:
    required, extras = project()["dependencies"], project()["optional-dependencies"]
    tools = (
        "bench",
        "dashboard",
        "dev",
        "docs",
        "test",
    )  # what these install the package itself does not use
    optional = [line for name in extras.keys() - tools for line in extras[name]]
    declared = {_distribution(line) for line in [*required, *optional]} - {"wsi-seg"}
    imported = {name for path in MODULES for name in _imported(path)} - {"wsi_seg", *sys.stdlib_module_names}
    by_import = {IMPORT_NAMES.get(name, name.replace("-", "_")): name for name in declared}
    assert {name for name in imported if name not in by_import} == set(), "imported but not declared"
    unused = {name for module, name in by_import.items() if module not in imported}
    assert unused == LOADED_BY_OTHERS, "declared but not imported"


def test_tests_and_scripts_import_what_the_test_extra_installs() -> None:
    lines = [
        *project()["dependencies"],
        *(line for lines in project()["optional-dependencies"].values() for line in lines),
    ]
    declared = {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in map(_distribution, lines)}
    own = {"wsi_seg", "tests", "scripts", "benchmarks"}
    for folder in ("tests", "benchmarks", "benchmarks/peers"):  # a script's own folder is on its path
        own |= {path.stem for path in (REPOSITORY / folder).glob("*.py")}
    for folder in ("tests", "scripts", "benchmarks"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            if path.parent.name == "peers":  # these run in environments of their own
                continue
            assert _imported(path) - sys.stdlib_module_names - own - declared == set(), path


def test_dependencies_have_a_lower_bound_and_no_place() -> None:
    extras = project()["optional-dependencies"]
    for line in [*project()["dependencies"], *(line for lines in extras.values() for line in lines)]:
        assert re.fullmatch(r"[\w.-]+(\[[\w,]+\])?>=\d[\w.]*|wsi-seg\[[\w,]+\]", line), line


def test_make_explains_itself_and_refuses_an_old_python(tmp_path: Path) -> None:
    if shutil.which("make") is None:
        pytest.skip("no make")
    said = _make("help")
    assert said.returncode == 0
    for target in ("venv", "demo", "test", "lint", "format", "docs", "bench", "clean"):
        assert f"make {target} " in said.stdout
    old = tmp_path / "python3.8"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo "Python 3.8.10" || exit 1\n')
    old.chmod(0o755)
    refused = _make("venv", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}")
    assert refused.returncode != 0
    assert "3.11 or newer" in refused.stderr and "Python 3.8.10" in refused.stderr
    missing = _make("venv", "PYTHON=no-such-python", f"VENV={tmp_path / 'venv'}")
    assert missing.returncode != 0 and "no interpreter no-such-python" in missing.stderr
    assert not (tmp_path / "venv").exists()


def _make(*arguments: str) -> subprocess.CompletedProcess[str]:
    # MAKEFLAGS of an outer make (`make test`) would change what the inner one prints.
    outer = {
        key: value for key, value in os.environ.items() if not key.startswith("MAKE") and key != "MFLAGS"
    }
    return subprocess.run(
        ["make", *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, env=outer
    )


def _distribution(requirement: str) -> str:
    return re.split(r"[<>=!~;\[ ]", requirement)[0].lower()


@cache
def statements(path: Path) -> list[ast.AST]:
    """Return all statements of a module, also those in others."""
    found: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    for node in found:
        for part in ("body", "handlers", "orelse", "finalbody", "cases"):
            found += getattr(node, part, ())
    return found


def _imported(path: Path) -> set[str]:
    names = set()
    for node in statements(path):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names
