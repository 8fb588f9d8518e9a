# SPDX-License-Identifier: LGPL-2.1-only
"""What click prints for ``xlplug --help``; tests/unit/commands/test_cli.py keeps it true."""

TEXT = """\
Usage: xlplug [OPTIONS] COMMAND [ARGS]...

  Grant legacy VGA, OpRegion and VBIOS rights to Xen guests.

  They go to HVM guests and their stubdomains, so that a device model needs no
  rights of its own.

  Exit status: 0 done, or nothing to do
               1 refused, nothing was touched
               2 wrong use
               3 failed, everything is undone
               4 failed, not everything could be undone

Options:
  --version      Show the version and exit.
  -q, --quiet    Print nothing on standard output.
  -v, --verbose  Also print what Xen's libraries say.
  -h, --help     Show this message and exit.

Plan:
  plan     Print what would be granted for a config, and why.
  map      Draw which ports and memory a domain gets, and from whom.
  config   Parse xl configs as xl does; one JSON object a line.
  record   Save a host or a domain as JSON, to plan with elsewhere.
  audit    Judge recorded hosts and domains: which would start.

Grant:
  grant    Grant the legacy VGA ranges to a domain and to its stubdomain.
  revoke   Take back all that was granted to a domain and its stubdomain.
  show     Compare what was granted with what Xen reports.

Hook:
  hook     Install, inspect or remove the hook into xl create.
  create   Run xl create, granting what the domain needs.
  restore  Run xl restore, granting what the domain needs.
  watch    Grant to domains as they appear, for stacks without the hook.

Delegate:
  dm       Be the device model of PCI functions of a running guest.
  verify   Compare a guest's BARs with what Xen and the host have.

Check:
  doctor   Check this dom0, and configs: what is wrong, and what to do.
  abi      Show which ABI-unstable functions a device model imports.
  metrics  Print grants, refusals and hook times for Prometheus.
"""
