"""Compare two sets of results, and fail where a part has become slower.

    python benchmarks/compare.py OLD NEW

OLD and NEW are folders with results, or git revisions whose `benchmarks/results` is taken; REVISION:FOLDER
names another folder in the repository, as `HEAD~3:benchmarks/results/without_amx`.

Parts keep pairs in their results: seconds of something of this package, and seconds of something else from
the same round, as the network alone or another library. The change is that of the median ratio within the
pairs, so that a machine that was slower as a whole changes nothing. The noise of a result is half the range
of its ratios, in their median; that of a change is the root of the sum of both squares. Flagged is what has
become slower by more than 10 % and the noise together. Where a side has a single pair its noise is unknown,
and nothing is flagged. Parts that were measured with other options are not compared.

The exit code is 1 where something is flagged, 2 where there is nothing to compare.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from machine import RESULTS
from tables import markdown

REPOSITORY = Path(__file__).resolve().parent.parent
SLOWER = 0.10
"""Change of the median ratio, beyond noise, from which on something is flagged."""
Results = Mapping[str, Mapping[str, Any]]
Pair = Sequence[float]


@dataclass(frozen=True)
class Change:
    """Change of one figure between two results."""

    part: str
    what: str
    to: str
    old: float | None
    """Median ratio to `to`; None: not measured."""
    new: float | None
    noise: float | None
    """Share of the ratio; None: unknown, as one side has a single pair or none."""

    @property
    def share(self) -> float | None:
        """Change of the ratio in its old value: 0.3 is 30 % slower."""
        return None if self.old is None or self.new is None else self.new / self.old - 1

    @property
    def verdict(self) -> str:
        if self.share is None:
            return "only in OLD" if self.new is None else "only in NEW"
        if self.noise is None:
            return "one round: noise unknown"
        if abs(self.share) <= SLOWER:
            return "same"
        if abs(self.share) <= SLOWER + self.noise:
            return "within noise"
        return "**slower**" if self.share > 0 else "faster"

    @property
    def flagged(self) -> bool:
        """Slower, by more than 10 % beyond noise."""
        return self.share is not None and self.noise is not None and self.share > SLOWER + self.noise


def ratios(pairs: Sequence[Pair]) -> list[float]:
    """Return the ratio within each pair."""
    return [ours / other for ours, other in pairs]


def noise(values: Sequence[float]) -> float | None:
    """Return half the range of values in their median; None of fewer than two."""
    if len(values) < 2:
        return None
    return (max(values) - min(values)) / 2 / statistics.median(values)


def change(part: str, what: str, to: str, old: Sequence[Pair], new: Sequence[Pair]) -> Change:
    """Return what has become of one figure, from its pairs in both results."""
    before, after = ratios(old), ratios(new)
    noises = [noise(before), noise(after)]
    known = [one for one in noises if one is not None]
    return Change(
        part,
        what,
        to,
        statistics.median(before) if before else None,
        statistics.median(after) if after else None,
        math.hypot(*known) if len(known) == 2 else None,
    )


def changes(old: Results, new: Results) -> Iterator[Change]:
    """Yield the change of every figure that has pairs in one of the results."""
    for part in dict.fromkeys((*old, *new)):
        if part in other_options(old, new):
            continue
        before, after = (
            {(one["what"], one["to"]): one["seconds"] for one in results.get(part, {}).get("pairs", ())}
            for results in (old, new)
        )
        for key in dict.fromkeys((*before, *after)):
            yield change(part, *key, before.get(key, ()), after.get(key, ()))


def other_options(old: Results, new: Results) -> list[str]:
    """Return the parts that are in both results, but were measured by other commands."""
    return [part for part in old if part in new and old[part].get("command") != new[part].get("command")]


def without_pairs(old: Results, new: Results) -> list[str]:
    """Return the parts that have no pairs in either result."""
    return [
        part
        for part in dict.fromkeys((*old, *new))
        if not any(results.get(part, {}).get("pairs") for results in (old, new))
    ]


def table(found: Sequence[Change]) -> str:
    """Return one table, flagged figures first."""

    def ratio(value: float | None) -> str:
        return "—" if value is None else f"{value:.3g}"

    def percent(value: float | None, sign: str = "") -> str:
        return "—" if value is None else f"{value:{sign}.0%}"

    ordered = sorted(found, key=lambda one: not one.flagged)
    head = ("part", "what", "in time of", "OLD", "NEW", "change", "noise", "verdict")
    rows = [
        (one.part, one.what, one.to, ratio(one.old), ratio(one.new), percent(one.share, "+"),
         percent(one.noise), one.verdict)
        for one in ordered
    ]  # fmt: skip
    return markdown(head, rows, 3)


def read_results(name: str) -> dict[str, Any]:
    """Return the results of a folder or of a git revision, by part.

    Raises:
        SystemExit: there are none, or one of them is no JSON object.
    """
    texts = dict(_in_folder(Path(name)) if Path(name).is_dir() else _in_revision(name))
    if not texts:
        raise _nothing(f"{name}: no results (*.json)")
    found = {}
    for path, text in texts.items():
        try:
            result = json.loads(text)
        except ValueError as error:
            raise _nothing(f"{name}: {path} is no JSON: {error}") from None
        if not isinstance(result, dict):
            raise _nothing(f"{name}: {path} is no JSON object")
        found[PurePosixPath(path).stem] = result
    return found


def _in_folder(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.glob("*.json")):
        yield path.name, path.read_text(encoding="utf-8")


def _in_revision(name: str) -> Iterator[tuple[str, str]]:
    revision, _, folder = name.partition(":")
    folder = folder or RESULTS.relative_to(REPOSITORY).as_posix()
    for path in _git(name, "ls-tree", "--name-only", revision, f"{folder.rstrip('/')}/").splitlines():
        if path.endswith(".json"):
            yield path, _git(name, "show", f"{revision}:{path}")


def _git(name: str, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(REPOSITORY), *words], capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise _nothing(f"{name}: neither a folder nor a git revision ({said[0] if said else 'git failed'})")
    return done.stdout


def _nothing(message: str) -> SystemExit:
    print(message, file=sys.stderr)
    return SystemExit(2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", metavar="OLD", help="folder with results, REVISION, or REVISION:FOLDER")
    parser.add_argument("new", metavar="NEW", help="the same; compared with OLD")
    given = parser.parse_args()
    old, new = read_results(given.old), read_results(given.new)
    found = list(changes(old, new))
    for part in other_options(old, new):
        words = " and ".join(str(results[part].get("command")) for results in (old, new))
        print(f"{part}: measured with other options, so not compared: {words}", file=sys.stderr)
    if not found:
        raise _nothing(f"{given.old} and {given.new} have no pairs of the same options to compare")
    print(table(found))
    without = without_pairs(old, new)
    if without:
        print(f"\nno pairs of {', '.join(without)}", file=sys.stderr)
    slower = sum(one.flagged for one in found)
    if slower:
        raise SystemExit(f"{slower} slower by more than {SLOWER:.0%} beyond noise")


if __name__ == "__main__":
    main()
