"""Contract of every export format: run each of `CHECKS` on a finished result that has regions.

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_my_format(check, tmp_path):
        check("my-format", export_source(Path("results/slide"), RegionSettings()), tmp_path)

Each check takes the name of the format in `FORMATS`, what it gets of a result, and an empty folder; it raises
AssertionError where the contract is broken. Whether regions and pixels lie where they should is for a test of
each format's own, through the program that its users have.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from wsi_seg.core.errors import OutputError, UsageError, WsiSegError
from wsi_seg.exporters.source import ExportSource
from wsi_seg.exporters.table import find_format
from wsi_seg.maps.maps import Maps
from wsi_seg.maps.shards import NODE

# Formats that copy shards as they are, without a look into them.
COPYING = ("ozx",)
OTHER = "a.docx"


def check_whole(name: str, source: ExportSource, scratch: Path) -> None:
    """It writes the path that it was given, and nothing else; the maps stay as they are."""
    form, before = find_format(name), _digest(source.maps.path)
    path = scratch / f"result{form.ending}"
    done = form.load()(source, path)
    assert done.path == path and done.content and "\n" not in done.content
    assert [item.name for item in scratch.iterdir()] == [path.name]
    files = [path] if path.is_file() else [item for item in path.rglob("*") if item.is_file()]
    assert files and all(file.stat().st_size for file in files)
    assert _digest(source.maps.path) == before


def check_names(name: str, source: ExportSource, scratch: Path) -> None:
    """A path of another ending, or of an ending alone, is refused in one line that names the right one."""
    form = find_format(name)
    for wrong in (OTHER, form.ending):
        message = _refused(UsageError, partial(form.check_path, name, scratch / wrong))
        assert form.ending in message and wrong in message
    form.check_path(name, scratch / f"a{form.ending}")


def check_again(name: str, source: ExportSource, scratch: Path) -> None:
    """A file that is there is replaced; a folder is refused, and stays."""
    form = find_format(name)
    path = scratch / f"result{form.ending}"
    export = form.load()
    export(source, path)
    if path.is_file():
        path.write_bytes(b"old")
        export(source, path)
        assert path.read_bytes() != b"old"
    else:
        before = _digest(path)
        assert str(path) in _refused(OutputError, lambda: export(source, path))
        assert _digest(path) == before
    assert [item.name for item in scratch.iterdir()] == [path.name]


def check_no_place(name: str, source: ExportSource, scratch: Path) -> None:
    """A folder that is missing is one line that names the path."""
    form = find_format(name)
    path = scratch / "missing" / f"result{form.ending}"
    assert str(path.parent) in _refused(OutputError, lambda: form.load()(source, path))
    assert not list(scratch.iterdir())


def check_damaged_maps(name: str, source: ExportSource, scratch: Path) -> None:
    """Shards that were cut off are one line, and leave nothing behind."""
    form = find_format(name)
    copy = Path(shutil.copytree(source.maps.path, scratch / "maps.zarr"))
    for shard in copy.rglob("*"):
        if shard.is_file() and shard.name != NODE:
            shard.write_bytes(shard.read_bytes()[:-7])
    path = scratch / f"result{form.ending}"
    damaged = replace(source, maps=Maps.open(copy))
    if name in COPYING:
        form.load()(damaged, path)
        return
    assert "damaged" in _refused(OutputError, lambda: form.load()(damaged, path))
    assert [item.name for item in scratch.iterdir()] == [copy.name]


CHECKS: tuple[Callable[[str, ExportSource, Path], None], ...] = (
    check_whole,
    check_names,
    check_again,
    check_no_place,
    check_damaged_maps,
)


def _digest(path: Path) -> str:
    """Return a hash of a file, or of the names and bytes of all files of a folder."""
    digest = hashlib.sha256()
    for file in sorted([path] if path.is_file() else path.rglob("*")):
        if file.is_file():
            digest.update(file.relative_to(path.parent).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _refused(kind: type[WsiSegError], action: Callable[[], object]) -> str:
    """Return the one line with which `action` refuses."""
    try:
        action()
    except kind as error:
        assert "\n" not in str(error), str(error)
        return str(error)
    raise AssertionError("accepted although it is wrong")
