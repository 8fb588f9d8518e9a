# SPDX-License-Identifier: LGPL-2.1-only
"""Writes what shells complete xlplug's command line with: ``python3 packaging/completion.py FOLDER``.

The scripts are click's own.  They ask xlplug, so that they know every option, and the domains that run.
"""

import sys
from pathlib import Path

import click
from click.shell_completion import get_completion_class


def main(folder: str) -> int:
    """Write bash/xlplug, zsh/_xlplug and fish/xlplug.fish into ``folder``, named as each shell looks for them."""
    for shell, name in (("bash", "xlplug"), ("zsh", "_xlplug"), ("fish", "xlplug.fish")):
        kind = get_completion_class(shell)
        if kind is None:
            sys.stderr.write(f"completion: this click knows nothing of {shell}\n")
            return 1
        complete = kind(click.Command("xlplug"), {}, "xlplug", "_XLPLUG_COMPLETE")
        out = Path(folder) / shell
        out.mkdir(parents=True, exist_ok=True)
        # Not source(): that looks for a bash on the machine that builds.
        (out / name).write_text((complete.source_template % complete.source_vars()).strip() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
