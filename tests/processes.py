"""Functions that tests run in other processes, which import this module and no more than it needs."""

from __future__ import annotations

import hashlib
import os
import signal
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from wsi_seg.core import storage
from wsi_seg.core.geometry import Box
from wsi_seg.core.system import own_cores
from wsi_seg.slides.local_copies import SlideCache
from wsi_seg.slides.readers import open_slide

SIZE = 200_000
NAMES = ("a.bin", "b.bin", "c.bin", "d.bin")


def content(number: int) -> bytes:
    """Return what the file `NAMES[number]` holds."""
    return np.random.default_rng(number).bytes(SIZE)


def corner(url: str) -> bytes:
    """Return pixels of a slide at l0 (5000, 5000)."""
    with open_slide(url) as slide:
        return slide.read_level(0, Box(5000, 5000, 5200, 5200)).tobytes()


def double(number: int) -> int:
    return 2 * number


def process_id(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def die(path: str) -> str:
    """End the process, and note that it was tried."""
    with Path(path).open("a") as file:
        file.write("x")
    os.kill(os.getpid(), signal.SIGKILL)
    return "never"


def environment(name: str) -> str | None:
    return os.environ.get(name)


def die_once(path: str) -> str:
    """End the process the first time."""
    if not Path(path).exists():
        Path(path).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def die_once_then_log(path: str) -> str:
    """End the process the first time; write the path into a log then."""
    done = die_once(path)
    with Path(path).with_name("log").open("a") as file:
        file.write(f"{path}\n")
    return done


def seen_here(_: int) -> tuple[int, str | None, str | None, frozenset[int]]:
    """Return this process, its masks of CUDA and HIP, and its cores."""
    time.sleep(0.2)
    masks = (os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"))
    return os.getpid(), *masks, frozenset(own_cores())


def abandon(cache: SlideCache, url: str) -> None:
    """Die in the middle of a fetch, as by SIGKILL."""

    def stream(self: storage.RemoteFile) -> Iterator[bytes]:
        yield b"half"
        os._exit(9)

    storage.RemoteFile.stream = stream  # type: ignore[method-assign,assignment]
    with cache.lease(url):
        pass


def use_in_turn(cache: SlideCache, address: str, seed: int) -> list[str]:
    """Lease files in a random order and return what is wrong with them."""
    wrong = []
    for number in np.random.default_rng(seed).integers(0, len(NAMES), 25):
        name = NAMES[number]
        with cache.lease(f"{address}/{name}") as path:
            time.sleep(0.002)
            expected = hashlib.sha256(content(int(number))).hexdigest()
            if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
                wrong.append(name)
    return wrong


def peak_memory(function: Callable[..., object], *args: object) -> int:
    """Return the most bytes that Python held at a time in a call, beyond those held before it."""
    tracemalloc.start()
    try:
        function(*args)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
