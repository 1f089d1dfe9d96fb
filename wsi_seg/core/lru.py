"""A cache of the values that were used last."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class LRUCache(Generic[Value]):
    """The values that were used last, as many as their weights allow; for any number of threads."""

    def __init__(
        self,
        maxsize: int,
        weight: Callable[[Value], int] = lambda _: 1,
        on_evict: Callable[[Value], None] = lambda _: None,
    ) -> None:
        """Make an empty cache.

        Args:
            maxsize: maximum sum of the weights: a number of values, or bytes.
            weight: of a value, such as its bytes.
            on_evict: called with each value that is dropped, outside of the lock.
        """
        self._maxsize, self._weight, self._on_evict = maxsize, weight, on_evict
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self._lock = threading.Lock()
        self.held = 0
        """Sum of the weights."""

    def get(self, key: Hashable) -> Value | None:
        """Return the value of a key, None where it is not held."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: Hashable, value: Value) -> None:
        """Keep a value, and drop those that were used longest ago; one that is too heavy is not kept."""
        dropped = []
        with self._lock:
            old = self._values.pop(key, None)
            if old is not None:
                self.held -= self._weight(old)
                dropped.append(old)
            self._values[key] = value
            self.held += self._weight(value)
            while self.held > self._maxsize:
                _, oldest = self._values.popitem(last=False)
                self.held -= self._weight(oldest)
                dropped.append(oldest)
        for one in dropped:
            if one is not value:
                self._on_evict(one)

    def get_or_make(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return the value of a key, made where it is not held."""
        value = self.get(key)
        if value is None:
            value = make()
            self.put(key, value)
        return value

    def drop(self, key: Hashable) -> None:
        """Drop the value of a key, if it is held."""
        with self._lock:
            value = self._values.pop(key, None)
            if value is None:
                return
            self.held -= self._weight(value)
        self._on_evict(value)
