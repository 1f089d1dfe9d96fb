"""Names that pages may show: a slide is called what its results are called.

The name of a file, and of the folders it lies in, may be that of a patient; who gave a slide another name did
not mean its file to be named on what is filed.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from wsi_seg.slides.slide import default_name

SHORTEST = 4


def file_name(path: str) -> str:
    """Return the last part of a path or URL, without a query, which may hold a key."""
    return path.split("?")[0].rstrip("/\\").rsplit("/", 1)[-1] if "://" in path else Path(path).name


def shown_file(path: str, name: str) -> str:
    """Return the name of the slide's file; "" where its results were given another name.

    Args:
        path: of the slide, or its URL.
        name: of the results, which may hold folders.
    """
    own = PurePosixPath(name).name
    return file_name(path) if own in (file_name(path), default_name(path)) else ""


def without_path(text: str, path: str, name: str) -> str:
    """Return a message without the folder of a slide, and with its name for that of a file not to be shown.

    Args:
        text: one line.
        path: of the slide, or its URL.
        name: of the results, which may hold folders.
    """
    shown = shown_file(path, name)
    text = text.replace(path, shown or name) if path else text
    # Shorter ones are words and numbers of the message more often than names.
    hidden = [] if shown else [one for one in (file_name(path), default_name(path)) if len(one) >= SHORTEST]
    for one in hidden:
        text = re.sub(rf"(?<!\w){re.escape(one)}(?!\w)", lambda _: name, text)
    return text
