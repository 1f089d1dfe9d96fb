"""Print a page of the reference as Markdown, generated from the code.

    python scripts/make_reference.py cli         # commands and flags, from the typer app
    python scripts/make_reference.py settings    # settings of a run, from configs/run.yaml

`make docs` appends the pages to docs/cli.md and docs/settings.md.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from typer.main import get_command

from wsi_seg.cli import app

RUN_YAML = Path(__file__).resolve().parent.parent / "configs" / "run.yaml"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cli_page() -> str:
    """Return a section for each command: usage, help, arguments and options."""
    group: Any = get_command(app)
    return "\n\n".join(section for name, one in group.commands.items() for section in command(name, one))


def command(name: str, one: Any) -> Iterator[str]:
    """Yield the paragraphs of a command."""
    context = one.context_class(one, info_name=f"wsi-seg {name}")
    yield f"## wsi-seg {name}"
    yield f"```text\n{context.command.get_usage(context).removeprefix('Usage: ')}\n```"
    yield one.help.strip()
    records = [record for p in one.get_params(context) if (record := p.get_help_record(context))]
    yield table(("flag", "meaning"), ((f"`{names}`", meaning) for names, meaning in records))


def settings_page() -> str:
    """Return a table for each section of configs/run.yaml: key, default, meaning."""
    parts = re.split(r"^# --- (.+?) -+$", RUN_YAML.read_text(encoding="utf-8"), flags=re.M)
    sections = []
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        found = re.findall(r"^(\w+): (.+?) # (.+)$", body, flags=re.M)
        rows = ((f"`{key}`", f"`{value}`", meaning) for key, value, meaning in found)
        sections.append(f"## {title}\n\n{table(('key', 'default', 'meaning'), rows)}")
    return "\n\n".join(sections)


PAGES = {"cli": cli_page, "settings": settings_page}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", choices=list(PAGES))
    print(PAGES[parser.parse_args().page]())


if __name__ == "__main__":
    main()
