"""Provenance of every benchmark: the machine, the versions, the command; and how it is written."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
import time
import zlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).resolve().parent / "results"
GIB = 2**30


def describe_machine() -> dict[str, Any]:
    """Return processor, cores that this process may use, memory, system, Python, PyTorch and GPU (or None).

    `load_average` is that of the last minute: near 0 where nothing else runs.
    """
    return {
        "cpu": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "ram_gib": _memory_gib(),
        "os": _system(),
        "python": platform.python_version(),
        "torch": versions("torch").get("torch"),
        "gpu": _gpu(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def versions(*names: str) -> dict[str, str]:
    """Return the version of each installed distribution; those that are not installed are left out."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def begin(**facts: Any) -> dict[str, Any]:
    """Return the head of a result, made before measuring: when, where, by which command, and facts."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "command": command(sys.argv),
        "machine": describe_machine(),
        **facts,
    }


def paired(what: str, to: str, seconds: Iterable[tuple[float, float]]) -> dict[str, Any]:
    """Return repeated measurements of `what`, each with one of something else from the same minute.

    Machines are shared and change their speed: the ratio within a pair is free of that, and how the ratios of
    several pairs differ is the noise that `compare.py` reckons with.

    Args:
        what: was measured.
        to: what it was measured next to.
        seconds: of both, one pair for each round.
    """
    return {"what": what, "to": to, "seconds": [list(pair) for pair in seconds]}


YARDSTICK = "a fixed piece of work"


def yardstick() -> float:
    """Return the CPU seconds of a fixed piece of work of one core, some 0.2: compressing and sorting."""
    values = np.random.default_rng(0).integers(0, 64, 1_500_000, np.uint8)
    start = time.process_time()
    for _ in range(2):
        zlib.compress(values, 1)
        np.sort(values.astype(np.float64), kind="heapsort")
    return time.process_time() - start


def command(words: Sequence[str]) -> str:
    """Return the command line of a script, without the folders and files of one machine."""
    kept = list(words[1:])
    for option in ("--output", "--work"):
        if option in kept:
            at = kept.index(option)
            del kept[at : at + 2]
    return shlex.join(["python", f"benchmarks/{Path(words[0]).name}", *kept])


def write_result(path: Path | None, result: dict[str, Any]) -> None:
    """Write a result as JSON, its floating-point numbers with four digits; None: nowhere."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rounded(result), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def rounded(value: Any, digits: int = 4) -> Any:
    """Return nested lists and dictionaries with their floating-point numbers cut to significant digits."""
    if isinstance(value, dict):
        return {key: rounded(part, digits) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(part, digits) for part in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    features = next((line.split() for line in lines if line.startswith("flags")), [])
    units = [unit for unit in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if unit in features]
    return f"{names[0] if names else platform.machine()} ({', '.join([platform.machine(), *units])})"


def _memory_gib() -> float | None:
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB, 1)


def _system() -> str:
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return platform.platform(terse=True)
    return f"{name}, {platform.system()} {platform.release().partition('-')[0]}"


def _gpu() -> str | None:
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # none here
        return None
    return "; ".join(done.stdout.split("\n")).strip("; ") or None
