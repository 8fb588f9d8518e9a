# SPDX-License-Identifier: LGPL-2.1-only
"""The group of all commands, for click: help by task, an example for each, and wrong use in one line."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from xlplug.commands import common
from xlplug.dom0 import streams

__all__ = ["Group", "Xlplug", "run_and_exit", "text_or_json"]

text_or_json = click.option(
    "--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True, help="What to print."
)

_CODE = "XLP800"

#: The commands by task, in the order of the help, and an example for each.
TASKS = {
    "Plan": {
        "plan": "xlplug plan domain.cfg --host laptop.json",
        "map": "xlplug map domain.cfg -o domain.svg",
        "config": "xlplug config /etc/xen/*.cfg",
        "record": "xlplug record domain gpu -o gpu-recorded",
        "audit": "xlplug audit recordings/*",
    },
    "Grant": {
        "grant": "xlplug grant gpu --dry-run",
        "revoke": "xlplug revoke gpu",
        "show": "xlplug show",
    },
    "Hook": {
        "hook": "xlplug hook install",
        "create": "xlplug create domain.cfg",
        "restore": "xlplug restore domain.save",
        "watch": "xlplug watch",
    },
    "Delegate": {
        "dm": "xlplug dm gpu 03:00.0,vslot=1d",
        "verify": "xlplug verify gpu",
    },
    "Check": {
        "doctor": "xlplug doctor domain.cfg",
        "abi": "xlplug abi /usr/bin/qemu-system-i386",
        "metrics": "xlplug metrics -o /var/lib/prometheus/node-exporter/xlplug.prom",
    },
}


class Group(click.Group):
    """A misspelled command gets the one that was meant: Debian 12's click does not say."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the first word names."""
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            from difflib import get_close_matches

            meant = get_close_matches(args[0], self.list_commands(ctx), n=1)
            if meant:
                ctx.fail(f"No such command '{args[0]}'. Did you mean '{meant[0]}'?")
        return super().resolve_command(ctx, args)


class Xlplug(Group):
    """Wrong use is reported in one line, as everything else that goes wrong is."""

    group_class = Group

    def make_context(self, *args: Any, **options: Any) -> click.Context:  # noqa: ANN401 - click's own
        with _one_line_for_wrong_use():
            return super().make_context(*args, **options)

    def invoke(self, ctx: click.Context) -> object:
        with _one_line_for_wrong_use(ctx):
            return super().invoke(ctx)

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add it, with its example at the end of its help."""
        example = next((task[cmd.name] for task in TASKS.values() if cmd.name in task), "")
        if example:
            cmd.epilog = f"Example: {example}"
        super().add_command(cmd, name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands by task; one that `TASKS` lacks is at the end."""
        shown = {name: command for name, command in self.commands.items() if not command.hidden}
        listed = {name for names in TASKS.values() for name in names}
        others = {"Other commands": [name for name in shown if name not in listed]}
        longest = max(map(len, shown))
        for task, names in {**{task: list(names) for task, names in TASKS.items()}, **others}.items():
            texts = [(name, shown[name]) for name in names if name in shown]
            if texts:
                room = formatter.width - 6 - longest
                with formatter.section(task):
                    formatter.write_dl([(n.ljust(longest), c.get_short_help_str(room)) for n, c in texts])


@contextmanager
def _one_line_for_wrong_use(group: click.Context | None = None) -> Iterator[None]:
    """``group``: the context of all commands, which knows the command where the error does not."""
    try:
        yield
    except click.UsageError as error:
        if type(error).show is not click.UsageError.show:
            raise  # a command is missing, and click 8.2 shows the help for that
        command = f"xlplug {group.invoked_subcommand}" if group and group.invoked_subcommand else "xlplug"
        see = f"see '{error.ctx.command_path if error.ctx else command} --help'"
        text = error.format_message().replace(" Did you mean", ". Did you mean").replace("..", ".")  # Debian 12's click
        joined = f"{text} {see[0].upper()}{see[1:]}" if text.endswith("?") else f"{text.rstrip('.')}; {see}"
        streams.complain(f"{joined} [{_CODE}]")
        sys.exit(error.exit_code)


def run_and_exit(command: Callable[..., int], *args: object) -> None:
    """Run a command, and end this process with its exit code."""
    sys.exit(common.run(command, *args))
