"""Forward passes of a process: a few at a time, over all the blocks that it has in flight.

A network on a CPU that works on one tile with all cores leaves some of them waiting after every layer. So
there are as many passes at a time as cores, on one core each, and as what is done beside them takes a core
from one pass only, nothing waits for it. On a GPU there is one pass at a time.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from wsi_seg.core.errors import Interrupted
from wsi_seg.inference.blocks import Prediction, Predictor, Run, predict


class ForwardPasses:
    """Threads that predict, each with its share of the cores."""

    def __init__(self, predictor: Predictor, passes: int) -> None:
        """Make the threads.

        Args:
            predictor: one with an attribute `passes` may be called so often at a time, and its method
                `share(passes)`, called in each thread, leaves cores to the others; else it is called by one
                thread at a time.
            passes: at most at a time.
        """
        self.predictor = predictor
        self.passes = max(1, min(passes, getattr(predictor, "passes", 1)))
        self._pool = ThreadPoolExecutor(self.passes, "forward", initializer=self.begin)

    def begin(self) -> None:
        """Leave cores to the passes, from now on in this thread."""
        share = getattr(self.predictor, "share", None)
        if share is not None:
            share(self.passes)

    def of_block(self, margin: int, stop: threading.Event | None) -> Run:
        """Return a function from the batches of one block to their predictions, see `blocks.Run`.

        Args:
            margin: see `blocks.Predictor`.
            stop: once it is set, the next pass raises Interrupted.
        """

        @contextmanager
        def run(batches: Iterable[NDArray[np.uint8]]) -> Iterator[Iterator[Prediction]]:
            self.begin()  # as the thread of the block stitches meanwhile
            waiting: deque[Future[Prediction]] = deque()
            try:
                yield self._in_order(batches, margin, stop, waiting)
            finally:
                for future in waiting:
                    future.cancel()
                wait(waiting)

        return run

    def _in_order(
        self,
        batches: Iterable[NDArray[np.uint8]],
        margin: int,
        stop: threading.Event | None,
        waiting: deque[Future[Prediction]],
    ) -> Iterator[Prediction]:
        for batch in batches:
            waiting.append(self._pool.submit(self._pass, batch, margin, stop))
            # One more than run, so that none idles while this block stitches.
            if len(waiting) > self.passes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _pass(self, batch: NDArray[np.uint8], margin: int, stop: threading.Event | None) -> Prediction:
        if stop is not None and stop.is_set():
            raise Interrupted("interrupted")
        return predict(self.predictor, batch, margin)

    def close(self) -> None:
        """End the threads, and let the predictor have all cores again."""
        self._pool.shutdown(cancel_futures=True)
        unshare = getattr(self.predictor, "unshare", None)
        if unshare is not None:
            unshare()
