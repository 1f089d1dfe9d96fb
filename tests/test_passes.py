"""Forward passes of a process: in order, so many at a time, and none after a stop or a fault."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from wsi_seg.core.errors import Interrupted, ModelError
from wsi_seg.execution import tasks as jobs
from wsi_seg.execution.graph import LocalWorkers
from wsi_seg.inference.forward_pool import ForwardPasses


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


def predicted(passes: ForwardPasses, count: int, stop: threading.Event | None = None) -> list[int]:
    with passes.of_block(0, stop)(batches(count)) as results:
        return [int(one.probabilities[0]) for one in results if one.seconds > 0]


@pytest.fixture
def made() -> Iterator[Any]:
    """Make passes that end with the test."""
    open_ones: list[ForwardPasses] = []

    def make(predictor: Watched, passes: int) -> ForwardPasses:
        open_ones.append(ForwardPasses(predictor, passes))
        return open_ones[-1]

    yield make
    for passes in open_ones:
        passes.close()


def test_results_come_in_order_and_so_many_at_a_time_over_all_blocks(made: Any) -> None:
    predictor = Watched(passes=3)
    passes = made(predictor, 8)  # more than the predictor does well with
    found: dict[int, list[int]] = {}
    blocks = [threading.Thread(target=lambda n=n: found.update({n: predicted(passes, 40)})) for n in range(2)]
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

    passes = made(Watched(passes=2), 2)
    with passes.of_block(0, None)(watched()) as results:
        next(results)
        assert len(drawn) == 3  # one to hand out, and two that run or wait


def test_nothing_is_predicted_after_a_stop_or_a_fault(made: Any) -> None:
    predictor = Watched(passes=2)
    passes = made(predictor, 2)
    stop = threading.Event()
    with pytest.raises(Interrupted), passes.of_block(0, stop)(batches(50)) as results:
        for number, _ in enumerate(results):
            if number == 4:
                stop.set()
    assert predictor.calls < 12
    predictor.calls = 0
    with (
        pytest.raises(ModelError),
        passes.of_block(0, None)(np.array([n], np.uint8) for n in range(98, 200)) as results,
    ):
        list(results)
    assert predictor.calls <= 5
    assert predictor._inside == 0  # none goes on behind the block's back


def test_the_cores_are_given_back_in_the_end() -> None:
    predictor = Watched(passes=2)
    passes = ForwardPasses(predictor, 2)
    predicted(passes, 3)
    passes.close()
    assert predictor.returned


def test_runs_in_one_process_do_not_end_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_forward", {})
    monkeypatch.setattr(jobs, "_users", 0)
    first, second = Watched(passes=2), Watched(passes=2)
    one, other = LocalWorkers(), LocalWorkers()
    with jobs._passes(first, 2).of_block(0, None)(batches(20)) as results:
        next(results)
        assert predicted(jobs._passes(second, 2), 5) == list(range(5))  # another model meanwhile
        other.close()
        assert [int(one.probabilities[0]) for one in results] == list(range(1, 20))
    kept = jobs._passes(second, 2)
    assert predicted(kept, 3) == [0, 1, 2] and not second.returned
    one.close()
    assert second.returned
    with pytest.raises(RuntimeError):
        predicted(kept, 1)
