"""Work done ahead of whoever uses its results, on the cores of this machine."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from wsi_seg.core.system import usable_cores

Item = TypeVar("Item")
Result = TypeVar("Result")

# NumPy and the codecs let other threads run, Python does not: more threads than these wait for each other.
MOST_THREADS = 8


def map_ahead(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield `function(item)` of each item, in their order, while threads work on the next few.

    Args:
        function: called in other threads, several at a time.
        items: taken in the caller's thread, no more than one for each thread ahead of what was yielded.
    """
    threads = min(usable_cores(), MOST_THREADS)
    if threads == 1:
        yield from map(function, items)
        return
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, "ahead") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
