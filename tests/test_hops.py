"""The way of a tile: from the command `run` to the network, over few modules and two pools of threads.

Pools are followed where they are given work: what a pool's thread calls goes on from the stack that submitted
it. The network itself looks at that chain, before its first layer.
"""

from __future__ import annotations

import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import wsi_seg.inference.models.predictor
from wsi_seg.cli import app

Hop = tuple[str, str, str]
"""Thread, module and function."""

MOST_MODULES = 7
POOLS = ("block", "forward")


class Followed(threading.local):
    """The hops by which the work of this thread was submitted."""

    hops: tuple[Hop, ...] = ()


def hops_here(before: tuple[Hop, ...]) -> tuple[Hop, ...]:
    """Return the hops by which the caller is reached, `before` included, those within wsi_seg only."""
    frame, found = sys._getframe(1), []
    while frame is not None:
        module = str(frame.f_globals.get("__name__"))
        if module.startswith("wsi_seg."):
            found.append((threading.current_thread().name, module, frame.f_code.co_name))
        frame = frame.f_back
    return (*before, *reversed(found))


@pytest.fixture
def chains(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Hop, ...]]:
    """Return the list that gets the chain of each forward pass."""
    followed, seen = Followed(), []
    submit, load = ThreadPoolExecutor.submit, wsi_seg.inference.models.predictor.load_predictor

    def following(self: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        hops = hops_here(followed.hops)

        def call() -> Any:
            followed.hops = hops
            return function(*args, **kwargs)

        return submit(self, call)

    def hooked(*args: Any, **kwargs: Any) -> Any:
        predictor = load(*args, **kwargs)
        predictor._network.register_forward_pre_hook(lambda *_: seen.append(hops_here(followed.hops)))
        return predictor

    monkeypatch.setattr(ThreadPoolExecutor, "submit", following)
    monkeypatch.setattr(wsi_seg.inference.models.predictor, "load_predictor", hooked)
    return seen


def test_a_tile_gets_from_the_command_to_the_network_in_few_modules_and_two_pools(
    chains: list[tuple[Hop, ...]], made_svs: Path, tiny_model: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(
        tiny_model, tmp_path / "model"
    )  # this process may hold the predictor of the other
    words = ["run", str(made_svs), "-m", str(model), "-o", str(tmp_path / "out"), "--device", "cpu"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert chains
    for chain in {tuple((thread.rstrip("0123456789"), *hop) for thread, *hop in c) for c in chains}:
        begin = next(i for i, (_, module, _) in enumerate(chain) if module.startswith("wsi_seg.cli."))
        way = chain[begin:]
        for thread, module, function in way:
            print(f"{thread:12} {module:36} {function}")
        modules = list(dict.fromkeys(module for _, module, _ in way))
        threads = [thread for thread, _ in groupby(thread for thread, _, _ in way)]
        print(f"{len(modules)} modules, {len(way)} frames, threads {' > '.join(threads)}")
        assert modules[0] == "wsi_seg.cli.run"
        assert modules[-1] == "wsi_seg.inference.models.predictor"
        assert len(modules) <= MOST_MODULES
        assert threads == ["MainThread", *(f"{pool}_" for pool in POOLS)]
