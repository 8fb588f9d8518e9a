# SPDX-License-Identifier: LGPL-2.1-only
"""What shells complete: click asks these functions when somebody presses the tabulator."""

import click
from click.shell_completion import CompletionItem


def domains(context: click.Context, parameter: click.Parameter, start: str) -> list[CompletionItem]:
    """Numbers and names of the domains that run; none where xenstore does not answer."""
    from xlplug.dom0.domains import guests
    from xlplug.model.errors import XlplugError
    from xlplug.xen.store import XenStore

    try:
        with XenStore() as store:
            running = guests(store)
    except XlplugError:
        return []
    numbers = [CompletionItem(str(domid), help=name) for domid, name in running]
    names = [CompletionItem(name, help=f"domain {domid}") for domid, name in running if name]
    return [item for item in (*numbers, *names) if item.value.startswith(start)]


def files(context: click.Context, parameter: click.Parameter, start: str) -> list[CompletionItem]:
    """What the shell itself completes as a file."""
    return [CompletionItem(start, type="file")]


def domains_and_files(context: click.Context, parameter: click.Parameter, start: str) -> list[CompletionItem]:
    """A config or a running domain."""
    return [*domains(context, parameter, start), CompletionItem(start, type="file")]
