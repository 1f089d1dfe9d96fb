"""The prepared session on a GPU: its steps end in time, whatever one of them does."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks import processes

sys.path.append(str(Path(processes.__file__).parent))  # as for a script that is run
from gpu_session import SMALL, STEPS, Step, run_all

WRITES = "import pathlib, sys; pathlib.Path(sys.argv[-1]).write_text('{}'); print('said')"


def test_steps_fail_and_run_out_of_time_without_stopping_the_others(tmp_path: Path) -> None:
    (tmp_path / "fails.json").write_text("older")
    steps = [
        Step("writes", 60, ("-c", WRITES)),
        Step("fails", 60, ("-c", f"{WRITES}; sys.exit(3)")),
        Step("hangs", 0.5, ("-c", "import time; time.sleep(60)"), writes=False),
        Step("last", 60, ("-c", "print('last')"), writes=False),
    ]
    ends = run_all(steps, tmp_path, 120)
    assert [(one["step"], one["end"]) for one in ends] == [
        ("writes", "done"), ("fails", "failed"), ("hangs", "out of time"), ("last", "done"),
    ]  # fmt: skip
    assert json.loads((tmp_path / "writes.json").read_text()) == {}
    assert (tmp_path / "fails.json").read_text() == "older"
    assert (tmp_path / "writes.log").read_text() == "said\n"
    assert not list(tmp_path.glob("*.partial"))
    assert [one["end"] for one in run_all(steps[:1], tmp_path, 1)] == ["skipped"]


def test_both_lists_have_the_same_steps_within_eight_minutes_and_a_little() -> None:
    assert [step.name for step in STEPS] == [step.name for step in SMALL]
    assert sum(step.seconds for step in STEPS) <= 9 * 60  # at most; what is left of eight bounds the last
