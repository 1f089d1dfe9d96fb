"""Write what is generated from the code: the docs' tables of settings and of commands, and configs/run.yaml.

python scripts/make_reference.py settings   Markdown: every setting of a run
python scripts/make_reference.py cli        Markdown: every command with its arguments and options
python scripts/make_reference.py yaml       configs/run.yaml
python scripts/make_reference.py card       Markdown: every field of a model card
"""

from __future__ import annotations

import argparse
import ast
import inspect
import itertools
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import typer.main

from wsi_seg.cli import app
from wsi_seg.core import card
from wsi_seg.core.settings import Setting
from wsi_seg.pipeline.settings import KEYS, SETTINGS

YAML_HEAD = """\
# A run, with every key at its default; made by: python scripts/make_reference.py yaml
#   wsi-seg run SLIDE... --config configs/run.yaml -o results
# A flag on the command line wins over this file, and this file over the defaults. Leave out what you do not
# change; an unknown key is an error. What was used is stored in manifest.json next to each result. Relative
# paths start in the working folder. null: not set.
"""
WIDTH = 108


def settings_markdown() -> str:
    """Return a table of settings for each part of a run."""
    lines = []
    for title, declared in _by_title(SETTINGS.values()):
        rows = [
            (f"`{s.name}`" if s.name in KEYS else "flag only",
             ", ".join(f"`{flag}`" for flag in (s.flag, s.short) if flag),
             s.type_text, f"`{s.default_text}`", ", ".join(s.limits), s.unit, s.help)
            for s in declared
        ]  # fmt: skip
        lines += [
            f"## {title}",
            "",
            *_table(("Key", "Flag", "Type", "Default", "Range", "Unit", "Help"), rows),
            "",
        ]
    return "\n".join(lines)


def cli_markdown() -> str:
    """Return a section for each command."""
    lines = []
    for words, command in every_command():
        context = command.context_class(command, info_name=words, parent=None)
        usage = " ".join(command.collect_usage_pieces(context))
        paragraphs = [" ".join(part.split()) for part in command.help.split("\n\n")]
        records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
        rows = [
            (f"`{' '.join(left.split())}`", " ".join(right.split())) for left, right in filter(None, records)
        ]
        lines += [f"## {words}", "", f"```text\n{words} {usage}\n```", ""]
        lines += [line for paragraph in paragraphs for line in (paragraph, "")]
        lines += [*_table(("Argument or option", "Help"), rows), ""]
    return "\n".join(lines)


def every_command() -> Iterator[tuple[str, Any]]:
    """Yield every command with the words that call it; a group comes before its commands."""
    yield from _below(typer.main.get_command(app), "wsi-seg")


def _below(group: Any, words: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        yield f"{words} {name}", command
        if hasattr(command, "commands"):
            yield from _below(command, f"{words} {name}")


def run_yaml() -> str:
    """Return a configuration that holds every key at its default, with its help above it."""
    lines = [YAML_HEAD]
    for title, declared in _by_title(KEYS.values()):
        lines.append(f"# --- {title} ".ljust(WIDTH, "-"))
        for s in declared:
            unit = f" {s.unit}" if s.unit else ""
            limits = "; ".join(f"{limit}{unit}" for limit in s.limits) or s.unit
            help_ = f"{s.help} [{limits}]" if limits else s.help
            lines += textwrap.wrap(help_, WIDTH, initial_indent="# ", subsequent_indent="# ")
            lines.append(f"{s.name}: {s.default_text}")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def card_markdown() -> str:
    """Return a table of fields for each part of a model card, with their docstrings."""
    lines = []
    for node in ast.parse(inspect.getsource(card)).body:
        if not isinstance(node, ast.ClassDef) or not hasattr(getattr(card, node.name), "model_fields"):
            continue
        rows = []
        for field, after in itertools.pairwise([*node.body, ast.Pass()]):
            if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
                continue
            told = after.value if isinstance(after, ast.Expr) else None
            text = str(told.value) if isinstance(told, ast.Constant) else ""
            default = "required" if field.value is None else _default(ast.unparse(field.value))
            rows.append(
                (
                    f"`{field.target.id}`",
                    f"`{ast.unparse(field.annotation)}`",
                    default,
                    " ".join(text.split()),
                )
            )
        if rows:
            about = " ".join((ast.get_docstring(node) or "").split())
            head = ("Field", "Type", "Default", "Meaning")
            lines += [f"## {node.name}", "", about, "", *_table(head, rows), ""]
    return "\n".join(lines)


def _default(text: str) -> str:
    """Return the default of a field as it stands in the source, and its limits."""
    match = re.fullmatch(r"Field\((.*)\)", text)
    parts = match[1] if match else text
    return f"`{parts}`".replace("default_factory=", "").replace("default=", "")


def _by_title(settings: Any) -> Iterator[tuple[str, list[Setting]]]:
    order = list(dict.fromkeys(s.title for s in settings))
    ordered = sorted(settings, key=lambda s: order.index(s.title))
    for title, declared in itertools.groupby(ordered, lambda s: s.title):
        yield title, list(declared)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return [lines[0], "|---" * len(head) + "|", *lines[1:]]


PAGES = {"settings": settings_markdown, "cli": cli_markdown, "yaml": run_yaml, "card": card_markdown}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("page", choices=PAGES)
    print(PAGES[parser.parse_args().page](), end="")
