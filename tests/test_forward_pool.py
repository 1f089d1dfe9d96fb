"""Forward passes of a process: in order, so many at a time, and none after a stop or a fault."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from wsi_seg.core.errors import Interrupted, ModelError
from wsi_seg.core.threads import cancellable
from wsi_seg.execution import tasks
from wsi_seg.execution.graph import LocalWorkers
from wsi_seg.inference.blocks import ForwardPool


class Watched:
    """Returns its batch and a little later, and counts how many calls run at a time."""

    def __init__(self, passes: int = 1) -> None:
        self.passes = passes
        self.calls = self.most = self._inside = 0
        self.shared: list[int] = []
        self.returned = False
        self._lock = threading.Lock()

    def __call__(self, tiles: NDArray[np.uint8], /, margin: int = 0) -> NDArray[np.uint8]:
        with self._lock:
            self.calls += 1
            self._inside += 1
            self.most = max(self.most, self._inside)
        time.sleep(0.002 * (1 + int(tiles[0]) % 3))  # later ones may end sooner
        with self._lock:
            self._inside -= 1
        if tiles[0] == 99:
            raise ModelError("not enough memory")
        return tiles

    def share(self, passes: int) -> None:
        self.shared.append(passes)

    def unshare(self) -> None:
        self.returned = True


def batches(count: int) -> Iterator[NDArray[np.uint8]]:
    for number in range(count):
        yield np.array([number], np.uint8)


def predicted(pool: ForwardPool, count: int) -> list[int]:
    return [int(one.probabilities[0]) for one in pool.predict(batches(count), 0) if one.seconds > 0]


@pytest.fixture
def made() -> Iterator[Any]:
    """Make pools that end with the test."""
    open_ones: list[ForwardPool] = []

    def make(predictor: Watched, passes: int) -> ForwardPool:
        open_ones.append(ForwardPool(predictor, passes))
        return open_ones[-1]

    yield make
    for pool in open_ones:
        pool.close()


def test_results_come_in_order_and_so_many_at_a_time_over_all_blocks(made: Any) -> None:
    predictor = Watched(passes=3)
    pool = made(predictor, 8)  # more than the predictor does well with
    found: dict[int, list[int]] = {}
    blocks = [threading.Thread(target=lambda n=n: found.update({n: predicted(pool, 40)})) for n in range(2)]
    for block in blocks:
        block.start()
    for block in blocks:
        block.join()
    assert found == {0: list(range(40)), 1: list(range(40))}
    assert predictor.most == 3
    assert set(predictor.shared) == {3}


def test_a_predictor_that_does_not_say_so_is_called_by_one_at_a_time(made: Any) -> None:
    predictor = Watched()
    del predictor.passes
    assert predicted(made(predictor, 4), 10) == list(range(10))
    assert predictor.most == 1


def test_batches_are_made_no_sooner_than_needed(made: Any) -> None:
    drawn: list[int] = []

    def watched() -> Iterator[NDArray[np.uint8]]:
        for batch in batches(30):
            drawn.append(int(batch[0]))
            yield batch

    with closing(made(Watched(passes=2), 2).predict(watched(), 0)) as results:
        next(results)
        assert len(drawn) == 3  # one to hand out, and two that run or wait


def test_nothing_is_predicted_after_a_stop_or_a_fault(made: Any) -> None:
    predictor = Watched(passes=2)
    pool = made(predictor, 2)
    stop = threading.Event()
    with pytest.raises(Interrupted), cancellable(stop), closing(pool.predict(batches(50), 0)) as results:
        for number, _ in enumerate(results):
            if number == 4:
                stop.set()
    assert predictor.calls < 12
    predictor.calls = 0
    with pytest.raises(ModelError):
        list(pool.predict((np.array([n], np.uint8) for n in range(98, 200)), 0))
    assert predictor.calls <= 5
    assert predictor._inside == 0  # none goes on behind the block's back


def test_the_cores_are_given_back_in_the_end() -> None:
    predictor = Watched(passes=2)
    pool = ForwardPool(predictor, 2)
    predicted(pool, 3)
    pool.close()
    assert predictor.returned


def test_runs_in_one_process_do_not_end_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_forward_pools", {})
    monkeypatch.setattr(tasks, "_holders", 0)
    first, second = Watched(passes=2), Watched(passes=2)
    one, other = LocalWorkers(), LocalWorkers()
    with closing(tasks._forward_pool(first, 2).predict(batches(20), 0)) as results:
        next(results)
        assert predicted(tasks._forward_pool(second, 2), 5) == list(range(5))  # another model meanwhile
        other.close()
        assert [int(one.probabilities[0]) for one in results] == list(range(1, 20))
    kept = tasks._forward_pool(second, 2)
    assert predicted(kept, 3) == [0, 1, 2] and not second.returned
    one.close()
    assert second.returned
    with pytest.raises(RuntimeError):
        predicted(kept, 1)
