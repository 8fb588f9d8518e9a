# SPDX-License-Identifier: LGPL-2.1-only
"""The command line of what runs for ``xl create`` and beside it, for click: see cli.py."""

import click

from xlplug.commands.click_group import Group, run_and_exit, text_or_json
from xlplug.commands.completion import files

__all__ = ["COMMANDS"]

_AS_XL = {"ignore_unknown_options": True, "allow_interspersed_args": False}


@click.command("create", context_settings=_AS_XL)
@click.argument(
    "words", shell_complete=files, metavar="CONFIG [KEY=VALUE]... [xl's options]", nargs=-1, type=click.UNPROCESSED
)
def create_(words: tuple[str, ...]) -> None:
    """Run xl create, granting what the domain needs.

    Everything that can be refused is refused before anything is created. A
    domain that needs no legacy range goes to xl unchanged.
    """
    from xlplug.hook import create

    run_and_exit(create.create, words)


@click.command("restore", context_settings=_AS_XL)
@click.argument("words", shell_complete=files, metavar="[CONFIG] FILE [xl's options]", nargs=-1, type=click.UNPROCESSED)
def restore(words: tuple[str, ...]) -> None:
    """Run xl restore, granting what the domain needs."""
    from xlplug.hook import create

    run_and_exit(create.restore, words)


@click.command("migrate-receive", context_settings=_AS_XL, hidden=True)
@click.argument("words", shell_complete=files, metavar="[xl's options]", nargs=-1, type=click.UNPROCESSED)
def receive(words: tuple[str, ...]) -> None:
    """Run xl migrate-receive, granting what the domain needs."""
    from xlplug.hook import create

    run_and_exit(create.receive, words)


@click.group(cls=Group)
def hook() -> None:
    """Install, inspect or remove the hook into xl create."""


_prefix = click.option(
    "--prefix",
    metavar="DIR",
    default="/usr/local",
    show_default=True,
    help="xl goes to DIR/sbin, the wrapper to DIR/lib/xlplug.",
)


@hook.command("install")
@_prefix
def hook_install(prefix: str) -> None:
    """Install the front end of xl and the device model wrapper."""
    from xlplug.hook import install

    run_and_exit(install.install, prefix)


@hook.command("status")
@click.argument("config", shell_complete=files, metavar="[CONFIG]", required=False)
@click.argument("extra", metavar="[KEY=VALUE]...", nargs=-1)
@text_or_json
def hook_status(config: str | None, extra: tuple[str, ...], form: str) -> None:
    """Show what xl create would run, here or for a config."""
    from xlplug.commands.hook import status

    run_and_exit(status, config, extra, form)


@hook.command("uninstall")
@_prefix
@click.option("--force", is_flag=True, help="Also while guests run that need it for their next reboot.")
def hook_uninstall(prefix: str, *, force: bool) -> None:
    """Remove exactly what was installed."""
    from xlplug.hook import install

    run_and_exit(lambda: install.uninstall(prefix, force=force))


@click.command()
@click.option("--map-legacy", is_flag=True, help="Also map the VGA set 1:1 for every display (see grant).")
def watch(map_legacy: bool) -> None:
    """Grant to domains as they appear, for stacks without the hook.

    Runs until SIGTERM or SIGINT; as a service: systemctl enable xlplug-watch.
    """
    from xlplug.watch.daemon import watch as serve

    run_and_exit(lambda: serve(map_legacy=map_legacy))


COMMANDS = (hook, create_, restore, receive, watch)
