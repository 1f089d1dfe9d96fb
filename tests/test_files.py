"""Files appear whole or not at all, and what the operating system refuses is one line."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from wsi_seg.core.errors import DataError, OutputError
from wsi_seg.core.files import atomic_path, new_folder, reading, reason_of, writing


@pytest.mark.parametrize("shared", [False, True])
def test_a_file_is_replaced_when_its_successor_is_whole(tmp_path: Path, shared: bool) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with atomic_path(path, shared=shared, sync=True) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old" and temporary.parent == tmp_path
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_a_failed_writer_leaves_the_file_as_it_was(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises((RuntimeError, KeyboardInterrupt, OutputError)) as raised:
        with atomic_path(path) as temporary:
            temporary.write_text("ne")
            raise error
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    if isinstance(error, OSError):
        assert isinstance(raised.value, OutputError) and raised.value.disk_is_full
        assert str(raised.value) == f"{path}: cannot be written (full)"
    else:
        assert raised.value is error


def test_two_writers_of_a_shared_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with atomic_path(path, shared=True) as first, atomic_path(path, shared=True) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]


def test_the_umask_holds_for_what_is_renamed_into_place(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    before = os.umask(0o027)
    try:
        with atomic_path(path) as temporary:
            temporary.touch()
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


def test_what_a_killed_writer_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    (tmp_path / "a.json.tmp").write_text("half of an earlier one")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_a_refusal_names_the_file_and_the_reason(tmp_path: Path) -> None:
    missing = tmp_path / "none" / "a.txt"
    with pytest.raises(DataError, match=r"a\.txt: cannot be read \(No such file or directory\)$"):
        with reading(tmp_path, DataError):
            missing.read_text()
    with pytest.raises(
        OutputError, match=r"a\.txt: cannot be written \(No such file or directory\)$"
    ) as raised:
        with writing(tmp_path):
            missing.write_text("")
    assert raised.value.errno == errno.ENOENT
    with pytest.raises(OutputError, match=r"a\.txt: cannot be written \(No such file or directory\)$"):
        with atomic_path(missing) as temporary:
            temporary.touch()
    assert reason_of(OSError("of a library")) == "of a library"


def test_a_new_folder_leaves_what_others_made(tmp_path: Path) -> None:
    other = tmp_path / "made.partial"
    other.mkdir()
    (other / "mine").touch()
    with new_folder(tmp_path / "made") as folder:
        folder.mkdir()
    with pytest.raises(KeyError), new_folder(tmp_path / "broken") as folder:
        folder.mkdir()
        raise KeyError
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "made.partial"]
    assert (other / "mine").is_file()
