"""The stages of a slide's graph, and the wall time of each."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable

# In the order in which the last of their tasks end.
STAGES = ("blocks", "pyramids", "polygons", "overview", "exports")


class Stages:
    """The stage that a slide is in: the first of which tasks are left. Tasks of later ones may have begun."""

    def __init__(self, tasks: Iterable[str], seconds: dict[str, float], begin: Callable[[str], None]) -> None:
        """Begin the first stage.

        Args:
            tasks: the stage of each task.
            seconds: gets the wall time of each stage, 0 for one without tasks; together that of the graph.
            begin: called with each stage that begins.
        """
        self._left, self._seconds, self._begin = Counter(tasks), seconds, begin
        self._todo = [stage for stage in STAGES if self._left[stage]]
        self._seconds |= dict.fromkeys(STAGES[:-1], 0.0)
        self._since = time.perf_counter()
        self._begin(self._todo[0])

    def one_ended(self, stage: str) -> None:
        """Note that a task of a stage has ended, and begin the next stage after the last one of the first."""
        self._left[stage] -= 1
        while self._todo and not self._left[self._todo[0]]:
            now = time.perf_counter()
            self._seconds[self._todo.pop(0)] = now - self._since
            self._since = now
            if self._todo:
                self._begin(self._todo[0])
