# SPDX-License-Identifier: LGPL-2.1-only
"""Writes the manual pages: ``python3 packaging/man.py FOLDER``.

A command's page has its synopsis, description and options from click, so they cannot differ from ``--help``, and its
examples from docs/man/commands/COMMAND.scd.  Pages that are prose throughout are docs/man/NAME.SECTION.scd.  scdoc(1)
turns both into roff: its output is free of groff's warnings, and it is a single program without libraries.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[1]
PROSE = ROOT / "docs" / "man"
STATUS = """\
*0*
	Done, or nothing to do.

*1*
	Refused, nothing was touched.

*2*
	Wrong use.

*3*
	Failed, everything is undone.

*4*
	Failed, not everything could be undone: the message lists what is left.
"""


def main(folder: str) -> int:
    """Write every page into ``folder``; pages of before go."""
    from xlplug import __version__

    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    scdoc = shutil.which("scdoc")
    if scdoc is None:
        if any(out.glob("*.[1-9]")):  # a release has them
            sys.stdout.write(f"man: scdoc is not installed; the pages in {out} stay as they are\n")
            return 0
        sys.stderr.write("man: scdoc is not installed; install it (Debian and Fedora: scdoc)\n")
        return 1
    for old in out.glob("*.[1-9]"):
        old.unlink()
    epoch = os.environ.get("SOURCE_DATE_EPOCH", str(int(time.time())))
    for name, source in pages(__version__):
        env = {**os.environ, "SOURCE_DATE_EPOCH": epoch}
        done = subprocess.run([scdoc], input=source.encode(), capture_output=True, env=env, check=False)
        if done.returncode:
            sys.stderr.write(f"man: {name}: {done.stderr.decode().strip()}\n")
            return 1
        (out / name).write_bytes(done.stdout)
    return 0


def pages(version: str) -> Iterator[tuple[str, str]]:
    """Each page's file name, and its text for scdoc."""
    root = command_line()
    commands = {name: command for name, command in root.commands.items() if not command.hidden}
    for path in sorted(PROSE.glob("*.[1-9].scd")):
        name, section = path.stem.rsplit(".", 1)
        text = path.read_text().replace("@COMMANDS@", _list_of(commands)).replace("@STATUS@", STATUS.rstrip())
        yield path.stem, f'{name}({section}) "xlplug {version}" "xlplug"\n\n{text}'
    for name, command in sorted(commands.items()):
        yield f"xlplug-{name}.8", f'xlplug-{name}(8) "xlplug {version}" "xlplug"\n\n{_page(name, command)}'


def command_line() -> click.Group:
    """The group of all commands, wherever it is."""
    from xlplug.commands.cli import main as root

    return root


def _list_of(commands: dict[str, click.Command]) -> str:
    return "\n\n".join(f"*xlplug-{name}*(8)\n\t{_first(command)}" for name, command in sorted(commands.items()))


def _page(name: str, command: click.Command) -> str:
    prose = PROSE / "commands" / f"{name}.scd"
    parts = [f"# NAME\n\nxlplug-{name} - {_first(command, sentence=False)}", "# SYNOPSIS"]
    under = sorted(command.commands.items()) if isinstance(command, click.Group) else []
    for words, each in [(f"{name} {sub}", c) for sub, c in under] or [(name, command)]:
        parts.append(f"*xlplug {words}*{_synopsis(each)}")
    parts.append("# DESCRIPTION")
    parts.append(_text(command))
    for sub, each in under:
        parts += [f"## {name} {sub}", _text(each), *_options(each)]
    if not under:
        options = list(_options(command))
        parts += ["# OPTIONS", *options] if options else []
    parts.append(prose.read_text().strip())
    if "\n# EXIT STATUS\n" not in parts[-1]:
        parts.append(f"# EXIT STATUS\n\n{STATUS.rstrip()}")
    parts.append("# SEE ALSO\n\n*xlplug*(8), *xlplug-hook*(7), *xlplug.cfg*(5), *xl*(1), *xl.cfg*(5)")
    return "\n\n".join(parts) + "\n"


def _first(command: click.Command, *, sentence: bool = True) -> str:
    """The command's first sentence; for a NAME section not a sentence: no capital, no full stop."""
    text = (command.help or "").split("\n\n")[0].replace("\n", " ").strip()
    if not sentence:
        text = text.rstrip(".")
        text = text[:1].lower() + text[1:] if text[1:2].islower() else text
    return escape(text)


def _synopsis(command: click.Command) -> str:
    with click.Context(command) as context:
        words = command.collect_usage_pieces(context)
    pieces = []
    for word in words:
        # Metavariables are underlined; brackets, dots and what is written as it stands are not.
        pieces += [*re.findall(r"\[|\]|\.\.\.|\s+|[^\[\]\s.]+", word), " "]
    text = "".join(
        f"_{escape(piece)}_" if re.fullmatch(r"[A-Z=|-]+", piece) and piece.strip("-=|") else escape(piece)
        for piece in pieces
    )
    return f" {text.strip()}" if text.strip() else ""


def _text(command: click.Command) -> str:
    """The help as paragraphs; what click leaves as it is stays as it is here."""
    parts = []
    for paragraph in (command.help or "").split("\n\n"):
        if "\b" in paragraph:
            parts.append("```\n" + paragraph.replace("\b\n", "").rstrip() + "\n```")
        else:
            parts.append(escape(" ".join(paragraph.split())))
    return "\n\n".join(parts)


def _options(command: click.Command) -> Iterator[str]:
    with click.Context(command) as context:
        for parameter in command.params:
            record = parameter.get_help_record(context)
            if record is None or not any(record[1:]):  # click from 8.3 on has one for arguments, mostly empty
                continue
            names, text = record
            spelled = re.sub(r"(--?[\w-]+)", lambda m: f"*{m[1]}*", names) if names[:1] == "-" else f"_{escape(names)}_"
            spelled = re.sub(r"(?<=\* )(\[?[A-Za-z|\]]+)$", lambda m: f"_{m[1]}_", spelled)
            yield f"{spelled}\n\t{escape(text)}"


def escape(text: str) -> str:
    """Text in which scdoc finds no markup."""
    text = re.sub(r"([\\*`_~<>])", r"\\\1", text)
    return re.sub(r"^([#|.\[\]-])", r"\\\1", text, flags=re.MULTILINE)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main(sys.argv[1]))
