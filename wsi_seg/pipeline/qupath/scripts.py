"""The Groovy scripts for QuPath, made of templates: settings at the top, code that all share at the end.

They use nothing of Groovy that came after 2.4, and of QuPath what is the same from 0.5 on.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Self

from wsi_seg import __version__
from wsi_seg.core.errors import OutputError, UsageError
from wsi_seg.core.files import atomic_path, writing

# Name of each script (not a digit first: Groovy makes a class of it), its template, and what it does.
SCRIPTS = (
    ("wsi_seg_1_run.groovy", "run", "run wsi-seg on the current image"),
    ("wsi_seg_2_import.groovy", "import", "import the results of the current image"),
    ("wsi_seg_3_import_project.groovy", "import_project", "import the results of all images of a project"),
)
MARK = "// Checksum of what follows: "
OWN = re.compile(r"// wsi-seg [^\n]*\n" + re.escape(MARK) + r"(?P<sum>[0-9a-f]{64})\n(?P<rest>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ScriptSettings:
    """Settings at the top of each script, where people may edit them."""

    program: tuple[str, ...]
    """Words that start wsi-seg; on a host, a shell reads them."""
    output: str = ""
    host: str = ""
    options: tuple[str, ...] = ()
    folders: tuple[tuple[str, str], ...] = ()
    """Folders of slides as QuPath has them, and as wsi-seg has them."""

    @classmethod
    def parse(cls, output: str, host: str, program: str, path_map: Sequence[str], config: str) -> Self:
        """Return the settings of words of a command line.

        Raises:
            UsageError: a host without a folder for results, a folder that is not HERE=THERE, a command whose
                quotes do not match, or settings that are not on this computer.
        """
        if host and not output:
            raise UsageError(f"--host {host}: give the folder of {host} that gets the results with --output")
        if host.startswith("-"):
            raise UsageError(f"--host {host}: no name of a computer")
        folders = tuple(_folder_pair(text) for text in path_map)
        if program:
            words = [program] if host else _words(program)
        else:
            words = ["wsi-seg"] if host else own_program()
        if config and not host and not Path(config).is_file():
            raise UsageError(f"--config {config}: no such file on this computer")
        if output and not host:
            output = str(Path(output).expanduser().absolute())
        options = [f"--config={config if host else Path(config).absolute()}"] if config else []
        return cls(tuple(words), output, host, tuple(options), folders)


def own_program() -> list[str]:
    """Return words that start this program from any folder and without a search path."""
    name = Path(sys.argv[0])
    found = shutil.which(name) if name.name == "wsi-seg" else None
    return [str(Path(found).absolute())] if found else [sys.executable, "-m", "wsi_seg.cli"]


def _words(program: str) -> list[str]:
    try:
        words = shlex.split(program)
    except ValueError as error:
        raise UsageError(f"--program {program}: {error}; quote it as in a shell") from error
    if not words:
        raise UsageError("--program: names no program")
    return words


def _folder_pair(text: str) -> tuple[str, str]:
    here, separator, there = text.partition("=")
    if not (here and separator and there):
        raise UsageError(f"--path-map {text}: write it as HERE=THERE, such as /mnt/slides=/data/slides")
    return here, there


def write_scripts(folder: Path, settings: ScriptSettings) -> list[Path]:
    """Write the scripts into a folder, which is made where it is missing, and return their paths.

    Raises:
        OutputError: a file of such a name is there that is not ours or was edited; or writing is refused.
    """
    texts = {folder / name: script_text(name, settings) for name, _, _ in SCRIPTS}
    with writing(folder):
        for path in texts:
            if path.exists() and not _is_untouched(path.read_bytes()):
                raise OutputError(
                    f"{path}: was edited, or is no script of wsi-seg; move it, or take another folder"
                )
        folder.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
    return list(texts)


def _is_untouched(content: bytes) -> bool:
    found = OWN.fullmatch(content.decode("utf-8", "replace"))
    return found is not None and found["sum"] == _sum(found["rest"])


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def script_text(name: str, settings: ScriptSettings) -> str:
    """Return the text of a script, by its file's name."""
    number, (_, template, about) = next((i, s) for i, s in enumerate(SCRIPTS, start=1) if s[0] == name)
    imports, own = _split(_template(template))
    shared_imports, shared = _split(_template("common"))
    head, _, work = own.partition("\n\n")
    rest = "\n".join(
        [
            head,
            "",
            *sorted({*imports, *shared_imports}),
            "",
            f"@Field final String VERSION = {groovy(__version__)}",
            *(["@Field final long PAUSE = 200 // ms between two looks at the buttons"] * (template == "run")),
            "",
            _settings_text(settings),
            "",
            work.strip(),
            "",
            shared.strip(),
            "",
        ]
    )
    return f"// wsi-seg {__version__}, script {number} of 3: {about}.\n{MARK}{_sum(rest)}\n{rest}"


def _template(name: str) -> str:
    return files(__package__).joinpath("templates", f"{name}.groovy").read_text(encoding="utf-8")


def _split(text: str) -> tuple[list[str], str]:
    """Return the imports of a template, and the rest."""
    lines = text.splitlines()
    imports = [line for line in lines if line.startswith("import ")]
    return imports, "\n".join(line for line in lines if not line.startswith("import ")).strip()


def _settings_text(settings: ScriptSettings) -> str:
    return "\n".join(
        [
            "// ---- Settings: change them where they do not fit, then save this file ----",
            "@Field final Map SETTINGS = [",
            "    // The program wsi-seg, as a list of words.",
            f"    program: {_groovy_list(settings.program)},",
            "    // Computer that runs it, as ssh knows it; '' for this one.",
            f"    host: {groovy(settings.host)},",
            "    // Folder for the results, there; '' for the folder wsi_seg next to the project.",
            f"    output: {groovy(settings.output)},",
            "    // More options of wsi-seg run, such as '--model=NAME' or '--groups=tumor,stroma'.",
            f"    options: {_groovy_list(settings.options)},",
            "    // Folders that have another name there, such as ['C:/slides': '/data/slides'].",
            f"    folders: {_groovy_map(dict(settings.folders))},",
            "    // Replace regions of an earlier import without asking.",
            "    replace: false,",
            "]",
        ]
    )


def groovy(text: str) -> str:
    """Return a Groovy string literal; all but ASCII is escaped, whatever the file is read as."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    units = (escaped.encode("utf-16-be")[i : i + 2] for i in range(0, len(escaped.encode("utf-16-be")), 2))
    codes = [int.from_bytes(unit) for unit in units]
    return "'" + "".join(chr(c) if 32 <= c < 127 else f"\\u{c:04x}" for c in codes) + "'"


def _groovy_list(words: Sequence[str]) -> str:
    return f"[{', '.join(map(groovy, words))}]"


def _groovy_map(pairs: Mapping[str, str]) -> str:
    return f"[{', '.join(f'{groovy(k)}: {groovy(v)}' for k, v in pairs.items()) or ':'}]"
