"""The recipes of containers, as far as text goes: no image is built here."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDER = REPOSITORY / "scripts" / "containers"


def project() -> dict[str, object]:
    return dict(tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"])


def instructions() -> list[tuple[str, str]]:
    """Instructions of the Dockerfile, each with its arguments on one line."""
    text = (FOLDER / "Dockerfile").read_text("utf-8")
    lines = re.sub(r"^#.*\n", "", text, flags=re.M).replace("\\\n", " ").splitlines()
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines if line)]


def sections() -> dict[str, list[str]]:
    """Lines of the Apptainer definition by section; its header is ""."""
    found: dict[str, list[str]] = {"": []}
    name = ""
    for line in (FOLDER / "wsi-seg.def").read_text("utf-8").splitlines():
        if line.startswith("%"):
            name = line[1:]
            found[name] = []
        elif line.strip() and not line.startswith("#"):
            found[name].append(line.strip())
    return found


def copied() -> list[str]:
    """Files and folders of the build context that the Dockerfile copies."""
    words = [shlex.split(rest) for word, rest in instructions() if word == "COPY" and "--from" not in rest]
    return [source for *sources, _ in words for source in sources]


def test_what_is_copied_exists_and_is_in_the_build_context() -> None:
    definition = [line.split()[0] for line in sections()["files"]]
    assert sorted(copied()) == sorted(definition) and len(copied()) == 8
    lines = (FOLDER / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    kept = [line[1:] for line in lines if line.startswith("!")]
    for name in copied():
        assert (REPOSITORY / name).exists() and name in kept
        assert not any(fnmatch.fnmatch(name, line) for line in lines if line[0] not in "!#*"), name
    read = {project()["readme"], *project()["license-files"], "pyproject.toml"}  # type: ignore[misc]
    assert read <= set(copied()), "hatchling reads them for the wheel"


def test_base_and_version_are_the_same_in_all_recipes() -> None:
    header = dict(line.split(": ") for line in sections()[""])
    arguments = dict(rest.split("=", 1) for word, rest in instructions() if word == "ARG")
    assert arguments["BASE"] == f"docker.io/library/{header['From']}"
    assert re.fullmatch(r"debian:\d+\.\d+-slim", header["From"])
    assert [rest.split()[0] for word, rest in instructions() if word == "FROM"] == ["${BASE}"] * 2
    in_definition = dict(line.split("=", 1) for line in sections()["arguments"])
    assert in_definition["EXTRAS"] == arguments["EXTRAS"]
    labels = next(shlex.split(rest) for word, rest in instructions() if word == "LABEL")
    version = f"org.opencontainers.image.version={project()['version']}"
    assert version in labels and version.replace("=", " ") in sections()["labels"]


def test_every_requirement_is_pinned_to_a_version_that_it_takes() -> None:
    lines = (FOLDER / "constraints.txt").read_text("utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    extras = dict(rest.split("=", 1) for word, rest in instructions() if word == "ARG")["EXTRAS"].split(",")
    declared: dict[str, list[str]] = project()["optional-dependencies"]  # type: ignore[assignment]
    asked: list[str] = [*project()["dependencies"], *(r for e in extras for r in declared[e])]  # type: ignore[misc]
    system = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["build-system"]["requires"]
    inner = [Requirement(line) for line in asked if line.startswith("wsi-seg[")]
    asked += [line for one in inner for extra in one.extras for line in declared[extra]]
    for requirement in map(Requirement, [*asked, *system]):
        if requirement.name != "wsi-seg":
            pin = pins[canonicalize_name(requirement.name)]  # where this fails: scripts/containers/lock.sh
            assert requirement.specifier.contains(pin), f"{requirement} is pinned to {pin}"


def test_the_image_runs_as_a_user_and_is_written_to_in_its_volumes_alone() -> None:
    final = instructions()[[word for word, _ in instructions()].index("COPY", 12) :]
    last = dict(final)
    uid, gid = last["USER"].split(":")
    assert int(uid) >= 1000 and gid == "0"  # any user in group 0 must do: OpenShift
    volumes = json.loads(last["VOLUME"])
    made = next(rest for word, rest in instructions() if "install -d -m 1777" in rest)
    assert set(volumes) == set(re.findall(r" (/\w+)", made.split("-m 1777")[1]))
    variables = dict(pair.split("=", 1) for pair in shlex.split(last["ENV"]))
    places = [variables[name] for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")]
    assert all(place.startswith("/cache") for place in places) and "/cache" in volumes
    scripts: dict[str, str] = project()["scripts"]  # type: ignore[assignment]
    *init, program = json.loads(last["ENTRYPOINT"])
    assert init == ["tini", "--"] and program in scripts  # as an array: no shell between, which keeps signals
    assert last["HEALTHCHECK"].endswith('CMD ["wsi-seg", "--version"]')


@pytest.mark.parametrize("name", ["install.sh", "lock.sh", "wsi-seg.def"])
def test_shell_scripts_parse(name: str, tmp_path: Path) -> None:
    shell = shutil.which("sh")
    if shell is None:
        pytest.skip("no sh")
    path = FOLDER / name
    if name == "wsi-seg.def":
        path = tmp_path / "post.sh"
        path.write_text("\n".join(sections()["post"] + sections()["runscript"] + sections()["test"]))
    assert subprocess.run([shell, "-n", path], capture_output=True, text=True).stderr == ""


def test_install_refuses_an_unknown_step() -> None:
    if shutil.which("sh") is None:
        pytest.skip("no sh")
    said = subprocess.run(["sh", FOLDER / "install.sh", "all"], capture_output=True, text=True)
    assert said.returncode == 2 and "name one, dependencies or package" in said.stderr
