"""Words: American spelling, docstrings that open with a noun phrase or a verb, and no riddles."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
TEXTS = {".py", ".md", ".js", ".css", ".html", ".j2", ".yaml", ".toml", ".txt"}

# British beginnings and what they are here; in pieces, so that this file does not hold what it forbids.
BRITISH = re.compile(
    "|".join(
        start + rest
        for start, rest in (
            ("col", "our"), ("cent", "re(?!nch)"), ("gr", "ey"), ("tum", "our"), ("licen", "ce"),
            ("program", "me(?![dr])"), ("neighb", "our"), ("behavi", "our"), ("fav", "our"),
            ("(?:micro|nano|milli)met", "re"), ("anal", "ys(?:ed|ing|e(?!s))"), ("label", "l(?:ed|ing)"),
            ("(?:normal|quant|recogn|summar|raster|initial|serial|visual|organ)", "is(?:e|ed|es|ing|ation)"),
        )
    ),
    re.IGNORECASE,
)  # fmt: skip
# Where British spelling is meant: names that users write, and names of others.
MEANT = re.compile(
    r"TIA ?Centre|bcss_tumour|replace\(\"tumour\"|[\"'](?:[Tt]umours?|colour)[\"':]|Tumour:0|analyses"
)
OPENINGS = re.compile(r"(?:What|Whether|Who|Whose|Tells|Which|Why)\b")
QUOTED = re.compile(rf"[\"']\s*{OPENINGS.pattern}")
DIALECT = re.compile(r"\b(?:anew|is taken up|are taken up|once more|became of|end_if_told|let_go)\b")


def text_files() -> list[Path]:
    if not (REPOSITORY / ".git").exists() or shutil.which("git") is None:
        pytest.skip("no git checkout")
    done = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=True, text=True
    )
    paths = [REPOSITORY / name for name in done.stdout.split("\0") if name]
    skipped = {"CHANGELOG.md", "test_wording.py"}
    return [path for path in paths if path.suffix in TEXTS and path.is_file() and path.name not in skipped]


def docstrings(text: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of docstrings, those under attributes too."""
    for node in ast.walk(ast.parse(text)):
        value = node.value if isinstance(node, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield node.lineno, value.value.strip()


def wrong_words(text: str) -> list[str]:
    return [match[0] for match in (*BRITISH.finditer(MEANT.sub("", text)), *DIALECT.finditer(text))]


def test_spelling_is_american() -> None:
    found = [
        f"{path.relative_to(REPOSITORY)}:{number}: {word}"
        for path in text_files()
        for text in [path.read_text(encoding="utf-8")]
        if wrong_words(text)
        for number, line in enumerate(text.splitlines(), start=1)
        for word in wrong_words(line)
    ]
    assert found == []


def test_docstrings_open_with_a_noun_phrase_or_a_verb() -> None:
    found = [
        f"{path.relative_to(REPOSITORY)}:{number}: {text[:60]}"
        for path in text_files()
        if path.suffix == ".py"
        for source in [path.read_text(encoding="utf-8")]
        if QUOTED.search(source)  # few files are parsed
        for number, text in docstrings(source)
        if OPENINGS.match(text)
    ]
    assert found == []


@pytest.mark.parametrize(
    "word", ["Colour" + "s", "centre_" + "y", "normal" + "ised", "program" + "me", "gr" + "ey"]
)
def test_british_words_are_found(word: str) -> None:
    assert BRITISH.search(word)


@pytest.mark.parametrize(
    "word", ["programmer", "programmed", "analyses", "color", "optimistic", "labels", "concentrated"]
)
def test_american_words_are_not(word: str) -> None:
    assert not BRITISH.search(MEANT.sub("", word))
