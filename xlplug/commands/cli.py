# SPDX-License-Identifier: LGPL-2.1-only
"""The command line, for click: options and help here, what a command does is in its own file."""

import os
from collections.abc import Callable
from typing import Any

import click

from xlplug import __version__
from xlplug.commands import cli_hook
from xlplug.commands.click_group import Xlplug, run_and_exit, text_or_json
from xlplug.commands.completion import domains, domains_and_files, files

__all__ = ["main"]

_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 80}


@click.group(cls=Xlplug, context_settings=_SETTINGS)
@click.version_option(__version__, prog_name="xlplug", message="%(prog)s %(version)s")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing on standard output.")
@click.option("-v", "--verbose", is_flag=True, help="Also print what Xen's libraries say.")
def main(quiet: bool, verbose: bool) -> None:
    """Grant legacy VGA, OpRegion and VBIOS rights to Xen guests.

    They go to HVM guests and their stubdomains, so that a device model needs
    no rights of its own.

    \b
    Exit status: 0 done, or nothing to do
                 1 refused, nothing was touched
                 2 wrong use
                 3 failed, everything is undone
                 4 failed, not everything could be undone
    """  # noqa: D301 - click wants the character, not the two
    if quiet:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if verbose:
        from xlplug.xen.lib import QuietLogger

        QuietLogger.verbose = True


for _command in cli_hook.COMMANDS:
    main.add_command(_command)

_map_legacy = click.option(
    "--map-legacy",
    is_flag=True,
    help="Also map the VGA set 1:1, for a device model that does not (as xlplug_map_legacy=1 in the config).",
)


def _output(help_text: str) -> Callable[[Any], Any]:
    return click.option(
        "-o", "--output", shell_complete=files, metavar="FILE", default="-", show_default=True, help=help_text
    )


@main.command("grant")
@click.argument("domain", shell_complete=domains, metavar="DOMAIN")
@click.option(
    "--config",
    shell_complete=files,
    metavar="FILE",
    help="The domain's xl config; else libxl's own record of it is used.",
)
@click.option(
    "--recorded", shell_complete=files, metavar="DIR", help="Work on a recorded domain, in memory; no Xen is needed."
)
@click.option("--dry-run", is_flag=True, help="Print the plan and change nothing.")
@text_or_json
@_map_legacy
def grant_(domain: str, config: str | None, recorded: str | None, dry_run: bool, form: str, map_legacy: bool) -> None:
    """Grant the legacy VGA ranges to a domain and to its stubdomain.

    DOMAIN is a domid or a name, as for xl. What is granted depends on the
    domain's display: see 'xlplug plan'.
    """
    from xlplug.commands.grant import GrantOptions, grant

    run_and_exit(grant, GrantOptions(domain, config, recorded, dry_run, map_legacy, form))


@main.command("plan")
@click.argument("config", shell_complete=files, metavar="CONFIG")
@click.argument("extra", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--host", shell_complete=files, metavar="FILE", help="A recorded host, instead of this one.")
@click.option("--target", shell_complete=domains, metavar="DOMID", help="The guest's domid, where it is known already.")
@click.option("--stubdom", shell_complete=domains, metavar="DOMID", help="The domid of the guest's stubdomain.")
@text_or_json
@_map_legacy
def plan_(
    config: str,
    extra: tuple[str, ...],
    host: str | None,
    target: str | None,
    stubdom: str | None,
    form: str,
    map_legacy: bool,
) -> None:
    """Print what would be granted for a config, and why."""
    from xlplug.commands.plan import PlanOptions, plan

    run_and_exit(plan, PlanOptions(config, extra, host, target, stubdom, map_legacy, form))


@main.command("revoke")
@click.argument("domain", shell_complete=domains, metavar="DOMAIN")
@text_or_json
def revoke_(domain: str, form: str) -> None:
    """Take back all that was granted to a domain and its stubdomain.

    DOMAIN is a domid or a name, as for xl.
    """
    from xlplug.commands.revoke import revoke

    run_and_exit(revoke, domain, form)


@main.command("show")
@click.argument("domain", shell_complete=domains, metavar="[DOMAIN]", required=False)
@text_or_json
def show_(domain: str | None, form: str) -> None:
    """Compare what was granted with what Xen reports.

    For one domain, a domid or a name, or for all domains with grants.
    """
    from xlplug.commands.show import show

    run_and_exit(show, domain, form)


@main.command("abi")
@click.argument("program", shell_complete=files, metavar="[QEMU]", required=False)
@text_or_json
def abi_(program: str | None, form: str) -> None:
    """Show which ABI-unstable functions a device model imports.

    By default the one that xl starts. For each function: who owns its task
    now. Status 1 when it was built for another Xen than the running one.
    """
    from xlplug.commands.abi import abi

    run_and_exit(abi, program, form)


@main.command("config")
@click.argument("files", shell_complete=files, metavar="FILE...", nargs=-1, required=True)
def config_(files: tuple[str, ...]) -> None:
    """Parse xl configs as xl does; one JSON object a line."""
    from xlplug.commands.config import config

    run_and_exit(config, files)


@main.group()
def record() -> None:
    """Save a host or a domain as JSON, to plan with elsewhere."""


@record.command("host")
@_output("Where to; - is stdout.")
@click.option(
    "--vbt",
    shell_complete=files,
    metavar="FILE",
    help="Save the Intel display's Video BIOS Table; the host only if -o names a file.",
)
def record_host_(output: str, vbt: str | None) -> None:
    """Save this host: PCI functions, memory map, firmware headers."""
    from xlplug.commands.record import record_host

    run_and_exit(record_host, output, vbt)


@record.command("domain")
@click.argument("domain", shell_complete=domains, metavar="DOMAIN")
@click.option("-o", "--output", shell_complete=files, metavar="DIR", required=True, help="The folder to write.")
def record_domain_(domain: str, output: str) -> None:
    """Save a living domain, its host and its configuration."""
    from xlplug.commands.record import record_domain

    run_and_exit(record_domain, domain, output)


@main.command("doctor")
@click.argument("configs", shell_complete=files, metavar="[CONFIG]...", nargs=-1)
@text_or_json
@click.option("--strict", is_flag=True, help="Count warnings as failures.")
def doctor_(configs: tuple[str, ...], form: str, strict: bool) -> None:
    """Check this dom0, and configs: what is wrong, and what to do.

    Changes nothing. Exit status 1 when there is a failure.
    """
    from xlplug.commands.doctor import DoctorOptions, doctor

    run_and_exit(doctor, DoctorOptions(configs, form, strict))


@main.command("map")
@click.argument("what", metavar="CONFIG|DOMAIN", shell_complete=domains_and_files)
@click.argument("extra", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--host", shell_complete=files, metavar="FILE", help="A recorded host, instead of this one.")
@_output("FILE.svg or FILE.html; - is stdout.")
@click.option(
    "--format", "form", type=click.Choice(["text", "json", "svg", "html"]), help="Else by FILE's ending, or text."
)
def map_(what: str, extra: tuple[str, ...], host: str | None, output: str, form: str | None) -> None:
    """Draw which ports and memory a domain gets, and from whom.

    For a config, as planned; for a running domain, as granted and as Xen reports.
    """
    from xlplug.commands.map import MapOptions, map_

    run_and_exit(map_, MapOptions(what, extra, host, output, form or ""))


@main.command("audit")
@click.argument("folders", shell_complete=files, metavar="DIR...", nargs=-1, required=True)
@click.option("--format", "form", type=click.Choice(["text", "json", "html"]), default="text", show_default=True)
def audit_(folders: tuple[str, ...], form: str) -> None:
    """Judge recorded hosts and domains: which would start.

    Which are refused, which cannot run beside another domain, and which need
    xlplug, or break, on Xen 4.23.
    """
    from xlplug.commands.audit import AuditOptions
    from xlplug.commands.audit import audit_ as command

    run_and_exit(command, AuditOptions(folders, form))


@main.command("metrics")
@_output("Where to; - is stdout.")
def metrics_(output: str) -> None:
    """Print grants, refusals and hook times for Prometheus.

    In its text format, for the textfile collector of node_exporter.
    """
    from xlplug.commands.metrics import metrics

    run_and_exit(metrics, output)


@main.command("dm")
@click.argument("domain", metavar="DOMAIN")
@click.argument("devices", metavar="BDF[,vslot=NN]...", nargs=-1)
@click.option("--vslot", metavar="NN", help="The slot at which the guest sees the device; else a free one.")
@click.option("--adopt", is_flag=True, help="Take over a delegate whose supervisor has died; no BDF then.")
def dm_(domain: str, devices: tuple[str, ...], vslot: str | None, adopt: bool) -> None:
    """Be the device model of PCI functions of a running guest.

    Serves their config space and BARs through Xen's stable libraries alone:
    no interrupts, no DMA. Runs until it is stopped, or the guest ends.
    """
    from xlplug.commands.dm import DmOptions, dm

    run_and_exit(dm, DmOptions(domain, devices, vslot, adopt))


@main.command("verify")
@click.argument("domain", metavar="DOMAIN")
@text_or_json
def verify_(domain: str, form: str) -> None:
    """Compare a guest's BARs with what Xen and the host have.

    Status 1 when something is missing, or goes beyond what is recorded.
    """
    from xlplug.commands.verify import VerifyOptions, verify_command

    run_and_exit(verify_command, VerifyOptions(domain, form))
