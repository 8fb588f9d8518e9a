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
  --version   Show the version and exit.
  -h, --help  Show this message and exit.

Commands:
  abi      Show which ABI-unstable functions a device model imports.
  audit    Judge recorded hosts and domains: which would start, and which not.
  config   Parse xl configs as xl does; one JSON object a line.
  create   Do what xl create does, with the grants arranged.
  doctor   Check this dom0, and configs: what is wrong, and what to do.
  grant    Grant a domain, and its stubdomain, what its display needs.
  hook     Install, inspect or remove the hook into xl create.
  map      Draw which ports and memory a domain gets, and from whom.
  metrics  Print grants, refusals and hook times for Prometheus.
  plan     Print what would be granted for a config, and why.
  record   Save a host or a domain as JSON, to plan with elsewhere.
  restore  Do what xl restore does, with the grants arranged.
  revoke   Take back all that was granted to a domain and its stubdomain.
  show     Compare what was granted with what Xen reports.
  watch    Grant to domains as they appear, for stacks without the hook.
"""
