"""Check that a page holds all that it shows, runs nothing, and can be read aloud."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

from wsi_seg.core.files import reason_of

# Attributes that make a browser fetch something, whatever element they stand on.
FETCHING = frozenset(
    {"src", "srcset", "poster", "data", "background", "action", "formaction", "ping", "xlink:href"}
)
# Elements that run, embed, send or redirect.
REFUSED = frozenset({"script", "iframe", "frame", "object", "embed", "link", "base", "form", "applet"})
FETCHING_STYLE = re.compile(r"url\s*\(|@import", re.IGNORECASE)


def check_page(path: Path) -> list[str]:
    """Return what is wrong with a page of this package, one line each; empty when all is well.

    It may fetch nothing: pictures are in it, links are relative, and there is no script. It must have a
    language, a title, one heading of the first rank and no skipped rank, a header in each table, and a text
    for each picture.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        return [f"{path}: cannot be read ({reason_of(error)})"]
    except UnicodeDecodeError:
        return [f"{path}: is not UTF-8 text"]
    reader = _Reader()
    reader.feed(text)
    reader.close()
    return [f"{path}: {problem}" for problem in (*reader.problems, *reader.missing())]


class _Reader(HTMLParser):
    """Notes problems as elements pass."""

    def __init__(self) -> None:
        super().__init__()
        self.problems: list[str] = []
        self._inside = ""
        self._language = self._title = ""
        self._ranks: list[int] = []
        self._headers: list[bool] = []
        """For each open table, True once it has a header."""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        self._inside = tag
        self.problems += [f"line {self.getpos()[0]}: {problem}" for problem in _faults(tag, values)]
        if tag == "html":
            self._language = values.get("lang", "")
        elif re.fullmatch("h[1-6]", tag):
            self._ranks.append(int(tag[1]))
        elif tag == "table":
            self._headers.append(False)
        elif tag == "th" and self._headers:
            self._headers[-1] = True

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""
        if tag == "table" and self._headers and not self._headers.pop():
            self.problems.append(f"line {self.getpos()[0]}: a table without a header")

    def handle_data(self, data: str) -> None:
        if self._inside == "title":
            self._title += data
        elif self._inside == "style" and FETCHING_STYLE.search(data):
            self.problems.append("the style sheet fetches something")

    def missing(self) -> Iterator[str]:
        """Yield what should have been there by the end."""
        if not self._language:
            yield "no language is given"
        if not self._title.strip():
            yield "no title"
        if self._ranks.count(1) != 1 or self._ranks[0] != 1:
            yield "not one heading of the first rank, at the beginning"
        if any(below - above > 1 for above, below in zip(self._ranks, self._ranks[1:], strict=False)):
            yield "a rank of headings is skipped"


def _faults(tag: str, values: dict[str, str]) -> Iterator[str]:
    if tag in REFUSED or (tag == "meta" and values.get("http-equiv", "").lower() == "refresh"):
        yield f"an element <{tag}>"
    for name, value in values.items():
        if name.startswith("on"):
            yield f"{name} on <{tag}> runs a script"
        if name in FETCHING and not value.startswith("data:image/"):
            yield f"{name} on <{tag}> fetches {value[:80]!r}"
        if name == "href" and (urlsplit(value).scheme or value.startswith(("/", "\\"))):
            yield f"<{tag}> leads out of its folder, to {value[:80]!r}"
        if name == "style" and FETCHING_STYLE.search(value):
            yield f"the style of <{tag}> fetches something"
    if tag == "img" and not values.get("alt", "").strip():
        yield "a picture without a text"
