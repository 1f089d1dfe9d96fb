"""Comparison of two sets of benchmark results: what is flagged as slower, and what is not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import processes

sys.path.append(str(Path(processes.__file__).parent))  # as for a script that is run
import compare
from machine import paired

SMALL = 0.03  # noise of a quiet machine: the most that a time is off
times = st.floats(1e-3, 1e3)
some_pairs = st.lists(st.tuples(times, times), min_size=1, max_size=6)


def made(part: str, *pairs: dict[str, Any], command: str = "python benchmarks/part.py") -> dict[str, Any]:
    return {part: {"command": command, "pairs": list(pairs)}}


@settings(deadline=None, max_examples=40)
@given(st.lists(some_pairs, min_size=1, max_size=4))
def test_identical_results_are_never_flagged(measured: list[list[tuple[float, float]]]) -> None:
    results = made("part", *(paired(str(i), "other", pairs) for i, pairs in enumerate(measured)))
    found = list(compare.changes(results, results))
    assert len(found) == len(measured)
    assert not any(one.flagged for one in found)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(times, min_size=2, max_size=6),
    st.lists(times, min_size=2, max_size=6),
    st.floats(0.1, 10),
    st.data(),
)
def test_a_third_slower_is_always_flagged_where_noise_is_small(
    old: list[float], new: list[float], ratio: float, data: st.DataObject
) -> None:
    """Times of the other program tell how fast the machine was at the moment: they differ as they like."""
    noisy = st.floats(1 - SMALL, 1 + SMALL)
    before = [(other * ratio * data.draw(noisy), other) for other in old]
    after = [(other * ratio * 1.3 * data.draw(noisy), other) for other in new]
    slower = compare.change("part", "what", "other", before, after)
    assert slower.flagged and slower.verdict == "**slower**"
    faster = compare.change("part", "what", "other", after, before)
    assert not faster.flagged


def test_a_change_within_noise_or_of_one_round_is_not_flagged() -> None:
    noisy = [(0.8, 1.0), (1.0, 1.0), (1.2, 1.0)]
    slower = [(1.31, 1.0)] * 3
    assert compare.change("part", "what", "other", noisy, slower).verdict == "**slower**"  # 31 > 10 + 20
    assert compare.change("part", "what", "other", noisy, [(1.29, 1.0)] * 3).verdict == "within noise"
    assert compare.change("part", "what", "other", [(1.0, 1.0)] * 2, [(1.09, 1.0)] * 2).verdict == "same"
    once = compare.change("part", "what", "other", noisy[:1], slower)
    assert not once.flagged and once.verdict == "one round: noise unknown"
    gone = compare.change("part", "what", "other", noisy, [])
    assert not gone.flagged and gone.verdict == "only in OLD"


def write(folder: Path, results: dict[str, Any]) -> str:
    folder.mkdir()
    for part, result in results.items():
        (folder / f"{part}.json").write_text(json.dumps(result), encoding="utf-8")
    return str(folder)


def outcome(monkeypatch: pytest.MonkeyPatch, old: str, new: str) -> int | str | None:
    """Return what the script exits with; None: all is well."""
    monkeypatch.setattr(sys, "argv", ["compare.py", old, new])
    try:
        compare.main()
    except SystemExit as end:
        return end.code
    return None


def test_the_script_fails_where_something_is_slower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = paired("quick", "other", [(1.0, 1.0), (1.02, 1.0)])
    slow = paired("quick", "other", [(2.0, 1.5), (2.02, 1.5)])
    kept = made("kept", paired("kept", "other", [(1.0, 1.0)]))
    old = write(tmp_path / "old", made("part", quick) | kept | made("odd", quick, command="small"))
    new = write(tmp_path / "new", made("part", slow) | kept | made("odd", slow, command="large"))
    assert outcome(monkeypatch, old, old) is None
    capsys.readouterr()
    assert outcome(monkeypatch, old, new) == "1 slower by more than 10% beyond noise"
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[2] == "| part | quick | other | 1.01 | 1.34 | +33% | 1% | **slower** |"
    assert len({line.count("|") for line in lines}) == 1 and len(lines) == 4
    assert "odd: measured with other options" in said.err


def test_results_of_a_git_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def git(*words: str) -> None:
        subprocess.run(
            ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True
        )

    quick = made("part", paired("quick", "other", [(1.0, 1.0), (1.0, 1.0)]))
    (tmp_path / "benchmarks").mkdir()
    write(tmp_path / "benchmarks" / "results", quick)
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "results")
    monkeypatch.setattr(compare, "REPOSITORY", tmp_path)
    monkeypatch.setattr(compare, "RESULTS", tmp_path / "benchmarks" / "results")
    assert compare.read_results("HEAD") == compare.read_results("HEAD:benchmarks/results") == quick
    assert outcome(monkeypatch, "HEAD", str(tmp_path / "benchmarks" / "results")) is None
    capsys.readouterr()
    assert outcome(monkeypatch, "HEAD", "nowhere") == 2
    assert capsys.readouterr().err.startswith("nowhere: neither a folder nor a git revision (")
    (tmp_path / "empty").mkdir()
    assert outcome(monkeypatch, "HEAD", str(tmp_path / "empty")) == 2
    assert "no results" in capsys.readouterr().err
    (tmp_path / "empty" / "part.json").write_text("{")
    assert outcome(monkeypatch, "HEAD", str(tmp_path / "empty")) == 2
    assert "part.json is no JSON" in capsys.readouterr().err
