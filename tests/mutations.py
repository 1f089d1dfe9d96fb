"""Damage to files, as disks, cables, editors and other programs do it: small, seeded, and told in words."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

# What is written over a part of a binary file: extremes of whole numbers of 2, 4 and 8 bytes.
EXTREMES = tuple(
    value.to_bytes(size, order)
    for size in (2, 4, 8)
    for value in (0, 1, 2 ** (8 * size - 1) - 1, 2 ** (8 * size - 1), 2 ** (8 * size) - 1)
    for order in ("little", "big")
)
# What takes the place of a word or number of a text.
WORDS = (
    "", "0", "-1", "1e999", "NaN", "null", "true", "[]", "{}", "[[[", '"', "'", "\\", "\0", "é",
    "\ud83d\ude00", "99999999999999999999", "1" * 5000, "0.1e-400", "no", "..", "/", "~", "$HOME",
    "!!python/name:os.system", "&a [*a]", "\\ud800", "\\u0000", "\\0", "~nobody",
    "a" * 70_000, "[" * 50_000, '{"a":' * 50_000, ",", ":", "- ", "#", "\n", "\r", "\t",
)  # fmt: skip
TOKEN = re.compile(r"[\w.+-]+|\s+|.", re.DOTALL)
LONGEST = 64

Place = tuple[int, int]
"""Bytes from … to."""


def damaged(
    data: bytes, number: random.Random, *, text: bool, hot: Sequence[Place] = ()
) -> tuple[bytes, str]:
    """Return other bytes than `data`, and one line that says what was done to them.

    Args:
        data: content of a file, not empty.
        number: where chance comes from.
        text: whether words may be exchanged as well as bytes.
        hot: places that say how the rest is to be read; every other damage is done there.
    """
    ways: list[Callable[[bytes, random.Random, Place], tuple[bytes, str]]]
    ways = [_flip, _extreme, _zero, _cut, _double, _remove]
    if text:
        ways = [*ways, _word, _word, _swap, _without, _word, _swap]
    for _ in range(100):
        place = number.choice(hot) if hot and number.random() < 0.6 else (0, len(data))
        other, said = number.choice(ways)(data, number, place)
        if other != data:
            return other, said
    raise AssertionError("no damage changes these bytes")


def _flip(data: bytes, number: random.Random, place: Place) -> tuple[bytes, str]:
    out = bytearray(data)
    at = [number.randrange(*place) for _ in range(number.choice((1, 1, 4, 32)))]
    for i in at:
        out[i] ^= 1 << number.randrange(8)
    return bytes(out), f"bits flipped at {at[:4]}"


def _extreme(data: bytes, number: random.Random, place: Place) -> tuple[bytes, str]:
    value, at = number.choice(EXTREMES), number.randrange(*place)
    if number.random() < 0.7:
        at -= at % 2  # numbers lie at even places
    return data[:at] + value + data[at + len(value) :], f"{value.hex()} written at {at}"


def _zero(data: bytes, number: random.Random, place: Place) -> tuple[bytes, str]:
    start, stop = _part(number, place)
    return data[:start] + bytes(stop - start) + data[stop:], f"zeros from {start} to {stop}"


def _cut(data: bytes, number: random.Random, place: Place) -> tuple[bytes, str]:
    at = number.randrange(*place)
    return data[:at], f"cut at {at} of {len(data)}"


def _double(data: bytes, number: random.Random, place: Place) -> tuple[bytes, str]:
    start, stop = _part(number, place)
    return data[:stop] + data[start:], f"bytes {start} to {stop} doubled"


def _remove(data: bytes, number: random.Random, place: Place) -> tuple[bytes, str]:
    start, stop = _part(number, place)
    return data[:start] + data[stop:], f"bytes {start} to {stop} left out"


def _part(number: random.Random, place: Place) -> Place:
    start = number.randrange(*place)
    longest = number.choice((1, 8, LONGEST, max(LONGEST, (place[1] - place[0]) // 3)))
    return start, min(place[1], start + number.randint(1, longest))


def _word(data: bytes, number: random.Random, _: Place) -> tuple[bytes, str]:
    words = _words(data)
    at, word = number.choice(_spoken(words)), number.choice(WORDS)
    said = f"{words[at][:40]!r}, word {at}, is now {word[:20]!r} ({len(word)} characters)"
    words[at] = word
    return _bytes(words), said


def _swap(data: bytes, number: random.Random, _: Place) -> tuple[bytes, str]:
    words = _words(data)
    one, other = number.choice(_spoken(words)), number.choice(_spoken(words))
    words[one], words[other] = words[other], words[one]
    return _bytes(words), f"words {one} and {other} swapped, {words[one][:30]!r} and {words[other][:30]!r}"


def _without(data: bytes, number: random.Random, _: Place) -> tuple[bytes, str]:
    words = _words(data)
    at = number.choice(_spoken(words))
    return _bytes(words[:at] + words[at + 1 :]), f"word {at}, {words[at][:40]!r}, left out"


def _words(data: bytes) -> list[str]:
    return TOKEN.findall(data.decode("utf-8"))


def _spoken(words: list[str]) -> list[int]:
    return [i for i, word in enumerate(words) if not word.isspace()]


def _bytes(words: list[str]) -> bytes:
    return "".join(words).encode("utf-8", "surrogatepass")
